"""Four gateways behind one name share nothing but the plan, and hold its shares together."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from melange_sky.planfile import dump_plan
from tests.gateway.bed import KEY, MODEL, split_plan
from tests.gateway.replica import Replica
from tests.gateway.test_command import Running

pytestmark = [pytest.mark.stack, pytest.mark.timeout(200)]

GATEWAYS, REQUESTS, LEFT = 4, 2000, 0.7


def test_four_processes_hold_the_shares_and_a_loss_of_two_costs_no_request(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(dump_plan(split_plan(left=LEFT, rate=100.0)), encoding="utf-8")
    asyncio.run(check(plan))


async def check(plan: Path) -> None:
    replicas = {name: await Replica(name, ttft_s=0.01).start() for name in ("small", "big")}
    backends = [f"--backend={name}={replica.url}" for name, replica in replicas.items()]
    arguments = (str(plan), *backends, "--gateways", str(GATEWAYS))
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        gateways = []
        for _ in range(GATEWAYS):
            running = await loop.run_in_executor(
                None, lambda: Running(*arguments, MELANGE_SKY_API_KEY=KEY)
            )
            gateways.append(running)
        client = await stack.enter_async_context(
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"})
        )
        served = await send(client, [g.url for g in gateways], REQUESTS)
        share = served["small"] / REQUESTS
        print(f"{GATEWAYS} gateways: {dict(served)}, share {share:.3f} planned {LEFT}")
        assert abs(share - LEFT) < 0.01
        for running in gateways[:2]:  # whoever balances over them takes them out; the rest go on
            assert await loop.run_in_executor(None, running.end) == 0
        served = await send(client, [g.url for g in gateways[2:]], 400)
        assert abs(served["small"] / 400 - LEFT) < 0.02
        for running in gateways[2:]:
            assert await loop.run_in_executor(None, running.end) == 0
    for replica in replicas.values():
        await replica.stop()


async def send(client: aiohttp.ClientSession, urls: list[str], count: int) -> Counter[str]:
    """Send requests to gateways at random, as a balancer does; who served them."""
    rng, served = random.Random(3), Counter[str]()
    limit = asyncio.Semaphore(32)

    async def one() -> None:
        body = {"model": MODEL, "prompt": "word " * 10, "max_tokens": 3}
        async with limit, client.post(f"{rng.choice(urls)}/v1/completions", json=body) as r:
            assert r.status == 200, await r.text()
            served[(await r.json())["served_by"]] += 1

    await asyncio.gather(*(one() for _ in range(count)))
    return served
