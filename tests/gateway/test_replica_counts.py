"""Replicas' own counts of their prefix caches in the gateway's metrics: sums over restarts, and never a fault."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from yarl import URL

from melange_sky.engines import DEFAULT_ENGINE, EngineChoice
from melange_sky.gateway.backend import Backend
from melange_sky.gateway.metrics import Metrics
from melange_sky.gateway.replica_counts import KINDS, MOST_PAGE_BYTES, ReplicaCounts, read_counts
from melange_sky.plans import Plan
from melange_sky.plans.reuse import PlannedReuse
from tests.gateway.bed import FAST, Bed, bed, run, split_plan
from tests.gateway.replica import Replica

NAMES = {name: KINDS[short] for name, short in DEFAULT_ENGINE.metrics.items() if short in KINDS}
OFTEN = replace(FAST, counts_every_s=0.05)
METRIC = "melange_gateway_replica_prefix_tokens_total"


def warm_plan(**over: object) -> Plan:
    plan = split_plan()
    reuse = PlannedReuse(affinity="off", hits=())
    return replace(plan, models=(replace(plan.models[0], **({"reuse": reuse} | over)),))  # type: ignore[arg-type]


def page(asked: float, found: float, engine: str = "0") -> bytes:
    """A page of vLLM's form."""
    labels = f'{{engine="{engine}",model_name="a {{b}} 7"}}'
    return (
        "# HELP vllm:prefix_cache_queries_total Prefix cache queries, in tokens.\n"
        "# TYPE vllm:prefix_cache_queries_total counter\n"
        f"vllm:prefix_cache_queries_total{labels} {asked}\n"
        f"vllm:prefix_cache_queries_created{labels} 1.7e+09\n"
        f"vllm:prefix_cache_hits_total{labels} {found}\n"
    ).encode()


def test_engines_of_a_replica_count_together_and_odd_pages_say_nothing() -> None:
    assert read_counts(page(96.0, 32.0) + page(4, 0, "1"), NAMES) == {"asked": 100, "found": 32}
    assert read_counts(page(1.5e6, 2, "0"), NAMES) == {"asked": 1.5e6, "found": 2}
    for odd in (b"", b"\xff\xfe", page(float("nan"), 1), page(float("inf"), 1), page(5, -1)):
        assert read_counts(odd, NAMES) is None
    half = b"".join(line for line in page(5, 1).splitlines(True) if b"_hits_" not in line)
    assert read_counts(half, NAMES) is None


def test_sums_begin_at_the_first_look_and_go_on_over_restarts() -> None:
    metrics = Metrics()
    counts = ReplicaCounts(metrics)
    backend = Backend(FAST, "chat", "small", URL("http://10.0.0.1:8000"), 1)
    looks = [(1000, 400), (1300, 500), None, (1300, 500), (200, 50), (260, 50), (250, 90)]
    for look in looks:
        counts.take(backend, None if look is None else dict(zip(KINDS.values(), look, strict=True)))
    sums = {labels[-1]: value for labels, value in metrics.replica_prefix.values.items()}
    # 300 more, then a restart (200), 60 more, and another one (250), by the count that fell
    assert sums == {"asked": 300 + 200 + 60 + 250, "found": 100 + 50 + 0 + 90}
    assert all(
        labels[:3] == ("chat", "small", "http://10.0.0.1:8000")
        for labels in metrics.replica_prefix.values
    )


async def counted(b: Bed, replica: Replica, kind: str) -> float:
    return await b.metric(METRIC, replica=replica.url, kind=kind)


async def looked(b: Bed, replica: Replica) -> None:
    """Wait until a page that is there now has been read."""
    before = replica.looks
    await b.settled(lambda: replica.looks >= before + 2)


@run
async def test_the_gateway_tells_what_each_replica_found_by_its_own_count() -> None:
    small, big = Replica("small"), Replica("big")
    small.page, big.page = page(500, 100), page(0, 0)
    async with bed({"small": [small], "big": [big]}, warm_plan(), OFTEN) as b:
        await looked(b, small)
        await looked(b, big)
        assert (await counted(b, small, "asked"), await counted(b, small, "found")) == (0, 0)
        small.page, big.page = page(800, 250), page(40, 16)
        await looked(b, small)
        await looked(b, big)
        assert (await counted(b, small, "asked"), await counted(b, small, "found")) == (
            300,
            150,
        )
        assert await b.metric(METRIC, option="big", kind="found") == 16
        b.backends["small"].append("http://127.0.0.1:9")
        b.backends["big"].clear()
        b.gateway.reload()
        await b.settled(lambda: len(b.gateway.fleet.backends) == 2)
        await looked(b, small)
        assert await b.metric(METRIC, option="big") == 0
        assert await counted(b, small, "asked") == 300


@pytest.mark.parametrize(
    "bad", [None, b"x" * (MOST_PAGE_BYTES + 1), page(1, 1) + b"y" * MOST_PAGE_BYTES, b"\x00\xff"]
)
@run
async def test_a_page_that_cannot_be_had_is_no_fault_of_the_replica(bad: bytes | None) -> None:
    small, big = Replica("small"), Replica("big")
    small.page = bad
    async with bed({"small": [small], "big": [big]}, warm_plan(), OFTEN) as b:
        await looked(b, small)
        assert await b.metric(METRIC) == 0
        assert await b.metric("melange_gateway_healthy_backends") == 2
        assert (await b.complete())[0] == 200
        small.page = page(5, 5)
        await looked(b, small)
        small.page = page(9, 6)
        await looked(b, small)
        assert (await counted(b, small, "asked"), await counted(b, small, "found")) == (4, 1)


@run
async def test_a_page_that_does_not_come_is_given_up_and_the_others_are_read() -> None:
    small, big = Replica("small"), Replica("big")
    small.page = big.page = page(1, 1)
    small.page_s = 60.0
    settings = replace(OFTEN, probe_s=0.2)
    async with bed({"small": [small], "big": [big]}, warm_plan(), settings) as b:
        await looked(b, big)
        big.page = page(3, 2)
        await looked(b, big)
        assert (await counted(b, big, "asked"), await counted(b, big, "found")) == (2, 1)
        assert small.looks >= 2
        assert await b.metric("melange_gateway_healthy_backends") == 2
        assert (await b.complete())[0] == 200


@pytest.mark.parametrize(
    "plan",
    [
        warm_plan(reuse=None),
        warm_plan(engine=EngineChoice(args=("--no-enable-prefix-caching",))),
        warm_plan(engine=EngineChoice(name="sglang")),
    ],
)
@run
async def test_nobody_is_asked_where_nothing_is_counted_on(plan: Plan) -> None:
    small, big = Replica("small"), Replica("big")
    small.page = big.page = page(1, 1)
    async with bed({"small": [small], "big": [big]}, plan, OFTEN):
        await asyncio.sleep(0.3)
        assert small.looks == big.looks == 0


@run
async def test_an_endpoint_for_several_replicas_is_left_alone() -> None:
    small, big = Replica("small"), Replica("big")
    small.page = big.page = page(1, 1)
    async with bed({"small": [small], "big": [big]}, warm_plan(), OFTEN) as b:
        b.backends["big"][0] += "*3"
        b.gateway.reload()
        await looked(b, small)
        before = big.looks
        await looked(b, small)
        assert big.looks == before


def test_workers_that_read_the_same_replica_do_not_add_up() -> None:
    whole = Metrics()
    for count in (300.0, 280.0):
        one = Metrics()
        one.replica_prefix.add("chat", "small", "http://10.0.0.1:8000", "asked", amount=count)
        whole.merge(one.state())
    assert list(whole.replica_prefix.values.values()) == [300.0]
