"""How a plan is shown to people: a table of what to run, what it costs and where each number is from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from melange_sky.planfile import allocation_origin
from melange_sky.report.elastic import elastic_text
from melange_sky.report.page import Printer, html_of, text_of
from melange_sky.report.savings import current_text, saving_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.plans import (
        Allocation,
        AlternativeMix,
        Baseline,
        ExpectedMiss,
        ModelPlan,
        Plan,
        PlanWarning,
        Sensitivity,
        SolverReport,
    )

REASON_LENGTH = 150
MISSES_SHOWN = 5


def plan_table(plan: Plan, *, width: int | None = None) -> str:
    """Return the plan as text for a terminal of `width` columns."""
    return text_of(print_plan, plan, width=width)


def plan_html(plan: Plan) -> str:
    """Return the plan as HTML for a notebook."""
    return html_of(print_plan, plan)


def print_plan(console: Printer, plan: Plan) -> None:
    """Print what to run, what it costs, and what each accelerator alone would cost."""
    for number, model in enumerate(plan.models):
        if number:
            console.print()
        _show_model(console, plan, model)
    if plan.lists_models:
        replayed = any(model.verification for model in plan.models)
        solved = solver_text(plan.solver, replayed=replayed)
        console.print(f"Together ${plan.cost_usd_per_hour:,.2f}/h ({solved})")
        if plan.elastic is not None:
            console.print(elastic_text(plan), markup=False)
        _show_band_and_alternatives(console, plan)
    if plan.current is not None:
        console.print(current_text(plan.current), markup=False)
    console.print()
    _show_warnings(console, plan.warnings)
    for model in plan.models:
        _show_warnings(console, model.warnings, f"{model.name}: " if plan.lists_models else "")


def _show_model(console: Printer, plan: Plan, model: ModelPlan) -> None:
    console.print(
        f"{escape(model.name)}: {escape(model.model)} at {model.workload.rate_rps:g} req/s ({escape(model.workload.source)})"
    )
    console.print(f"SLO: {slo_text(model)}; headroom {plan.headroom * 100:.3g} %\n")
    sources = _price_sources(model.allocations)
    console.print(_allocation_table(model.allocations, sources))
    per_month = model.cost_usd_per_hour * 730
    console.print(
        f"Total ${model.cost_usd_per_hour:,.3f}/h, about ${per_month:,.0f} a month "
        f"({solver_text(plan.solver, replayed=model.verification is not None)})"
    )
    _show_misses(console, model)
    _show_fixed(console, model)
    if not plan.lists_models and plan.elastic is not None:
        console.print(elastic_text(plan), markup=False)
    if not plan.lists_models:
        _show_band_and_alternatives(console, plan)
    for source, number in sources.items():
        console.print(f"[{number}] price from {source}", markup=False)
    console.print()
    if model.baselines:
        console.print(_baseline_table(model))
        if any(b.at_least for b in model.baselines):
            console.print(AT_LEAST, markup=False)
        console.print(saving_text(model), markup=False)


AT_LEAST = "≥: rates that no cheapest fleet needs are not simulated; they count as the most that they could be."


def _show_band_and_alternatives(console: Printer, plan: Plan) -> None:
    if plan.sensitivity is not None:
        _show_sensitivity(console, plan.sensitivity, plan.confidence)
    _show_alternatives(console, plan.alternatives)


def _show_misses(console: Printer, plan: ModelPlan) -> None:
    """Say which sizes are expected to miss the SLO: nothing is dropped, but these are served late."""
    misses = plan.expected_misses
    if not misses:
        return
    total = sum(miss.fraction for miss in misses)
    rate = total * plan.workload.rate_rps
    console.print(
        f"Expected to miss the SLO, served all the same: {total:.2%} of the requests (about {_count(rate * 3600)} an hour)"
    )
    for miss in misses[:MISSES_SHOWN]:
        part = "" if miss.share > 1 - 1e-6 else f", {miss.share:.0%} of this size"
        label = plan.workload.label(miss.i, miss.j)
        console.print(f"  {label}: {miss.fraction:.3%}{part}{_ttft_text(plan, miss)}")
    more = len(misses) - MISSES_SHOWN
    if more > 0:
        rest = sum(miss.fraction for miss in misses[MISSES_SHOWN:])
        console.print(f"  and {more} more sizes: {rest:.3%}")


def _ttft_text(plan: ModelPlan, miss: ExpectedMiss) -> str:
    """Return how long a late size waits: as simulated where the plan was replayed, else alone by estimate."""
    late = plan.verification and plan.verification.late_size(miss.i, miss.j)
    if late and late.ttft_p50_s is not None and late.ttft_p95_s is not None:
        p50, p95 = late.ttft_p50_s * 1000, late.ttft_p95_s * 1000
        missed = f"{late.missed:,} of {late.requests:,} late"
        return f"; simulated: {missed}, TTFT {p50:,.0f} ms (median), {p95:,.0f} ms (p95)"
    alone = miss.alone_ttft_s
    return "" if alone is None else f"; alone, its TTFT is {alone * 1000:,.0f} ms by estimate"


def _count(number: float) -> str:
    """Return a number of requests to three digits, without an exponent."""
    return f"{float(f'{number:.3g}'):,.0f}" if number >= 1 else f"{number:.2g}"


def _show_fixed(console: Printer, plan: ModelPlan) -> None:
    """Say what the total leaves out: instances that the spec calls paid for already, or SkyPilot reserved and free."""
    paid = [a for a in plan.allocations if a.fixed_instances]
    if not paid:
        return
    by: dict[str, list[str]] = {}
    for allocation in paid:
        by.setdefault(_paid_by(allocation), []).append(_paid_for(allocation))
    what = "; ".join(f"Already paid for ({who}): {', '.join(rows)}" for who, rows in by.items())
    whole = sum(a.instances * a.candidate.option.price_usd_per_hour for a in plan.allocations)
    console.print(f"{escape(what)}; at these prices the whole fleet costs ${whole:,.3f}/h")


def _paid_by(allocation: Allocation) -> str:
    """Return who says that instances are paid for: the spec, or SkyPilot of what is reserved and free."""
    reserved = allocation.candidate.option.reserved
    if reserved is None:
        return "resources.fixed"
    names = ", ".join(reserved.names)
    return (
        f"reserved in {reserved.zone} by {names}, free when SkyPilot was asked at {reserved.as_of}"
    )


def _paid_for(allocation: Allocation) -> str:
    option, paid = allocation.candidate.option, allocation.fixed_instances
    if option.nodes == 1:
        return f"{paid} × {option.shape}"
    return f"{paid} of {allocation.instances * option.nodes} × {option.accelerator}:{option.accelerator_count}"


def slo_text(plan: ModelPlan) -> str:
    """Return the SLO in words."""
    limits = [
        f"{name} {limit_s * 1000:g} ms"
        for name, limit_s in (("TPOT", plan.slo.tpot_s), ("TTFT", plan.slo.ttft_s))
        if limit_s is not None
    ]
    if not limits:
        return "none stated"
    which = "of the requests of every size" if plan.attainment_per_bucket else "of requests"
    return f"{plan.slo.attainment * 100:.4g} % {which} within {' and '.join(limits)}"


def solver_text(solver: SolverReport, *, replayed: bool) -> str:
    """Return how far the search for the cheapest fleet got."""
    if replayed and not solver.is_optimal:
        return "the cheapest found with replay, not proven optimal"
    if solver.is_optimal:
        return f"optimal, gap {solver.mip_gap:.2%}, solved in {solver.solve_seconds:.2f} s"
    return (
        f"feasible, NOT proven optimal: gap {solver.mip_gap:.2%} after {solver.solve_seconds:.2f} s"
    )


def _price_sources(allocations: Sequence[Allocation]) -> dict[str, int]:
    """Number the sources of the prices, in the order in which they appear."""
    sources: dict[str, int] = {}
    for allocation in allocations:
        sources.setdefault(_price_source(allocation), len(sources) + 1)
    return sources


def _price_source(allocation: Allocation) -> str:
    offer = allocation.candidate.option.offer
    if offer is None:
        return "the config itself"
    return f"{offer.source}, as of {offer.as_of or 'an unknown date'}"


def _allocation_table(allocations: Sequence[Allocation], sources: dict[str, int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    for name in (
        "run",
        "accelerator",
        "instance type",
        "infra",
        "$/h each",
        "$/h",
        "load",
        "req/s",
        "capacity",
        "price",
    ):
        right = name in {"run", "$/h each", "$/h", "load", "req/s"}
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for allocation in allocations:
        table.add_row(*(escape(text) for text in _allocation_row(allocation, sources)))
    return table


def _allocation_row(allocation: Allocation, sources: dict[str, int]) -> tuple[str, ...]:
    option = allocation.candidate.option
    offer = option.offer
    origin = allocation_origin(allocation)
    return (
        f"{allocation.instances} ×",
        allocation.candidate.option.shape,
        offer.instance_type if offer else "-",
        (f"{offer.cloud}/{offer.region}" if offer else "-") + (" spot" if option.use_spot else ""),
        f"{option.price_usd_per_hour:,.3f}",
        f"{allocation.cost_usd_per_hour:,.3f}",
        f"{allocation.load_fraction:.0%}",
        f"{allocation.rate_rps:.3g}"
        if allocation.rate_rps < 1000
        else f"{allocation.rate_rps:,.0f}",
        origin.value if origin else "-",
        f"[{sources[_price_source(allocation)]}]",
    )


def _confidence_text(confidence: float) -> str:
    if confidence == 0.5:
        return "Planned on the median of the estimates; --confidence 0.9 takes what they reach in 9 of 10 cases"
    return f"Planned on capacities that estimates reach in {confidence:.0%} of cases"


def _show_sensitivity(console: Printer, band: Sensitivity, confidence: float) -> None:
    ends = [
        "no plan" if cost is None else f"${cost:,.2f}/h"
        for cost in (band.low_usd_per_hour, band.high_usd_per_hour)
    ]
    console.print(
        f"If the estimated capacities are off by their error band: {ends[0]} to {ends[1]}"
    )
    console.print(_confidence_text(confidence), soft_wrap=True)
    if band.measure is not None:
        moves = band.measure_usd_per_hour
        amount = (
            "could make the plan fail"
            if moves is None
            else f"moves the cost by up to ${moves:,.2f}/h"
        )
        console.print(
            f"Most worth measuring: {escape(band.measure)}, above all at {band.measure_size} ({amount}):"
        )
        console.print(f"  {escape(band.command or '')}", soft_wrap=True)


def _show_alternatives(console: Printer, mixes: Sequence[AlternativeMix]) -> None:
    for mix in mixes:
        console.print(f"Or ${mix.cost_usd_per_hour:,.3f}/h: {mix.differs}", markup=False)


def _short(reason: str, length: int = REASON_LENGTH) -> str:
    """Cut a reason that would fill the table, after a whole cause; `explain` and plan.json have it whole.

    >>> _short("A does not fit; B is slow", 16)
    'A does not fit; …'
    """
    if len(reason) <= length:
        return reason
    causes = reason[: length + 1].rpartition("; ")[0]
    return f"{causes}; …" if causes else f"{reason[:length].rstrip()} …"


def _baseline_table(model: ModelPlan) -> Table:
    """Return what each accelerator alone costs: by estimate, and where the plan was replayed, as it holds."""
    replayed = model.verification is not None
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("one accelerator alone")
    table.add_column("run by estimate", justify="right")
    table.add_column("$/h", justify="right")
    if replayed:
        table.add_column("run by replay", justify="right")
        table.add_column("$/h", justify="right")
    table.add_column("the plan saves", justify="right")
    table.add_column("", overflow="fold")
    for baseline in model.baselines:
        table.add_row(*(escape(text) for text in _baseline_row(baseline, replayed=replayed)))
    return table


def _baseline_row(baseline: Baseline, *, replayed: bool) -> tuple[str, ...]:
    feasible = baseline.feasible and baseline.cost_usd_per_hour is not None
    least, reason = "≥ " if baseline.at_least else "", _short(baseline.reason or "")
    if baseline.at_least:  # said once below the table
        reason = ""
    row: tuple[str, ...] = (
        baseline.accelerator,
        _run(baseline.instances, baseline.shape),
        f"{least}{baseline.cost_usd_per_hour:,.3f}" if feasible else "-",
    )
    saving = baseline.saving_fraction
    if replayed:
        one = baseline.verified
        saving, least = None if one is None else one.saving_fraction, ""
        row += (
            "-" if one is None else _run(one.instances, one.shape),
            "-" if one is None else f"{one.cost_usd_per_hour:,.3f}",
        )
    return (*row, "-" if saving is None else f"{least}{saving:.1%}", reason)


def _run(instances: int | None, shape: str | None) -> str:
    """Return how many of what, for a fleet of several shapes only how many."""
    if instances is None:
        return "-"
    return f"{instances} × {shape}" if shape and " + " not in shape else f"{instances} ×"


def _show_warnings(console: Printer, warnings: Sequence[PlanWarning], where: str = "") -> None:
    for warning in warnings:
        console.print(f"warning [{warning.code}]: {where}{warning.message}", markup=False)
