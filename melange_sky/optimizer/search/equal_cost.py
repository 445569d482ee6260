"""Fleets of the very same cost, found by counting: most optima have none, and need no second solve.

Instances are counted column by column. What n instances of a column must waste (`column_bounds.py`) and
what is left to spend cut the count short; where it grows long all the same, the solver is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melange_sky.optimizer.search.column_bounds import MOST_COUNTED, Waste
from melange_sky.optimizer.search.solution_point import COST_TIE, rank_of

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem

_MOST_STEPS = 4000
_MOST_FLEETS = 12
"""More fleets than these to be tried one by one are left to the solver."""


def simpler_fleets(
    canonical: Canonical, problem: Problem, cost: float, instances: list[int]
) -> list[list[int]] | None:
    """Return every fleet of the same cost that ranks before these instances, in that order.

    Whether they serve at all is not looked at. None where there are too many to count.
    """
    tie = COST_TIE * max(1.0, cost)
    places = [column.place for column in canonical.columns]
    prices = [column.price for column in canonical.columns]
    own_rank = rank_of(instances, places)
    if cost / min(prices) > MOST_COUNTED:
        return None
    room, waste = Waste.of(canonical, problem).of_counts(cost + tie)
    # Dear ones first: few of each fit, and the last, whose number follows from the rest, is cheap.
    order = sorted(range(len(prices)), key=lambda k: (-prices[k], k))
    count = _Count(
        order=order,
        prices=prices,
        waste=waste,
        tie=tie,
        left=[0.0] * (len(order) + 1),
        most_types=own_rank[0],
        chosen=[0] * len(prices),
    )
    for at in range(len(order) - 1, -1, -1):
        k = order[at]
        count.left[at] = count.left[at + 1] + prices[k] * (len(waste[k]) - 1)
    if not count.from_column(0, cost, room, 0):
        return None
    ranked = sorted(
        (rank, fleet) for fleet in count.fleets if (rank := rank_of(fleet, places)) < own_rank
    )
    return [fleet for _, fleet in ranked] if len(ranked) <= _MOST_FLEETS else None


@dataclass(slots=True, kw_only=True)
class _Count:
    """The count so far. `left[n]` is the most that the columns from the n-th on can cost."""

    order: list[int]
    prices: list[float]
    waste: list[list[float]]
    tie: float
    left: list[float]
    most_types: int
    chosen: list[int]
    steps: int = 0
    fleets: list[list[int]] = field(default_factory=list)

    def from_column(self, at: int, spend: float, room: float, types: int) -> bool:
        """Count every way to spend this much on the columns from here on; False: too many."""
        self.steps += 1
        if self.steps > _MOST_STEPS:
            return False
        if spend <= self.tie:
            self.fleets.append(list(self.chosen))
            return True
        if types == self.most_types or spend > self.left[at] + self.tie:
            return True
        k = self.order[at]
        price, waste = self.prices[k], self.waste[k]
        most = min(len(waste) - 1, int((spend + self.tie) / price))
        least = max(0, -int(-(spend - self.left[at + 1] - self.tie) // price))
        for n in range(least, most + 1):
            if waste[n] > room:
                break
            self.chosen[k] = n
            if not self.from_column(at + 1, spend - n * price, room - waste[n], types + (n > 0)):
                return False
        self.chosen[k] = 0
        return True
