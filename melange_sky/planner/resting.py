"""Which sizes of requests a fleet serves at rates that are only bounded, and which of them to simulate next."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from melange_sky.capacities import Origin
from melange_sky.profiles import ReplicaShape

if TYPE_CHECKING:
    from melange_sky.optimizer import Demand, Solution

HEAVIEST, AT_LEAST = 0.95, 16
"""In each of the first rounds, the sizes that bear so much of the cost at bounds are simulated, and so many at least."""

MANY_OPTIONS = 16
"""Among so many options a fleet takes longer to find than dozens of sizes to simulate: late rounds simulate all of
the sizes of what a fleet holds then, not only those it serves there now, as its load would go to these next."""

Places = dict[tuple[ReplicaShape, tuple[int, int]], float]
"""USD per hour of what a fleet serves at a bound, by replica and bucket."""


def at_bounds(demand: Demand, solution: Solution) -> Places:
    """Return what one model's fleet serves at bounds."""
    places: Places = defaultdict(float)
    rates = demand.workload.rates_rps
    for allocation in solution.allocations[0]:
        candidate = allocation.candidate
        shape = ReplicaShape.of(candidate.option)
        for i, j in demand.workload.buckets():
            cell, share = candidate.cells[i][j], allocation.shares[i][j]
            if share > 0 and cell.origin is Origin.BOUND:
                load = share * rates[i][j] / (cell.largest_rps or 1.0)
                places[shape, (i, j)] += candidate.option.price_usd_per_hour * load
    return places


def late_places(demand: Demand, solution: Solution) -> list[tuple[ReplicaShape, tuple[int, int]]]:
    """Return what a late round simulates of one model's fleet, nothing where it serves nothing at a bound."""
    places = at_bounds(demand, solution)
    if not places or len(demand.options) < MANY_OPTIONS:
        return _by_cost(places)
    held = {a.candidate.option.name: a.candidate for a in solution.allocations[0]}.values()
    return [
        (ReplicaShape.of(candidate.option), (i, j))
        for candidate in held
        for i, j in demand.workload.buckets()
        if candidate.cells[i][j].origin is Origin.BOUND
    ]


def _by_cost(places: Places) -> list[tuple[ReplicaShape, tuple[int, int]]]:
    """Return places, those first that bear most."""
    return sorted(places, key=lambda place: (-places[place], place[1]))


def heaviest(places: Places) -> list[tuple[ReplicaShape, tuple[int, int]]]:
    """Return the places that bear most of the cost, all of few."""
    order = _by_cost(places)
    enough, borne = HEAVIEST * sum(places.values()), 0.0
    for taken, place in enumerate(order, start=1):
        borne += places[place]
        if borne >= enough and taken >= AT_LEAST:
            return order[:taken]
    return order
