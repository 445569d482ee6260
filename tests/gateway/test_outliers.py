"""Whose fault a failure is: a request's own fails everywhere, a replica's fails where others serve."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter

import pytest

from tests.gateway.bed import FAST, Bed, bed, run, split_plan, together
from tests.gateway.replica import Replica


def now() -> float:
    return asyncio.get_running_loop().time()


def fleet(count: int, **over: float) -> dict[str, list[Replica]]:
    return {"small": [Replica(f"r{n}", **over) for n in range(count)]}  # type: ignore[arg-type]


async def clients(
    b: Bed, count: int, stop: asyncio.Event, pause_s: float, **body: object
) -> Counter:
    """Closed-loop clients until `stop`: what they got."""
    got: Counter[int] = Counter()

    async def one(n: int) -> None:
        while not stop.is_set():
            if n % 2:
                status, text = await b.stream(**body)  # type: ignore[arg-type]
                got[status if status != 200 or text.endswith("[DONE]\n\n") else -1] += 1
            else:
                got[(await b.complete(**body))[0]] += 1  # type: ignore[arg-type]
            await asyncio.sleep(pause_s)

    await together([one(n) for n in range(count)])
    return got


POISONS = ["error", "drop", "busy", "garbage", "empty"]


@pytest.mark.parametrize("poison", POISONS)
@run
async def test_poisonous_requests_take_nothing_from_the_good_ones(poison: str) -> None:
    replicas = fleet(2)
    for replica in replicas["small"]:
        replica.poison = poison
    async with bed(replicas, split_plan(left=1.0)) as b:
        stop = asyncio.Event()
        good = asyncio.create_task(clients(b, 20, stop, 0.02))
        bad = asyncio.create_task(clients(b, 10, stop, 0.02, user="poison"))
        await asyncio.sleep(1.5)
        assert all(x.healthy(now()) for x in b.gateway.fleet.backends), "nobody is left out"
        stop.set()
        served, refused = await good, await bad
        assert set(served) == {200} and served[200] > 30
        assert poison == "empty" or 200 not in refused


@run
async def test_one_failing_replica_of_four_is_out_at_once_and_costs_no_good_request() -> None:
    replicas = fleet(4)
    for replica in replicas["small"]:
        replica.poison = "error"
    async with bed(replicas, split_plan(left=1.0), dataclasses.replace(FAST, ejection_s=30)) as b:
        stop = asyncio.Event()
        good = asyncio.create_task(clients(b, 20, stop, 0.05))
        bad = asyncio.create_task(clients(b, 10, stop, 0.05, user="poison"))
        await asyncio.sleep(0.5)
        replicas["small"][1].mode = "error"
        failing = b.gateway.fleet.backends[1]
        await b.settled(lambda: failing.ejection.out, within_s=5.0)
        asked = len(replicas["small"][1].seen)
        await asyncio.sleep(0.5)
        assert len(replicas["small"][1].seen) <= asked + 3, "left out, but for the last resort"
        stop.set()
        assert set(await good) == {200}
        await bad


@run
async def test_never_more_than_a_part_is_left_out_and_the_rest_is_tried_before_giving_up() -> None:
    replicas = fleet(4)
    async with bed(replicas, split_plan(left=1.0), dataclasses.replace(FAST, ejection_s=30)) as b:
        for replica in replicas["small"][:3]:
            replica.mode = "error"
        answers = await together([b.complete() for _ in range(60)])
        backends = b.gateway.fleet.backends
        assert sum(x.ejection.out for x in backends) <= 2
        assert not backends[3].ejection.out
        served = Counter(status for status, _ in answers)
        assert served[200] >= 40, served
        for replica in replicas["small"][:3]:
            replica.mode = "ok"
        assert {(await b.complete())[0] for _ in range(8)} == {200}


@run
async def test_all_out_means_all_are_used() -> None:
    replicas = fleet(2)
    async with bed(replicas, split_plan(left=1.0)) as b:
        for replica in replicas["small"]:
            replica.healthy = False  # /health says no, requests are served all the same
        await b.settled(lambda: not any(x.healthy(now()) for x in b.gateway.fleet.backends))
        answers = [await b.complete() for _ in range(6)]
        assert {status for status, _ in answers} == {200}
        assert {body["served_by"] for _, body in answers} == {"r0", "r1"}


@run
async def test_after_its_time_one_request_at_a_time_tries_it() -> None:
    replicas = fleet(2)
    bad = replicas["small"][0]
    bad.mode = "error"
    async with bed(replicas, split_plan(left=1.0), dataclasses.replace(FAST, ejection_s=0.4)) as b:
        first = b.gateway.fleet.backends[0]
        await together([b.complete() for _ in range(20)])
        assert first.ejection.out
        bad.mode, bad.ttft_s, bad.seen = "ok", 0.3, []
        await asyncio.sleep(0.7)
        burst = [asyncio.create_task(b.complete()) for _ in range(20)]
        await asyncio.sleep(0.15)
        assert len(bad.seen) == 1, "a burst is not let through"
        assert {status for status, _ in await together(burst)} == {200}  # type: ignore[arg-type]
        assert not first.ejection.out, "it went well"
        bad.ttft_s = 0.0
        served = {(await b.complete())[1]["served_by"] for _ in range(8)}
        assert served == {"r0", "r1"}


@run
async def test_requests_in_flight_outlive_that_their_replica_is_left_out() -> None:
    replicas = fleet(2, itl_s=0.05)
    one = replicas["small"][0]
    async with bed(replicas, split_plan(left=1.0), dataclasses.replace(FAST, ejection_s=30)) as b:
        one.ttft_s = 0.8
        waiting = [asyncio.create_task(b.complete(max_tokens=2)) for _ in range(4)]
        streams = [asyncio.create_task(b.stream(max_tokens=30)) for _ in range(4)]
        await b.settled(lambda: one.running == 4)
        one.mode = "error"
        await together([b.complete(max_tokens=1) for _ in range(30)])
        assert b.gateway.fleet.backends[0].ejection.out
        for status, _ in await together(waiting):  # type: ignore[arg-type]
            assert status == 200
        for status, text in await together(streams):  # type: ignore[arg-type]
            assert (status, text.endswith("[DONE]\n\n")) == (200, True)
        assert await b.metric("melange_gateway_attempt_failures_total", kind="unhealthy") == 0


@pytest.mark.parametrize("stream", [True, False])
@run
async def test_an_answer_that_dribbles_is_asked_for_elsewhere(stream: bool) -> None:
    replicas = fleet(2)
    replicas["small"][0].mode = "dribble"
    settings = dataclasses.replace(FAST, event_s=0.3)
    async with bed(replicas, split_plan(left=1.0), settings) as b:
        if stream:
            answers = await together([b.stream() for _ in range(6)])
            assert all(text.endswith("[DONE]\n\n") for _, text in answers)
        else:
            answers = await together([b.complete() for _ in range(6)])
            assert {body["served_by"] for _, body in answers} == {"r1"}


@run
async def test_retries_are_paced_not_lost() -> None:
    replicas = fleet(2)
    replicas["small"][0].mode = "error"
    settings = dataclasses.replace(
        FAST, retries_least=2, retry_share=0.0, queue_wait_s=20.0, outlier_volume=1000
    )
    async with bed(replicas, split_plan(left=1.0), settings) as b:
        replicas["small"][1].ttft_s = 0.05
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, b.gateway.proxy.retries.taken)
                await asyncio.sleep(0.005)

        watching = asyncio.create_task(watch())
        answers = await together([b.complete() for _ in range(30)])
        watching.cancel()
        assert {status for status, _ in answers} == {200}
        assert most == 2
        assert b.gateway.proxy.retries.taken == 0
