"""The least cost alone: what baselines and sensitivities need, without settling shares."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.problem.canonical import canonical_form
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.cheapest import find_cheapest, gap_of
from melange_sky.optimizer.search.dominance import drop_dominated
from melange_sky.optimizer.search.simplest import settle_ties

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.question import Problem, SolveOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Least:
    """The least cost found, the gap to what is proven, and how many instances have it.

    Those of the simplest fleet of that cost: fewest option types, then fewest instances.
    """

    cost_usd_per_hour: float
    instances: int
    gap: float = 0.0


def least_cost(problem: Problem, options: SolveOptions, *, settle: bool = False) -> Least | None:
    """Return the least cost of any fleet that serves every demand, None where there is none.

    None also where time ran out before any fleet was found. Only with `settle` are the instances
    those of the simplest such fleet; else they are those of the one that the solver came upon.
    """
    start = time.perf_counter()
    try:
        canonical = drop_dominated(canonical_form(problem), RuleSet.of(problem, options))
    except InfeasibleError:
        return None
    program, outcome, point = find_cheapest(canonical, problem, options)
    if point is None:
        return None
    gap = gap_of(outcome, point.goal)
    if settle:
        left = options.time_limit_s - (time.perf_counter() - start)
        _, point = settle_ties(program, outcome, point, left)
    return Least(cost_usd_per_hour=point.cost, instances=sum(point.instances), gap=gap)
