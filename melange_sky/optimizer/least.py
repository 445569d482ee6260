"""The least cost alone: what baselines and sensitivities need, without settling shares or ties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.dominance import drop_dominated
from melange_sky.optimizer.fleet import build_fleet
from melange_sky.optimizer.search import find_cheapest, gap_of

if TYPE_CHECKING:
    from melange_sky.optimizer.problem import Problem, SolveOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Least:
    """The least cost found, the instances of one fleet that has it, and the gap to what is proven."""

    cost_usd_per_hour: float
    instances: int
    gap: float = 0.0


def least_cost(problem: Problem, options: SolveOptions) -> Least | None:
    """Return the least cost of any fleet that serves every demand, None where there is none.

    None also where time ran out before any fleet was found.
    """
    try:
        fleet = drop_dominated(build_fleet(problem), problem.constraints, options)
    except InfeasibleError:
        return None
    _, outcome, point = find_cheapest(fleet, problem, options)
    if point is None:
        return None
    return Least(
        cost_usd_per_hour=point.cost,
        instances=sum(point.instances),
        gap=gap_of(outcome, point.goal),
    )
