"""A plan in five lines, and its shares as a map of request sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import click

from melange_sky.report.columns import aligned
from melange_sky.report.savings import saving_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer import Explanation, TakenTraffic
    from melange_sky.plans import ModelPlan, Plan

POOR_FIT = 0.7
"""Where no range of sizes describes what an option takes better than this, only its share is told."""

COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "red")
WHOLE_SHARE = 0.995


class KneeView(Protocol):
    """The highest rate that holds in replay, see `planner.knee.Knee`."""

    @property
    def holds_rps(self) -> float | None: ...
    @property
    def misses_rps(self) -> float | None: ...
    @property
    def breaks(self) -> str | None: ...


class ModelSummaryView(Protocol):
    """See `planner.plan_summary.ModelSummary`."""

    @property
    def name(self) -> str: ...
    @property
    def takes(self) -> Sequence[TakenTraffic]: ...
    @property
    def knee(self) -> KneeView | None: ...


class NextFleetView(Protocol):
    """See `planner.plan_summary.NextFleet`."""

    @property
    def fleet(self) -> str: ...
    @property
    def cost_usd_per_hour(self) -> float: ...
    @property
    def estimated_rps(self) -> float: ...
    @property
    def replayed_rps(self) -> float | None: ...


class SummaryView(Protocol):
    """See `planner.plan_summary.PlanSummary`."""

    @property
    def models(self) -> Sequence[ModelSummaryView]: ...
    @property
    def cheaper(self) -> NextFleetView | None: ...
    @property
    def simpler(self) -> NextFleetView | None: ...
    @property
    def simplest(self) -> bool: ...


def summary_text(plan: Plan, summary: SummaryView, explanation: Explanation) -> str:
    """Return the five lines; those about a model come once for each."""
    several = len(plan.models) > 1
    rows = [
        ("Who takes what", _named(model.name, _takes_text(model.takes), several))
        for model in summary.models
    ]
    rows.append(("What binds", _binding_text(explanation)))
    rows.append(("Next to it", _next_text(plan, summary)))
    rows += [
        ("Highest rate", _named(model.name, _knee_text(shown.knee, model), several))
        for model, shown in zip(plan.models, summary.models, strict=True)
    ]
    rows += [("Saving", _named(model.name, saving_text(model), several)) for model in plan.models]
    return aligned(rows)


def _named(name: str, text: str, several: bool) -> str:
    return f"{name}: {text}" if several else text


def _takes_text(takes: Sequence[TakenTraffic]) -> str:
    if len(takes) == 1:
        return f"{takes[0].shape}: all requests"
    parts = [
        f"{taken.shape}: {_sizes_text(taken)} ({taken.requests_fraction:.0%})"
        for taken in takes[:-1]
    ]
    return "; ".join([*parts, f"{takes[-1].shape}: the rest ({takes[-1].requests_fraction:.0%})"])


def _sizes_text(taken: TakenTraffic) -> str:
    ranges = [
        f"{what} {text}"
        for what, tokens in (("prompts", taken.inputs), ("answers", taken.outputs))
        if (text := _range_text(tokens))
    ]
    if not ranges or taken.fit < POOR_FIT:
        return "some of all sizes"
    mostly = "" if taken.fit >= 0.9 else "mostly "
    return f"{mostly}{' with '.join(ranges)} tokens"


def _range_text(tokens: tuple[int, int | None] | None) -> str:
    if tokens is None:
        return ""
    low, high = tokens
    if high is None:
        return f"over {low}"
    return f"up to {high}" if low == 0 else f"of {low} to {high}"


def _binding_text(explanation: Explanation) -> str:
    priced = [rule for rule in explanation.rules if rule.binds]
    parts = [
        f"{rule.rule} (costs ${rule.saved_without_usd_per_hour:,.3f}/h)"
        for rule in priced
        if rule.saved_without_usd_per_hour is not None
    ]
    full = [o.option for o in explanation.options if o.binds]
    if full:
        parts.append(f"capacity of {', '.join(full)} (full)")
    elif not parts:
        least = min(o.fill_fraction for o in explanation.options)
        most = max(o.fill_fraction for o in explanation.options)
        filled = f"{least:.0%}" if most - least < 0.01 else f"{least:.0%} to {most:.0%}"
        parts.append(
            f"whole instances only: {filled} of their room is used, and one fewer does not suffice"
        )
    return "; ".join(parts)


def _next_text(plan: Plan, summary: SummaryView) -> str:
    cheaper, simpler = summary.cheaper, summary.simpler
    parts = []
    if cheaper is None:
        parts.append("cheaper: none")
    else:
        rate_rps, how = cheaper.replayed_rps, "holds up to"
        if rate_rps is None:
            rate_rps, how = cheaper.estimated_rps, "by estimate up to"
        parts.append(f"cheaper: {_fleet_text(plan, cheaper)}, {how} {rate_rps:.3g} req/s")
    if simpler is not None:
        parts.append(f"simpler: {_fleet_text(plan, simpler)}")
    else:
        parts.append(
            "simpler: " + ("none, one type is least" if summary.simplest else "none serves")
        )
    return "; ".join(parts)


def _fleet_text(plan: Plan, fleet: NextFleetView) -> str:
    more = fleet.cost_usd_per_hour / plan.cost_usd_per_hour - 1 if plan.cost_usd_per_hour else 0.0
    return f"{fleet.fleet}, ${fleet.cost_usd_per_hour:,.3f}/h ({more:+.0%})"


def _knee_text(knee: KneeView | None, model: ModelPlan) -> str:
    planned = f"planned for {model.workload.rate_rps:.3g}"
    if knee is None:
        return f"not replayed; {planned} req/s"
    if knee.holds_rps is None:
        return f"in replay not even {knee.misses_rps:.3g} steady req/s hold; {planned}"
    if knee.misses_rps is None:
        return f"at least {knee.holds_rps:.3g} steady req/s hold in replay; {planned}"
    return f"{knee.holds_rps:.3g} steady req/s hold in replay, {planned}; beyond that {knee.breaks} is missed first"


def shares_map(model: ModelPlan, *, coloured: bool = False) -> str:
    """Return which shape serves each size: rows are input, columns output tokens.

    A letter is a shape, with its percentage where others share the size; a dot: no requests.
    """
    shapes = sorted({a.candidate.option.shape for a in model.allocations})
    letters = {shape: chr(ord("A") + n % 26) for n, shape in enumerate(shapes)}
    rows: list[tuple[str, ...]] = [
        ("input \\ output", *(f"≤ {edge}" for edge in model.workload.output_edges[1:]), "")
    ]
    for i, edge in enumerate(model.workload.input_edges[1:]):
        if any(model.workload.rates_rps[i]):
            cells = [
                _cell(model, letters, i, j) for j in range(len(model.workload.output_edges) - 1)
            ]
            rows.append((f"≤ {edge}", *cells, ""))
    text = aligned(rows, right=range(len(rows[0]) - 1))
    key = "  ".join(f"{letter} {shape}" for shape, letter in letters.items())
    if coloured:
        head, _, body = text.partition("\n")
        for n, letter in enumerate(letters.values()):
            body = body.replace(letter, click.style(letter, fg=COLOURS[n % len(COLOURS)]))
        text = f"{head}\n{body}"
    return f"{text}{key}\n"


def _cell(model: ModelPlan, letters: dict[str, str], i: int, j: int) -> str:
    if not model.workload.rates_rps[i][j]:
        return "·"
    shares: dict[str, float] = {}
    for allocation in model.allocations:
        shape = allocation.candidate.option.shape
        shares[shape] = shares.get(shape, 0.0) + allocation.shares[i][j]
    shape = max(shares, key=lambda name: shares[name])
    share = shares[shape]
    return letters[shape] if share >= WHOLE_SHARE else f"{letters[shape]}{share * 100:.0f}%"
