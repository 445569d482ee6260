"""A point of the program: whole instances, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.shares import Shares, read_shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.program.run import Outcome

COST_TIE = 1e-9
"""Two costs this close, relative to the larger, are the same cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Instances and paid-for instances per column, their billed cost, and the goal's value.

    Paid for are single instances of the cloud, of which a replica over several nodes takes as many.
    `shares` is what the solver left: of use where slices are whole, or where nothing spreads it better.
    `places` are the columns'.
    """

    instances: list[int]
    fixed: list[int]
    cost: float
    goal: float
    shares: Shares
    places: tuple[int, ...]

    def rank(self) -> tuple[int, int, int, list[int]]:
        """Return the order among fleets of equal cost: types, then instances, then names."""
        return rank_of(self.instances, self.places)


def rank_of(instances: list[int], places: Sequence[int]) -> tuple[int, int, int, list[int]]:
    """Return the rank of these instances of columns at these places."""
    used = [count for count in instances if count]
    by_name = sum(k * n for k, n in zip(places, instances, strict=True))
    return len(used), sum(used), by_name, [-count for count in instances]


def read_point(program: IntegerProgram, outcome: Outcome) -> Point:
    """Return the solved program's point, its integers rounded and its cost summed afresh.

    HiGHS leaves 0.9999999 and -0.0, so values are rounded, never truncated.
    """
    instances = [round(outcome.values[x]) for x in program.x]
    fixed = [0] * len(instances)
    for (_, k), f in program.fixed.items():
        fixed[k] += round(outcome.values[f])
    return make_point(program, instances, fixed, read_shares(program, outcome.values))


def make_point(
    program: IntegerProgram, instances: list[int], fixed: list[int], shares: Shares
) -> Point:
    """Return a point with its cost and goal."""
    rules = RuleSet.of(program.problem, program.options)
    cost = sum(
        (count - paid / column.nodes) * column.price
        for count, paid, column in zip(instances, fixed, program.canonical.columns, strict=True)
    )
    return Point(
        instances=instances,
        fixed=fixed,
        cost=cost,
        goal=cost + rules.goal_beyond_cost(program.canonical, instances),
        shares=shares,
        places=tuple(column.place for column in program.canonical.columns),
    )
