"""The exported plan in Debian's HAProxy: several that share nothing, chaos, and a reload among them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from melange_sky.planner.haproxy_export import export_haproxy
from melange_sky.planner.serving import ServeOptions
from melange_sky.rendering.haproxy.limits import ATTEMPTS
from tests.gateway.bed import KEY, split_plan, together
from tests.gateway.replica import Replica
from tests.haproxy.bed import free_port, needs_haproxy, proxy_bed
from tests.stack.chaos import GOOD_ID, Chaos
from tests.stack.test_gateways import send

pytestmark = [pytest.mark.stack, pytest.mark.timeout(500), needs_haproxy]

PROXIES, REQUESTS, LEFT = 4, 2000, 0.7


class ProxyChaos(Chaos):
    """The chaos of the gateway, but for faults that HAProxy passes on (`help haproxy`)."""

    faults = ("error", "busy", "deny", "drop", "die", "noise", "gone", "ok")
    poisons = ("error", "drop", "busy", "reject", "tell")
    ends = -signal.SIGTERM

    def __init__(self, log: Path, seconds: float) -> None:
        super().__init__(seconds=seconds, rate_rps=28.0)
        self.log = log

    @property
    def tried_out(self) -> int:
        """Good requests that were refused, or got a replica's own refusal, after all tries: by the proxy's log."""
        logged = [
            json.loads(line) for line in self.log.read_text("utf-8").splitlines() if line[:1] == "{"
        ]
        good = [line for line in logged if line["id"].startswith(GOOD_ID)]
        return sum(line["status"] != 200 and line["attempts"] == ATTEMPTS for line in good)

    async def _gateway(self, folder: Path) -> asyncio.subprocess.Process:
        port = free_port()
        options = ServeOptions(backends=self.backends, port=port, first_byte_s=5.0)
        exported = export_haproxy(split_plan(left=0.7, rate=100.0), options, folder / "out")
        log = self.log.open("wb")
        process = await asyncio.create_subprocess_exec(
            *("haproxy", "-db", "-f", str(exported.config)),
            env=os.environ | {"MELANGE_SKY_API_KEY": KEY},
            stdout=log,
            stderr=asyncio.subprocess.PIPE,
        )
        log.close()
        self.url = f"http://127.0.0.1:{port}"
        await answering(self.url)
        return process

    def _was_cut(self, text: bytes) -> bool:
        return text.startswith(b"data: ")


async def answering(url: str) -> None:
    async with aiohttp.ClientSession() as client:
        for _ in range(200):
            try:
                async with client.get(f"{url}/health") as r:
                    if r.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
    raise AssertionError("HAProxy did not start")


def test_a_minute_of_chaos_loses_only_what_ran_out_of_replicas_to_try(tmp_path: Path) -> None:
    """Five of eight replicas fail and a request is tried at four: now and then all four are among them."""
    seconds = float(os.environ.get("CHAOS_SECONDS", "60"))
    chaos = ProxyChaos(tmp_path / "log", seconds)
    report = asyncio.run(chaos.run())
    print(report)
    assert report.lost == chaos.tried_out <= 0.01 * sum(report.good.values()), report.good
    assert report.good["served"] > 0.6 * seconds * 28 * 0.75
    assert report.good["cut"] < 0.1 * sum(report.good.values())
    assert "runtime error" not in report.log, report.log[-2000:]
    assert report.files[-1] <= report.files[0] + 40


def test_four_that_share_nothing_hold_the_shares_and_a_loss_of_two_costs_no_request(
    tmp_path: Path,
) -> None:
    asyncio.run(several(tmp_path))


async def several(folder: Path) -> None:
    replicas = {name: await Replica(name, ttft_s=0.01).start() for name in ("small", "big")}
    backends = [f"{name}={replica.url}" for name, replica in replicas.items()]
    started, urls = [], []
    for n in range(PROXIES):
        port = free_port()
        options = ServeOptions(backends=backends, port=port, gateways=PROXIES)
        exported = export_haproxy(split_plan(left=LEFT, rate=100.0), options, folder / str(n))
        environment = {"MELANGE_SKY_API_KEY": KEY, "MELANGE_SKY_INSTANCE": str(n)}
        started.append(
            await asyncio.create_subprocess_exec(
                *("haproxy", "-W", "-db", "-f", str(exported.config)),
                env=os.environ | environment,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        )
        urls.append(f"http://127.0.0.1:{port}")
        await answering(urls[-1])
    try:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as client:
            served = await send(client, urls, REQUESTS)
            chi2 = chi_square(served)
            print(f"{PROXIES} proxies: {dict(served)}, planned {LEFT}, chi square {chi2:.2f}")
            assert chi2 < 10.83
            for process in started[:2]:
                process.terminate()
                await process.wait()
            assert abs((await send(client, urls[2:], 400))["small"] / 400 - LEFT) < 0.02
    finally:
        for process in started[2:]:
            process.terminate()
            await process.wait()
        for replica in replicas.values():
            await replica.stop()


def chi_square(served: Counter[str]) -> float:
    want = {"small": REQUESTS * LEFT, "big": REQUESTS * (1 - LEFT)}
    return sum((served[name] - expected) ** 2 / expected for name, expected in want.items())


def test_reloads_among_four_thousand_requests_lose_none(tmp_path: Path) -> None:
    asyncio.run(reloads(tmp_path))


async def reloads(folder: Path) -> None:
    rng = random.Random(2)
    replicas = {
        "small": [Replica("a", itl_s=0.002), Replica("x", "error")],
        "big": [Replica("b", itl_s=0.002), Replica("c", itl_s=0.002)],
    }
    async with proxy_bed(folder, replicas, force_close=False) as b:
        got: Counter[object] = Counter()
        left = 4000

        async def client(stream: bool) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                status, text = await (b.stream() if stream else b.complete())
                whole = not stream or str(text).endswith("data: [DONE]\n\n")
                got[status if whole else "cut"] += 1

        clients = [asyncio.create_task(client(n % 2 == 0)) for n in range(16)]
        times = 0
        while not all(task.done() for task in clients):
            b.export(split_plan(left=rng.random(), instances=1 + times % 2))
            await b.reload()
            times += 1
            await asyncio.sleep(0.2)
        await together(clients)  # type: ignore[arg-type]
        print(f"{dict(got)} over {times} reloads")
        assert got == {200: 4000} and times > 3
