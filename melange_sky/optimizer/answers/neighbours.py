"""The fleets next to a plan's: the cheapest that costs less and carries less, and the simplest below it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.optimizer.answers.lowest_cost import least_cost
from melange_sky.optimizer.answers.optimum import optimize
from melange_sky.optimizer.answers.rate_sweep import at_rate
from melange_sky.optimizer.search.solution_point import COST_TIE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.plans import Allocation

LARGEST_SCALE = 8.0
SMALLEST_SCALE = 1 / 64
FINE = 1.01
"""Ratio of request rates below which no fleet between them is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """Another fleet, by the plan's own capacities: its cost, and the total rate that it is planned for.

    `allocations` holds the instances and shares of each model.
    """

    cost_usd_per_hour: float
    rate_rps: float
    allocations: tuple[tuple[Allocation, ...], ...]


def next_cheaper(
    problem: Problem, cost_usd_per_hour: float, options: SolveOptions
) -> Neighbour | None:
    """Return the fleet for the highest rate that costs less than `cost_usd_per_hour`.

    The mix of sizes stays; rates are found to within 1 %. None where no fleet costs less, or where
    time ran out before one was found.
    """
    options = options.started()
    total = sum(demand.workload.rate_rps for demand in problem.demands)
    below = cost_usd_per_hour * (1 - COST_TIE) - COST_TIE

    def is_cheaper(scale: float) -> bool:
        cost = least_cost(at_rate(problem, total * scale), options).cost_usd_per_hour
        return cost is not None and cost < below

    scale = _largest(is_cheaper)
    if scale is None:
        return None
    return _planned(at_rate(problem, total * scale), options)


def next_simpler(
    problem: Problem, allocations: Sequence[Sequence[Allocation]], options: SolveOptions
) -> Neighbour | None:
    """Return the cheapest fleet of one option type fewer for the model that has most of them.

    None where each model has but one, where no such fleet serves, and where time ran out.
    """
    most = max(map(len, allocations)) - 1
    if most < 1:
        return None
    rules = replace(problem.constraints, max_option_types=most)
    return _planned(replace(problem, constraints=rules), options)


def _largest(is_cheaper: Callable[[float], bool]) -> float | None:
    """Return the largest scale of the rate at which a fleet is cheaper, None where there is none."""
    low = high = 1.0
    if is_cheaper(low):
        while high < LARGEST_SCALE and is_cheaper(high * 2):
            high *= 2
        low, high = high, high * 2
    else:
        while not is_cheaper(low := high / 2):
            high = low
            if low < SMALLEST_SCALE:
                return None
    while high / low > FINE:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if is_cheaper(middle) else (low, middle)
    return low


def _planned(problem: Problem, options: SolveOptions) -> Neighbour | None:
    try:
        solution = optimize(problem, options)
    except (InfeasibleError, NoPlanInTimeError):
        return None
    return Neighbour(
        cost_usd_per_hour=solution.cost_usd_per_hour,
        rate_rps=sum(demand.workload.rate_rps for demand in problem.demands),
        allocations=solution.allocations,
    )
