"""SkyServe's own balancer, as SkyPilot ships it, while its controller names no replica for a while."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import aiohttp

from tests.gateway.bed import FAST, Bed, bed, run, split_plan, together
from tests.gateway.replica import Replica
from tests.haproxy.bed import free_port
from tests.loopback import answering
from tests.machine import slowness

BALANCER = """
import sys
from sky.serve import constants, load_balancer
constants.LB_CONTROLLER_SYNC_INTERVAL_SECONDS = 0.2
load_balancer.run_load_balancer(sys.argv[1], int(sys.argv[2]), "round_robin")
"""
VACANT_S = 6.0
"""Longer than the balancer tries a request for, as its real gaps are: it asks its controller every 20 seconds."""

PATIENT = dataclasses.replace(FAST, probe_s=2.0, answer_s=20.0, queue_wait_s=15.0)


@contextlib.contextmanager
def balancer(ready: list[str]) -> Iterator[str]:
    """Run SkyServe's balancer over the replicas that `ready` names at the moment; yield its address."""

    def sync(_: BaseHTTPRequestHandler) -> tuple[int, bytes]:
        return 200, json.dumps({"replica_info": {url: {} for url in ready}}).encode()

    port = free_port()
    with answering(sync, "application/json") as controller:
        process = subprocess.Popen(
            [sys.executable, "-c", BALANCER, controller, str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


async def asked_for(b: Bed, seconds: float) -> list[tuple[int, float]]:
    """Ask by ten clients for so long; return every answer's status and how long it took."""
    loop = asyncio.get_running_loop()
    end_s, answers = loop.time() + seconds, []

    async def client(n: int) -> None:
        await asyncio.sleep(0.05 * n)
        while (began_s := loop.time()) < end_s:
            status, _ = await b.complete()
            answers.append((status, loop.time() - began_s))
            await asyncio.sleep(0.1)

    await together([client(n) for n in range(10)])
    return answers


async def found(url: str) -> None:
    """Wait until the balancer is there and knows its replica."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + 60 * slowness()
    limit = aiohttp.ClientTimeout(total=2)  # it may lose what it gets before it has a replica
    async with aiohttp.ClientSession(timeout=limit) as client:
        while loop.time() < end_s:
            with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
                async with client.get(f"{url}/health") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.2)
    raise AssertionError("the balancer does not serve")


@run
async def test_no_request_is_lost_while_the_balancer_has_no_replica() -> None:
    replica = await Replica("one").start()
    ready = [replica.url]
    try:
        with balancer(ready) as url:
            await found(url)
            async with bed({}, split_plan(), PATIENT) as b:
                b.backends["small"] = b.backends["big"] = [url]
                b.gateway.reload()
                await b.settled(
                    lambda: [x.answers_probes for x in b.gateway.fleet.backends] == [True] * 2
                )
                asking = asyncio.create_task(asked_for(b, VACANT_S + 4))
                await asyncio.sleep(0.5)
                ready.clear()
                await asyncio.sleep(VACANT_S)
                ready.append(replica.url)
                answers = await asking
                assert await b.metric("melange_gateway_attempt_failures_total", kind="vacant") > 0
                # With the balancer's connections, which the bed would take for its own.
                await replica.stop()
    finally:
        await replica.stop()
    assert {status for status, _ in answers} == {200}
    assert max(took_s for _, took_s in answers) < 0.8 * PATIENT.answer_s, "one was never answered"
