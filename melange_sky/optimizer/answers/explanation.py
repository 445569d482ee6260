"""Why a plan is what it is: who serves each bucket and why, what binds, and what each rule costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.optimizer.answers.lowest_cost import least_cost
from melange_sky.optimizer.answers.planned import problem_of
from melange_sky.optimizer.problem.question import SolveOptions
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.levels import levelled_forms

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.optimizer.problem.question import Problem
    from melange_sky.plans import ModelPlan, Plan

FULL = 1e-3
"""An option whose load is this near to its room, as a fraction of it, counts as full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One option for one bucket: its share, and USD per million tokens (input + output) when full.

    `usd_per_million_tokens` is None where the option cannot serve the bucket, for `reason`. `missed_share`
    is the part of the bucket's requests that it serves late, expected to miss their limits.
    """

    option: str
    share: float
    usd_per_million_tokens: float | None
    reason: str | None
    missed_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketReason:
    """One bucket: its options by price, those that serve it, and why these."""

    model: str
    bucket: str
    rate_rps: float
    choices: tuple[Choice, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RulePrice:
    """What one constraint costs, found by solving the whole-instance program again without it.

    `step` is the smallest change that could matter, such as one more GPU; costs are USD per hour.
    A saving is None where time ran out. `binds` is whether leaving the constraint out saves anything.
    """

    rule: str
    step: str
    saved_by_step_usd_per_hour: float | None
    saved_without_usd_per_hour: float | None
    binds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FullOption:
    """An option in the plan and how full it is: load ÷ the room that headroom leaves."""

    model: str
    option: str
    instances: int
    fill_fraction: float
    binds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All reasons for a plan. `savings` are sentences about single accelerators."""

    cost_usd_per_hour: float
    bound_usd_per_hour: float
    buckets: tuple[BucketReason, ...]
    options: tuple[FullOption, ...]
    rules: tuple[RulePrice, ...]
    savings: tuple[str, ...]


def explain(plan: Plan, options: SolveOptions | None = None) -> Explanation:
    """Return the reasons for a plan.

    `bound_usd_per_hour` is the cost of every bucket on its cheapest option were instances
    divisible: the gap to it is what whole instances and constraints cost.
    """
    options = replace(options or SolveOptions(), within_fraction=0.0, alternatives=0)
    problem = problem_of(plan)
    return Explanation(
        cost_usd_per_hour=plan.cost_usd_per_hour,
        bound_usd_per_hour=sum(_divisible_cost(model, plan.headroom) for model in plan.models),
        buckets=tuple(
            reason for model in plan.models for reason in _bucket_reasons(model, plan.headroom)
        ),
        options=tuple(row for model in plan.models for row in _fills(model, problem)),
        rules=rule_prices(problem, options),
        savings=tuple(
            text for model in plan.models for text in _savings(model, len(plan.models) > 1)
        ),
    )


def _price_per_million(
    plan: ModelPlan, headroom: float, capacity: OptionCapacity, i: int, j: int, *, late: bool
) -> float | None:
    cell = capacity.cells[i][j]
    rate = cell.largest_rps if late else cell.max_rate_rps
    tokens = plan.workload.input_sizes[i][j] + plan.workload.output_sizes[i][j]
    if not rate or tokens <= 0:
        return None
    per_hour = rate * (1 - headroom) * 3600 * tokens
    return capacity.option.price_usd_per_hour / per_hour * 1e6


def _divisible_cost(plan: ModelPlan, headroom: float) -> float:
    strict = plan.attainment_per_bucket
    total = 0.0
    for i, j in plan.workload.buckets():
        cells = [(c.option.price_usd_per_hour, c.cells[i][j]) for c in plan.candidates]
        rates = [(price, c.max_rate_rps if strict else c.largest_rps) for price, c in cells]
        prices = [price / rate for price, rate in rates if rate]
        if prices:
            total += min(prices) * plan.workload.rates_rps[i][j] / (1 - headroom)
    return total


def _bucket_reasons(plan: ModelPlan, headroom: float) -> list[BucketReason]:
    return [_bucket_reason(plan, headroom, i, j) for i, j in plan.workload.buckets()]


def _bucket_reason(plan: ModelPlan, headroom: float, i: int, j: int) -> BucketReason:
    shares = {a.candidate.option.name: a.shares[i][j] for a in plan.allocations}
    missed = {a.candidate.option.name: a.missed_share(i, j) for a in plan.allocations}
    choices = [
        Choice(
            option=name,
            share=shares.get(name, 0.0),
            usd_per_million_tokens=_price_per_million(
                plan, headroom, capacity, i, j, late=missed.get(name, 0.0) > 0
            ),
            reason=capacity.cells[i][j].reason,
            missed_share=missed.get(name, 0.0),
        )
        for capacity in plan.candidates
        for name in [capacity.option.name]
    ]
    choices.sort(
        key=lambda c: (c.usd_per_million_tokens is None, c.usd_per_million_tokens or 0.0, c.option)
    )
    return BucketReason(
        model=plan.name,
        bucket=plan.workload.label(i, j),
        rate_rps=plan.workload.rates_rps[i][j],
        choices=tuple(choices),
        why=_why(choices, set(shares)),
    )


def _why(choices: list[Choice], fleet: set[str]) -> str:
    """Return why the serving options serve, in one sentence."""
    able = [c for c in choices if c.usd_per_million_tokens is not None]
    serving = [c for c in able if c.share > 0]
    late = sum(c.missed_share for c in serving)
    if late > 0:
        return (
            f"{late:.0%} of its requests are expected to miss their limits, as slo.attainment allows: "
            "to serve them in time would cost more"
        )
    if len(able) == 1:
        return "the only option that can serve it within the SLO"
    cheapest = able[0]
    if [c.option for c in serving] == [cheapest.option]:
        return "the cheapest option"
    rented = [c for c in able if c.option in fleet]
    if cheapest.option in fleet:
        return f"{cheapest.option} is the cheapest, but its capacity is worth more for other sizes"
    if serving[0].option == rented[0].option and len(serving) == 1:
        return (
            f"the cheapest in the fleet; {cheapest.option} would cost less per token, "
            "but another whole instance of it does not pay"
        )
    return "uses spare capacity of the fleet; another whole instance does not pay"


def _fills(plan: ModelPlan, problem: Problem) -> list[FullOption]:
    rows = []
    for allocation in plan.allocations:
        option = allocation.candidate.option
        derate = problem.constraints.available_fraction(
            use_spot=option.use_spot, nodes=option.nodes
        )
        fill = allocation.load_fraction / ((1 - problem.headroom) * derate)
        rows.append(
            FullOption(
                model=plan.name,
                option=option.name,
                instances=allocation.instances,
                fill_fraction=fill,
                binds=fill >= 1 - FULL,
            )
        )
    return rows


def rule_prices(problem: Problem, options: SolveOptions) -> tuple[RulePrice, ...]:
    """Return what each constraint costs: one step looser, and left out, by solving again."""
    base = least_cost(problem, options).cost_usd_per_hour

    def saved_by(looser: Problem) -> float | None:
        cost = None if base is None else least_cost(looser, options).cost_usd_per_hour
        return None if base is None or cost is None else max(0.0, base - cost)

    rows = []
    canonical = levelled_forms(problem, options)[-1].canonical
    for clause in RuleSet.of(problem, options).clauses(canonical):
        steps = min(clause.steps, clause.priced_step)
        saved = saved_by(clause.dropped(problem))
        rows.append(
            RulePrice(
                rule=clause.text,
                step=clause.remedy(steps),
                saved_by_step_usd_per_hour=saved_by(clause.relaxed(problem, steps)),
                saved_without_usd_per_hour=saved,
                binds=saved is not None and saved > 1e-6,
            )
        )
    return tuple(rows)


def _savings(plan: ModelPlan, several: bool) -> list[str]:
    who = f"{plan.name}: " if several else ""
    priced = [
        (b.cost_usd_per_hour, b)
        for b in plan.baselines
        if b.feasible and b.cost_usd_per_hour is not None
    ]
    if not priced:
        late = any(b.feasible is None for b in plan.baselines)
        known = "is known to serve" if late else "serves"
        return [f"{who}no single accelerator {known} it alone"]
    lines = []
    best = min(priced, key=lambda row: (row[0], row[1].accelerator))[1]
    used = {a.candidate.option.accelerator for a in plan.allocations}
    if used == {best.accelerator}:
        lines.append(f"{who}{best.accelerator} alone is optimal: no mix is cheaper")
    else:
        lines.append(
            f"{who}the mix saves {best.saving_fraction or 0:.1%} against the best single accelerator, {best.accelerator}"
        )
    lines += [
        f"{who}{b.accelerator} alone: ${cost:.3f}/h; the plan saves {b.saving_fraction or 0:.1%}"
        for cost, b in priced
    ]
    lines += [
        f"{who}{b.accelerator} alone: not possible ({b.reason})"
        for b in plan.baselines
        if b.feasible is False
    ]
    lines += [
        f"{who}{b.accelerator} alone: {b.reason}" for b in plan.baselines if b.feasible is None
    ]
    return lines
