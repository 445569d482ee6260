"""A plan's numbers as tables of a report: all of its allocations, its verification and its solver."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from melange_sky.planfile import allocation_origin
from melange_sky.report.figures import Cell, Grid
from melange_sky.report.figures.chart import UNKNOWN
from melange_sky.report.figures.numbers import (
    count,
    milliseconds,
    percent,
    plain,
    rate,
    usd,
    words,
)
from melange_sky.report.figures.series import ORIGIN_WORDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.plans import Allocation, ModelPlan, Plan, SolverReport, Verification

HOURS_A_MONTH = 730


def runs_grid(model: ModelPlan, sources: Sequence[str]) -> Grid:
    """Return what runs; the last column is the number of a price's source in `sources`."""
    header = (
        "run",
        "accelerator",
        "instance type",
        "infra",
        "$/h each",
        "$/h",
        "load",
        "req/s",
        "capacities",
        "price",
    )
    rows = tuple(_run_cells(allocation, sources) for allocation in model.allocations)
    return Grid(header=header, rows=rows)


def _run_cells(allocation: Allocation, sources: Sequence[str]) -> tuple[Cell, ...]:
    option = allocation.candidate.option
    offer = option.offer
    origin = allocation_origin(allocation)
    where = f"{offer.cloud}/{offer.region}" if offer else "-"
    return (
        Cell(f"{allocation.instances:,} ×", allocation.instances),
        Cell(option.shape),
        words(offer.instance_type if offer else None),
        Cell(where + (" spot" if option.use_spot else "")),
        usd(option.price_usd_per_hour),
        usd(allocation.cost_usd_per_hour),
        percent(allocation.load_fraction),
        rate(allocation.rate_rps),
        words(ORIGIN_WORDS[origin] if origin else None),
        Cell(f"[{sources.index(price_source(allocation)) + 1}]"),
    )


def price_source(allocation: Allocation) -> str:
    """Return where an allocation's price was read, and as of when."""
    offer = allocation.candidate.option.offer
    if offer is None:
        return "the config itself"
    return f"{offer.source}, as of {offer.as_of or 'an unknown date'}"


def price_sources(model: ModelPlan) -> tuple[str, ...]:
    """Return the sources of the prices, in the order in which they appear."""
    return tuple(dict.fromkeys(map(price_source, model.allocations)))


def replica_grid(model: ModelPlan) -> Grid:
    """Return how each option's replicas are run, an option a column: form, nodes, the engine's settings."""
    options = [allocation.candidate.option for allocation in model.allocations]
    known = [option.engine for option in options if option.engine is not None]
    names = [field.name for field in fields(known[0]) if field.name != "nodes"] if known else []
    rows = [
        (Cell("checkpoint"), *(Cell(model.checkpoint_of(option)) for option in options)),
        (Cell("nodes"), *(count(option.nodes) for option in options)),
        (
            Cell("instances paid for already"),
            *(count(a.fixed_instances) for a in model.allocations),
        ),
        (Cell("planned at attainment"), *(percent(a.level) for a in model.allocations)),
    ]
    rows += [
        (
            Cell(name.replace("_", " ")),
            *(UNKNOWN if o.engine is None else _setting(getattr(o.engine, name)) for o in options),
        )
        for name in names
    ]
    return Grid(header=("", *(option.name for option in options)), rows=tuple(rows))


def _setting(value: float | bool | str | None) -> Cell:
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if value is None or isinstance(value, str):
        return words(value)
    return Cell(f"{value:,}", value)


def misses_grid(model: ModelPlan) -> Grid:
    """Return the sizes that are expected to be served late, and how late as far as known."""
    header = (
        "size",
        "of all requests",
        "of this size",
        "TTFT alone, by estimate",
        "requests in replay",
        "late in replay",
        "TTFT in replay, median",
        "TTFT in replay, p95",
    )
    rows = []
    seen = set()
    for miss in model.expected_misses:
        seen.add((miss.i, miss.j))
        start = (percent(miss.fraction, 3), percent(miss.share), milliseconds(miss.alone_ttft_s))
        label = Cell(model.workload.label(miss.i, miss.j))
        rows.append((label, *start, *_late_cells(model, miss.i, miss.j)))
    for late in model.verification.late if model.verification else ():
        if (late.i, late.j) not in seen:
            label = Cell(model.workload.label(late.i, late.j))
            rows.append((label, *(UNKNOWN,) * 3, *_late_cells(model, late.i, late.j)))
    return Grid(header=header, rows=tuple(rows))


def late_grid(model: ModelPlan) -> Grid:
    """Return which option serves which size late, and what part of it is expected to be in time all the same."""
    rows = [
        (
            Cell(allocation.candidate.option.name),
            Cell(model.workload.label(i, j)),
            percent(shares[i][j]),
            percent(attained),
        )
        for allocation in model.allocations
        for attained, shares in allocation.late
        for i, j in model.workload.buckets()
        if shares[i][j] > 0
    ]
    header = ("option", "size", "part of it that is served late", "of these expected in time")
    return Grid(header=header, rows=tuple(rows))


def _late_cells(model: ModelPlan, i: int, j: int) -> tuple[Cell, ...]:
    late = model.verification and model.verification.late_size(i, j)
    if not late:
        return (UNKNOWN,) * 4
    return (
        count(late.requests),
        count(late.missed),
        milliseconds(late.ttft_p50_s),
        milliseconds(late.ttft_p95_s),
    )


def replay_facts(verified: Verification) -> tuple[tuple[str, Cell], ...]:
    """Return how a plan did in replay."""
    return (
        ("holds in replay", Cell("yes" if verified.holds else "no")),
        ("requests judged, worst replay", count(verified.requests)),
        ("within the SLO", percent(verified.attainment, 2)),
        ("95 % interval from", percent(verified.low, 2)),
        ("95 % interval to", percent(verified.high, 2)),
        ("cost over the plan before replay", usd(verified.premium_usd_per_hour)),
        ("seeds", Cell(", ".join(map(str, verified.seeds)))),
        ("replays", count(len(verified.rounds))),
        ("search cut short by its time", Cell("yes" if verified.cut_short else "no")),
        ("traffic", words(verified.traffic)),
    )


def factors_grid(verified: Verification) -> Grid | None:
    """Return the factors on capacities with which the next fleet was chosen; None where there were none."""
    rows = tuple(
        (Cell(one.fleet), Cell(name), Cell(plain(factor), factor))
        for one in verified.rounds
        for name, factor in one.derated
    )
    return (
        Grid(header=("after the fleet", "accelerator", "capacity times"), rows=rows)
        if rows
        else None
    )


def solver_facts(plan: Plan, solver: SolverReport) -> tuple[tuple[str, Cell], ...]:
    """Return how far the search for the cheapest fleet got."""
    bound = solver.bound_usd_per_hour
    return (
        ("cost an hour", usd(plan.cost_usd_per_hour)),
        (f"cost a month of {HOURS_A_MONTH} hours", usd(plan.cost_usd_per_hour * HOURS_A_MONTH)),
        ("status", Cell(solver.status)),
        ("gap of the last solve", Cell(f"{solver.mip_gap:.2%}", solver.mip_gap)),
        *([] if bound is None else [("no fleet is cheaper than", usd(bound))]),
        *((f"worth of one more {name}", usd(price)) for name, price in solver.limit_prices),
        ("solved in", Cell(f"{solver.solve_seconds:.2f} s", solver.solve_seconds)),
        ("headroom kept free", percent(plan.headroom)),
    )


def traffic_facts(model: ModelPlan) -> tuple[tuple[str, Cell], ...]:
    """Return what is served, and how its rate moves as far as known."""
    profile, workload = model.rate_profile, model.workload
    facts = [
        ("model", Cell(model.model)),
        ("planned at, req/s", rate(workload.rate_rps)),
        ("sizes from", Cell(workload.source)),
        ("TPOT limit", milliseconds(model.slo.tpot_s)),
        ("TTFT limit", milliseconds(model.slo.ttft_s)),
        ("requests that must be within", percent(model.slo.attainment, 2)),
        ("expected within, by capacities", percent(model.planned_attainment, 2)),
    ]
    if profile is not None:
        facts += [
            ("mean rate, req/s", rate(profile.mean_rps)),
            ("rate chosen by", Cell(profile.rule)),
            ("rate of the busiest five minutes, req/s", rate(profile.peak_rps)),
            ("time at or under the planned rate", percent(profile.quantile)),
        ]
    return tuple(facts)
