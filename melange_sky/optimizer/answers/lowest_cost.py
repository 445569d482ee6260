"""The least cost alone: what baselines and sensitivities need, without settling shares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.capacities import Origin
from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.optimizer.answers.optimum import optimize
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.search.levels import cheapest_of, settle_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.search.solution_point import Point


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastCost:
    """The least cost found, the gap to what is proven, and how many instances of what have it.

    Those of the simplest fleet of that cost: fewest option types, then fewest instances. Both are
    None where `termination` says that there is no fleet, or that none was found in time. `at_least` where
    the fleet rests on bounds of what was not simulated, so that the least may be more.
    """

    termination: Termination
    cost_usd_per_hour: float | None = None
    instances: int | None = None
    shape: str | None = None
    gap: float = 0.0
    at_least: bool = False


def least_cost(problem: Problem, options: SolveOptions, *, settle: bool = False) -> LeastCost:
    """Return the least cost of any fleet that serves every demand.

    Only with `settle` are the instances those of the simplest such fleet; else they are those of
    the one that the solver came upon.
    """
    options = options.started()
    if len(problem.demands) > 1:
        return _of_several(problem, options)
    try:
        levels = cheapest_of(problem, options)
    except InfeasibleError:
        return LeastCost(termination=Termination.INFEASIBLE)
    if isinstance(levels, Termination):
        return LeastCost(termination=levels)
    cheapest = levels[0].cheapest
    settled = settle_levels(levels, options) if settle else None
    point = cheapest.point if settled is None else settled.point
    program = cheapest.program if settled is None else settled.program
    return LeastCost(
        termination=cheapest.outcome.termination,
        cost_usd_per_hour=point.cost,
        instances=sum(point.instances),
        shape=_shape(program, point.instances),
        gap=cheapest.gap,
        at_least=_rests_on_bounds(program, point),
    )


def _rests_on_bounds(program: IntegerProgram, point: Point) -> bool:
    """Return whether any share is served at a mere bound of the rate."""
    columns = program.canonical.columns
    for b, k, _ in point.shares:
        column = columns[k]
        bucket = program.canonical.buckets[column.demand][b - program.offsets[column.demand]]
        if column.capacity.cells[bucket.i][bucket.j].origin is Origin.BOUND:
            return True
    return False


def _of_several(problem: Problem, options: SolveOptions) -> LeastCost:
    from melange_sky.optimizer.answers.apart import parts_untied  # one model does without

    parts = parts_untied(problem, options)
    if parts is not None:
        return _sum(parts, options)
    try:
        solution = optimize(problem, options)
    except InfeasibleError:
        return LeastCost(termination=Termination.INFEASIBLE)
    except NoPlanInTimeError:
        return LeastCost(termination=Termination.LIMIT)
    allocations = [a for of_model in solution.allocations for a in of_model]
    return LeastCost(
        termination=Termination(solution.report.status),
        cost_usd_per_hour=solution.optimum_usd_per_hour,
        instances=sum(a.instances for a in allocations),
        shape=" + ".join(sorted({a.candidate.option.shape for a in allocations})),
        gap=solution.report.mip_gap,
        at_least=any(a.candidate.has_bounds for a in allocations),
    )


def _sum(parts: Sequence[Problem], options: SolveOptions) -> LeastCost:
    """Return the least cost of models that nothing ties."""
    found: list[LeastCost] = []
    for part, own in options.deadline.of_each(parts):
        found.append(least_cost(part, replace(options, deadline=own)))
        if found[-1].cost_usd_per_hour is None:
            return found[-1]
    cost = sum(one.cost_usd_per_hour or 0.0 for one in found)
    unproven = sum(one.gap * (one.cost_usd_per_hour or 0.0) for one in found)
    unlike = [one.termination for one in found if one.termination is not Termination.OPTIMAL]
    return LeastCost(
        termination=unlike[0] if unlike else Termination.OPTIMAL,
        cost_usd_per_hour=cost,
        instances=sum(one.instances or 0 for one in found),
        shape=" + ".join(sorted({one.shape for one in found if one.shape})),
        gap=unproven / cost if cost > 0 else 0.0,
        at_least=any(one.at_least for one in found),
    )


def _shape(program: IntegerProgram, instances: list[int]) -> str:
    """Return what these instances are, by name where there are several shapes."""
    columns = program.canonical.columns
    used = {c.capacity.option.shape for c, n in zip(columns, instances, strict=True) if n}
    return " + ".join(sorted(used))
