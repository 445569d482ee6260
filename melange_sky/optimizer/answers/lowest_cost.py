"""The least cost alone: what baselines and sensitivities need, without settling shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.optimizer.answers.optimum import optimize
from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.search.cheapest import find_cheapest
from melange_sky.optimizer.search.dominance import needed_form
from melange_sky.optimizer.search.simplest import settle_ties

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.search.cheapest import Cheapest


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastCost:
    """The least cost found, the gap to what is proven, and how many instances of what have it.

    Those of the simplest fleet of that cost: fewest option types, then fewest instances. Both are
    None where `termination` says that there is no fleet, or that none was found in time.
    """

    termination: Termination
    cost_usd_per_hour: float | None = None
    instances: int | None = None
    shape: str | None = None
    gap: float = 0.0


def least_cost(problem: Problem, options: SolveOptions, *, settle: bool = False) -> LeastCost:
    """Return the least cost of any fleet that serves every demand.

    Only with `settle` are the instances those of the simplest such fleet; else they are those of
    the one that the solver came upon.
    """
    options = options.started()
    if len(problem.demands) > 1:
        return _of_several(problem, options)
    try:
        canonical = needed_form(problem, options)
    except InfeasibleError:
        return LeastCost(termination=Termination.INFEASIBLE)
    except TimeUpError:
        return LeastCost(termination=Termination.LIMIT)
    cheapest = find_cheapest(canonical, problem, options)
    if isinstance(cheapest, Termination):
        return LeastCost(termination=cheapest)
    point = settle_ties(cheapest, options.deadline).point if settle else cheapest.point
    return LeastCost(
        termination=cheapest.outcome.termination,
        cost_usd_per_hour=point.cost,
        instances=sum(point.instances),
        shape=_shape(cheapest, point.instances),
        gap=cheapest.gap,
    )


def _of_several(problem: Problem, options: SolveOptions) -> LeastCost:
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
    )


def _shape(cheapest: Cheapest, instances: list[int]) -> str:
    """Return what these instances are, by name where there are several shapes."""
    columns = cheapest.program.canonical.columns
    used = {c.capacity.option.shape for c, n in zip(columns, instances, strict=True) if n}
    return " + ".join(sorted(used))
