"""Which sizes no option serves, told with as little simulation as that takes.

A size that some option is known to serve needs no more; of one that none is known to serve, options are
simulated, the cheapest at their bounds first, until one serves it or none is left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.capacities import Origin
from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import Unserved, check_served
from melange_sky.profiles import ReplicaShape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer import Deadline, Demand, Problem

FEWEST_REFUSING = 2
"""Options that are simulated at first of a size that none is known to serve; twice as many each time again."""

Bucket = tuple[int, int]


def known_alone(problem: Problem) -> Problem:
    """Return the problem with options that serve only what they are known to."""
    demands = tuple(
        replace(d, options=tuple(option.without_bounds() for option in d.options))
        for d in problem.demands
    )
    return replace(problem, demands=demands)


def unserved_places(problem: Problem, deadline: Deadline) -> list[tuple[Bucket, ...]]:
    """Return, by model, the buckets because of which the problem is refused, none where it is for no bucket.

    Raises TimeUpError.
    """
    try:
        check_served(problem, deadline)
    except InfeasibleError as refused:
        buckets = {c.model: c.buckets for c in refused.causes if isinstance(c, Unserved)}
        return [buckets.get(demand.name, ()) for demand in problem.demands]
    return [() for _ in problem.demands]


def bounds_of_sizes(
    demand: Demand, sizes: Sequence[Bucket], at_once: int
) -> list[tuple[ReplicaShape, Bucket]]:
    """Return, for each size, so many replicas of which only a bound is known, the cheapest first."""
    places: dict[tuple[ReplicaShape, Bucket], None] = {}
    for i, j in sizes:
        costs: dict[ReplicaShape, float] = {}
        for option in demand.options:
            cell = option.cells[i][j]
            if cell.origin is Origin.BOUND and cell.largest_rps:
                shape = ReplicaShape.of(option.option)
                cost = option.option.price_usd_per_hour / cell.largest_rps
                costs[shape] = min(cost, costs.get(shape, cost))
        cheapest = sorted(costs, key=lambda shape: (costs[shape], repr(shape)))[:at_once]
        places.update(dict.fromkeys((shape, (i, j)) for shape in cheapest))
    return list(places)
