"""Sources over real HTTP: a real gateway with real replicas behind it, and pages that tell lies."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from melange_sky.errors import InputError
from melange_sky.gateway import Listen
from melange_sky.planner.observed_file import ObservedFile
from melange_sky.planner.watching.sources.counting import STILL_S
from melange_sky.planner.watching.sources.gateway import NAMES, GatewaySource
from melange_sky.planner.watching.sources.observed_file import ObservedSource
from melange_sky.planner.watching.sources.prometheus import PrometheusSource
from melange_sky.planner.watching.sources.replicas import ReplicaSource
from melange_sky.planner.watching.sources.together import Together
from melange_sky.profiler.prometheus import Prometheus
from melange_sky.slo import SLO
from melange_sky.watching.seen import Seen
from tests.gateway.bed import FAST, KEY, bed, run, split_plan, together
from tests.gateway.replica import Replica
from tests.learning.kept import prometheus
from tests.learning.pages import ENGINE, page_of
from tests.learning.test_scraping import LOOK
from tests.loopback import answering

LONG = 120
LIMITS = SLO(ttft_s=0.25, tpot_s=0.1)


def plan_within(limits: SLO = LIMITS, **asked: float) -> Any:
    plan = split_plan(**asked)
    (model,) = plan.models
    return dataclasses.replace(plan, models=(dataclasses.replace(model, slo=limits),))


class Clock:
    """Both clocks of a source, moved by hand; `set_s` moves the one that people set."""

    def __init__(self) -> None:
        self.steady_s, self.off_s = 0.0, 1.8e9

    def time(self) -> float:
        return self.steady_s + self.off_s

    def steady(self) -> float:
        return self.steady_s


def source_of(urls: list[str], clock: Clock, **over: Any) -> GatewaySource:
    plan = over.pop("plan", split_plan())
    return GatewaySource(
        urls=urls, plan=plan.models[0], key=KEY, clock=clock.time, steady=clock.steady, **over
    )


def codes(seen: Seen) -> list[str]:
    return [fault.code for fault in seen.faults]


@run
async def test_a_gateway_tells_rates_by_size_attainment_and_replicas() -> None:
    plan, clock = plan_within(), Clock()
    replicas = {"small": [Replica("s")], "big": [Replica("b"), Replica("c", ttft_s=0.4)]}
    async with bed(replicas, plan) as b:
        source = source_of([b.url], clock, plan=plan)
        first = await asyncio.to_thread(source.see)
        assert (first.rate_rps, first.attainment, first.faults) == (None, None, ())
        assert first.live == {"small": 1, "big": 2}
        await together([b.stream(words=10) for _ in range(8)])
        await together([b.stream(words=LONG) for _ in range(4)])
        clock.steady_s += 10.0
        seen = await asyncio.to_thread(source.see)
    assert seen.rate_rps == pytest.approx(1.2)
    assert seen.bucket_rates is not None
    assert seen.bucket_rates.tolist() == [[1.2], [0.0]], (
        "by the tokens that replicas count: 40 each"
    )
    assert seen.refused_rps == 0.0
    assert seen.queue == 0.0
    assert seen.attainment is not None
    assert 0 < seen.attainment < 1, "the slow replica misses the TTFT limit"
    assert seen.is_sound


@run
async def test_refused_requests_are_demand_and_what_waits_is_too() -> None:
    settings = dataclasses.replace(FAST, queue_length=2, queue_wait_s=5.0)
    replicas = {"small": [Replica("s", ttft_s=1.5)], "big": [Replica("b", ttft_s=1.5)]}
    clock = Clock()
    async with bed(replicas, split_plan(rate=0.5), settings) as b:
        source = source_of([b.url], clock)
        await asyncio.to_thread(source.see)
        calls = [asyncio.ensure_future(b.complete(words=LONG, max_tokens=2)) for _ in range(30)]
        await asyncio.sleep(0.6)
        clock.steady_s += 10.0
        seen = await asyncio.to_thread(source.see)
        answers = await asyncio.gather(*calls)
    refused = sum(status == 429 for status, _ in answers)
    assert refused > 0
    assert seen.rate_rps == pytest.approx(3.0), "all thirty, though none has finished"
    assert seen.refused_rps == pytest.approx(refused / 10)
    assert seen.queue == 2.0


@run
async def test_a_new_gateway_in_place_of_the_old_is_a_reset_and_no_lull() -> None:
    clock = Clock()
    async with bed({"small": [Replica("s")], "big": [Replica("b")]}) as b:
        source, port = source_of([b.url], clock), int(b.url.rsplit(":", 1)[1])
        await together([b.complete() for _ in range(5)])
        await asyncio.to_thread(source.see)
    again = {"small": [Replica("s")], "big": [Replica("b")]}
    async with bed(again, listen=Listen(port=port)) as b:
        await together([b.complete() for _ in range(3)])
        clock.steady_s += 10.0
        seen = await asyncio.to_thread(source.see)
        assert codes(seen) == ["reset"]
        assert (seen.rate_rps, seen.attainment) == (None, None)
        await together([b.complete() for _ in range(5)])
        clock.steady_s += 10.0
        assert (await asyncio.to_thread(source.see)).rate_rps == pytest.approx(0.5)


@run
async def test_a_lost_replica_is_seen_and_a_stopped_gateway_is_unreachable() -> None:
    clock = Clock()
    small = Replica("s")
    async with bed({"small": [small], "big": [Replica("b")]}) as b:
        source = source_of([b.url], clock)
        await asyncio.to_thread(source.see)
        small.healthy = False
        for _ in range(100):
            await asyncio.sleep(0.05)
            clock.steady_s += 1.0
            seen = await asyncio.to_thread(source.see)
            if seen.live == {"small": 0, "big": 1}:
                break
        assert seen.live == {"small": 0, "big": 1}
        wrong = GatewaySource(urls=[b.url], plan=split_plan().models[0], key="other")
        assert [f.message for f in (await asyncio.to_thread(wrong.see)).faults] == [
            f"{b.url}: HTTP 401"
        ]
    gone = await asyncio.to_thread(source.see)
    assert codes(gone) == ["unreachable"]
    assert gone.live is None


@contextlib.contextmanager
def pages(first: str | None = None) -> Iterator[tuple[str, list[str | None]]]:
    """Serve whatever page is in the list, None for an error."""
    now: list[str | None] = [first]

    def answer(_: object) -> tuple[int, bytes]:
        return (500, b"") if now[0] is None else (200, now[0].encode())

    with answering(answer) as url:
        yield url, now


def page(finished: int = 0, refused: int = 0, running: int = 0, plan: str = "chat") -> str:
    """A gateway's page by hand."""
    own = f'plan="{plan}",option="small"'
    lines = [
        f'melange_gateway_requests_total{{{own},input_bucket="0-100",output_bucket="0-50"}} {finished}',
        f'melange_gateway_answers_total{{plan="{plan}",status="429"}} {refused}',
        f"melange_gateway_in_flight{{{own}}} {running}",
        f"melange_gateway_healthy_backends{{{own}}} 2",
        f"melange_gateway_before_sending_seconds_count {finished + refused}",
    ]
    return "\n".join(lines) + "\n"


NAME = split_plan().models[0].name


def test_clocks_that_leap_or_go_back_are_said_and_no_rate_is_made_of_them() -> None:
    clock = Clock()
    with pages(page(plan=NAME)) as (url, now):
        source = source_of([url], clock)
        source.see()
        for leap_s, said in ((3600.0, "leapt +3600 s"), (-7200.0, "went back 7140 s")):
            clock.steady_s += 60.0
            clock.off_s += leap_s
            now[0] = page(finished=100, plan=NAME)
            seen = source.see()
            assert codes(seen) == ["clock"]
            assert said in seen.faults[0].message
            assert seen.rate_rps is None
        clock.steady_s += 60.0
        now[0] = page(finished=160, plan=NAME)
        assert source.see().rate_rps == pytest.approx(1.0)


def test_figures_that_stand_still_while_requests_run_are_frozen_and_an_idle_night_is_not() -> None:
    clock = Clock()
    with pages(page(finished=5, running=3, plan=NAME)) as (url, now):
        source = source_of([url], clock)
        found = []
        for _ in range(4):
            found.append(codes(source.see()))
            clock.steady_s += STILL_S / 2
        assert found == [[], [], ["frozen"], ["frozen"]]
        now[0] = page(finished=9, running=3, plan=NAME)
        assert codes(source.see()) == []
        now[0] = page(finished=12, plan=NAME)
        for _ in range(5):
            clock.steady_s += STILL_S
            seen = source.see()
        assert (seen.rate_rps, seen.faults) == (0.0, ())


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", "renamed", "has no melange_gateway_… figures: is this a gateway of this version?"),
        ("vllm:num_requests_running 3\n", "renamed", "has no melange_gateway_… figures"),
        (page(plan="other"), "missing", f"serves other, not the plan '{NAME}'"),
        (page(plan=NAME) + "melange_gateway_queued NaN\n", "renamed", "figures that count nothing"),
        (
            page(plan=NAME)
            + 'melange_gateway_workers{which="all"} 4\nmelange_gateway_workers{which="answered"} 3\n',
            "missing",
            "3 of 4 workers answered",
        ),
        (None, "unreachable", "HTTP 500"),
    ],
)
def test_pages_that_do_not_tell_are_one_line(text: str | None, code: str, said: str) -> None:
    clock = Clock()
    with pages(page(plan=NAME)) as (url, now):
        source = source_of([url], clock)
        source.see()
        clock.steady_s, now[0] = 60.0, text
        seen = source.see()
        assert codes(seen) == [code]
        assert said in seen.faults[0].message
        assert "\n" not in seen.faults[0].message
        assert seen.rate_rps is None
        clock.steady_s, now[0] = 120.0, page(finished=240, plan=NAME)
        assert source.see().rate_rps == pytest.approx(2.0), "counters say what came meanwhile"


def test_two_gateways_add_up_and_one_that_began_anew_is_not_hidden_by_the_other() -> None:
    clock = Clock()
    with pages(page(100, plan=NAME)) as (one, a), pages(page(100, plan=NAME)) as (two, b):
        source = source_of([one, two], clock)
        source.see()
        clock.steady_s += 10.0
        a[0], b[0] = page(110, refused=5, plan=NAME), page(120, plan=NAME)
        seen = source.see()
        assert (seen.rate_rps, seen.refused_rps, seen.live) == (3.5, 0.5, {"small": 2})
        clock.steady_s += 10.0
        a[0], b[0] = page(1, plan=NAME), page(1000, plan=NAME)
        seen = source.see()
        assert codes(seen) == ["reset"]
        assert seen.rate_rps is None


def test_a_prometheus_tells_the_same_of_the_gateways_that_it_scrapes() -> None:
    plan = split_plan().models[0]

    def series(*scrapes: tuple[float, str]) -> Any:
        found: dict[Any, list[Any]] = {}
        for at_s, text in scrapes:
            for line in text.splitlines():
                name, _, rest = line.partition("{")
                inner, _, value = rest.rpartition("} ")
                if not rest:
                    name, value = line.split(" ")
                labels = [part.split("=") for part in inner.split(",") if part]
                own = {k: v.strip('"') for k, v in labels}
                key = {"__name__": name, "instance": "gw:8080", **own}
                found.setdefault(tuple(sorted(key.items())), []).append((at_s, value))
        return found

    held = series((1000.0, page(50, plan=NAME)))
    clock = Clock()
    with prometheus(held, 1005.0) as url:
        server = Prometheus.at(url, None, "PROMETHEUS_TOKEN")
        source = PrometheusSource(server=server, plan=plan, clock=clock.time)
        first = source.see()
        assert (first.rate_rps, first.live, first.faults) == (None, {"small": 2}, ())
        held.clear()
        held.update(series((1000.0, page(50, plan=NAME)), (1004.0, page(60, refused=2, plan=NAME))))
        seen = source.see()
        assert (seen.rate_rps, seen.refused_rps) == (3.0, 0.5)
        again = source.see()
        assert (again.rate_rps, again.live, again.faults) == (None, {"small": 2}, ())
        held.clear()
        assert codes(source.see()) == ["missing"]
    assert codes(source.see()) == ["unreachable"]
    with prometheus(series((1000.0, page(plan=NAME))), 1240.0) as url:
        server = Prometheus.at(url, None, "PROMETHEUS_TOKEN")
        seen = PrometheusSource(server=server, plan=plan).see()
        assert codes(seen) == ["frozen"]
        assert "was last scraped 240 s ago" in seen.faults[0].message


def test_the_observed_file_tells_rates_between_two_writings(tmp_path) -> None:
    path, clock = tmp_path / "seen.yaml", Clock()
    plan = split_plan().models[0]
    file = ObservedFile(path)
    source = ObservedSource(path=path, plan=plan, clock=clock.time)

    def wrote(count: int, at_s: float) -> Seen:
        for k in range(count):
            file.add(NAME, k * 0.1, 60 if k % 2 else 160, 20)
        file.write()
        clock.steady_s = at_s
        os.utime(path, (clock.time() - 5, clock.time() - 5))
        return source.see()

    assert codes(source.see()) == ["missing"]
    first = wrote(20, 60.0)
    assert (first.rate_rps, first.faults, first.live) == (None, (), None)
    seen = wrote(120, 120.0)
    assert seen.rate_rps == pytest.approx(2.0)
    assert seen.bucket_rates is not None
    assert seen.bucket_rates.tolist() == [[pytest.approx(1.0)], [pytest.approx(1.0)]]
    clock.steady_s = 150.0
    assert (source.see().rate_rps, source.see().faults) == (None, ())
    clock.steady_s = 900.0
    old = source.see()
    assert codes(old) == ["frozen"]
    assert "was written 13 min ago; is the gateway running?" in old.faults[0].message
    file = ObservedFile(path)
    assert codes(wrote(3, 1000.0)) == ["reset"]
    path.write_text("workload: {")
    os.utime(path, (clock.time(), clock.time()))
    assert codes(source.see()) == ["missing"]


def test_replicas_tell_how_many_serve_and_how_much_waits() -> None:
    clock = Clock()

    def look(k: int, waiting: float = 0.0) -> str:
        figures = {n: v * k for n, v in LOOK.figures.items()} | {"waiting": waiting, "running": 4.0}
        return page_of(dataclasses.replace(LOOK, figures=figures))

    with pages(look(1)) as (one, a), pages(look(1)) as (two, b):
        source = ReplicaSource(
            places=[f"L4={one}", f"L4={two}/metrics"],
            engine=ENGINE,
            clock=clock.time,
            steady=clock.steady,
        )
        assert source.see().live == {"L4": 2}
        clock.steady_s += 100.0
        a[0], b[0] = look(2), look(3, waiting=50.0)
        seen = source.see()
        assert seen.rate_rps == pytest.approx((100 + 200 + 50) / 100)
        assert (seen.queue, seen.refused_rps, seen.attainment) == (50.0, None, None)
        clock.steady_s += 100.0
        a[0], b[0] = None, "nothing"
        seen = source.see()
        assert codes(seen) == ["unreachable", "renamed"]
        assert seen.live == {"L4": 0}


@pytest.mark.parametrize("place", ["http://h:1", "=http://h:1", "L4=ftp://h", "L4=http://u:p@h"])
def test_replicas_are_given_with_their_option(place: str) -> None:
    with pytest.raises(InputError, match=r"--metrics: "):
        ReplicaSource(places=[place], engine=ENGINE)


def test_sources_together_fill_each_other_and_all_their_faults_count() -> None:
    @dataclasses.dataclass
    class Fixed:
        seen: Seen

        def see(self) -> Seen:
            return self.seen

    file = Seen(time=1.0, rate_rps=5.0)
    live = Seen(
        time=2.0, rate_rps=7.0, refused_rps=1.0, live={"a": 2}, starting={"b": 1}, queue=3.0
    )
    other = Seen(time=3.0, live={"a": 9}, starting={"a": 9}, queue=0.0)
    sources = [Fixed(file), Fixed(live), Fixed(other)]
    whole = Together(sources=sources, clock=lambda: 9.0, prices_as_of="2026-11-01").see()
    assert (whole.time, whole.rate_rps, whole.refused_rps) == (9.0, 5.0, None)
    assert (whole.live, whole.starting, whole.queue) == ({"a": 2}, {"b": 1}, 3.0)
    assert whole.prices_as_of == "2026-11-01"


def test_the_names_that_are_read_are_those_that_a_gateway_writes() -> None:
    from melange_sky.gateway.metrics import Metrics

    metrics = Metrics()
    metrics.gauge_of_workers()
    families = {family.name for family in metrics.collect()}
    for name in NAMES:
        assert name.removesuffix("_total").removesuffix("_count") in families


def test_no_source_knows_skypilot() -> None:
    found = sorted(
        path.stem
        for path in Path("melange_sky/planner/watching/sources").glob("*.py")
        if path.stem != "__init__"
    )
    lines = [f"import melange_sky.planner.watching.sources.{name}" for name in found]
    code = "; ".join(["import sys", *lines, "assert 'sky' not in sys.modules"])
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
