"""The reports of a replay, a sweep and a comparison."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.report.figures import Cell, Grid
from melange_sky.report.figures.chart import UNKNOWN
from melange_sky.report.figures.numbers import count, milliseconds, percent, plain, rate, usd
from melange_sky.report.figures.rates import comparison_figure, sweep_figures
from melange_sky.report.figures.replays import simulation_figures
from melange_sky.report.html.document import Page, Section, Table, Tile, Verdict
from melange_sky.report.plan_table import slo_text
from melange_sky.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer import SweepPoint
    from melange_sky.replay import Simulation
    from melange_sky.replay import Verdict as Judged
    from melange_sky.report.comparison import ContenderView

FOOT = (
    f"By melange-sky {__version__}. Prices are list prices in US dollars; taxes, traffic and storage are not counted.",
    "This file is complete in itself: nothing is fetched when it is read.",
)


def simulation_page(simulations: Sequence[Simulation], name: str) -> Page:
    """Return the report of a plan's replay: attainment with its interval, latencies, each option."""
    met = all(simulation.verdict.met for simulation in simulations)
    sure = all(simulation.verdict.surely for simulation in simulations)
    doubt = "" if sure else " Not certainly: an interval contains its target."
    told = "; ".join(
        f"{s.plan.name}: {s.verdict.attainment:.2%} of {s.verdict.judged:,} requests, target {s.verdict.target * 100:.4g}%"
        for s in simulations
    )
    return Page(
        title=name,
        kind="Replay of a plan",
        lead=tuple(f"{s.plan.model}: {s.traffic}; {slo_text(s.plan)}" for s in simulations),
        verdict=Verdict(
            word="SLO met." if met else "SLO MISSED.",
            text=f"{told}.{doubt}",
            mood=("good" if met else "bad") if sure else "open",
        ),
        sections=tuple(_simulation_section(s, n) for n, s in enumerate(simulations)),
        foot=FOOT,
    )


def _simulation_section(simulation: Simulation, number: int) -> Section:
    verdict, plan = simulation.verdict, simulation.plan
    suffix = f"-{number + 1}"
    return Section(
        title=f"{plan.name}: {plan.fleet_text()}",
        facts=_verdict_facts(verdict, plan.cost_usd_per_hour),
        tables=(
            Table(grid=_latency_grid(verdict), title="Latencies of the judged requests"),
            Table(grid=_option_grid(simulation), title="Each option"),
            Table(grid=_bucket_grid(simulation), title="Each size", folded=True),
        ),
        notes=simulation.notes,
        figures=tuple(
            replace(figure, name=f"{figure.name}{suffix}")
            for figure in simulation_figures(simulation)
        ),
    )


def _verdict_facts(verdict: Judged, cost_usd_per_hour: float) -> tuple[tuple[str, Cell], ...]:
    price = verdict.cost_usd_per_million_tokens
    return (
        ("requests sent", count(verdict.requests)),
        ("judged", count(verdict.judged)),
        ("completed", count(verdict.completed)),
        ("refused or failed", count(verdict.refused)),
        ("replications", count(verdict.replications)),
        ("not judged at either end", Cell(f"{verdict.warmup_s:,.0f} s", verdict.warmup_s)),
        ("goodput, req/s", rate(verdict.goodput_rps)),
        ("cost an hour", usd(cost_usd_per_hour)),
        (
            "$ per million tokens, in and out",
            UNKNOWN if price is None else Cell(f"${price:.3g}", price),
        ),
    )


def _latency_grid(verdict: Judged) -> Grid:
    rows = (("TTFT", verdict.ttft_s), ("TPOT", verdict.tpot_s), ("E2E", verdict.e2e_s))
    return Grid(
        header=("time", "p50", "p90", "p95", "p99"),
        rows=tuple(
            (Cell(name), *map(milliseconds, (times.p50, times.p90, times.p95, times.p99)))
            for name, times in rows
        ),
    )


def _option_grid(simulation: Simulation) -> Grid:
    header = (
        *("option", "run", "requests", "busy", "within SLO", "TTFT missed", "TPOT missed"),
        *("queue mean", "queue peak", "KV peak", "preemptions", "prefix hits"),
    )
    pairs = zip(simulation.plan.allocations, simulation.verdict.options, strict=True)
    rows = tuple(
        (
            Cell(one.option),
            count(allocation.instances),
            count(one.requests),
            percent(one.utilization),
            percent(one.attainment, 2),
            percent(one.ttft_missed, 2),
            percent(one.tpot_missed, 2),
            Cell(plain(one.queue_mean), one.queue_mean),
            count(one.queue_peak),
            percent(one.kv_used_peak),
            count(one.preemptions),
            percent(one.prefix_hits),
        )
        for allocation, one in pairs
    )
    return Grid(header=header, rows=rows)


def _bucket_grid(simulation: Simulation) -> Grid:
    workload = simulation.plan.workload
    rows = tuple(
        (
            Cell(workload.label(*one.bucket)),
            count(one.requests),
            percent(one.attainment, 2),
            percent(one.interval[0], 2),
            percent(one.interval[1], 2),
        )
        for one in simulation.verdict.buckets
    )
    return Grid(header=("size", "requests", "within SLO", "interval from", "to"), rows=rows)


def sweep_page(points: Sequence[SweepPoint], name: str) -> Page:
    """Return the report of a sweep: cost over the rate, where the mix changes, every point."""
    costs = [p.cost_usd_per_hour for p in points if p.cost_usd_per_hour is not None]
    rates = [p.rate_rps for p in points]
    tiles = [Tile(label="points", cell=count(len(points)), note=f"{len(costs)} with a plan")]
    if costs:
        ends = f"{usd(min(costs)).text} to {usd(max(costs)).text}"
        span = f"at {plain(min(rates))} to {plain(max(rates))} requests a second"
        tiles.append(Tile(label="cost an hour", cell=Cell(ends), note=span))
    return Page(
        title=name,
        kind="Plans over a range",
        verdict=Verdict(
            word="By estimate.",
            text="Every point is planned on capacities, none was replayed: compare replays them.",
            mood="open",
        ),
        tiles=tuple(tiles),
        sections=(Section(title="Cost and mix", figures=sweep_figures(points)),),
        foot=FOOT,
    )


def comparison_page(rows: Sequence[ContenderView], name: str) -> Page:
    """Return the report of a comparison: fleets that hold in replay, rate by rate."""
    late = any(row.late for row in rows)
    return Page(
        title=name,
        kind="Fleets at equal attainment",
        verdict=Verdict(
            word="Verified by replay.",
            text="A fleet is listed with its cost where it held the SLO."
            + (
                " Some searches were ended by their time: a cheaper fleet may hold." if late else ""
            ),
            mood="open" if late else "good",
        ),
        sections=(Section(title="What each fleet costs", figures=(comparison_figure(rows),)),),
        foot=FOOT,
    )
