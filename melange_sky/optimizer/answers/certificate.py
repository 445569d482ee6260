"""The result re-checked rule by rule in plain Python, from the nouns alone: no solver is believed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.rules.base import TOLERANCE, FinishedFleet
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.loss_scenarios import shares_after_loss
from melange_sky.optimizer.search.shares import to_matrices

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.rules.base import LateShares
    from melange_sky.optimizer.search.solution_point import Point
    from melange_sky.plans import Allocation
    from melange_sky.workload import Matrix

_SECONDS = 1.0


def check_allocations(
    program: IntegerProgram, point: Point, allocations: tuple[tuple[Allocation, ...], ...]
) -> bool:
    """Raise RuntimeError where the allocations of a point break any rule or cost something else.

    Such an error is a bug of the optimizer, never of its input. What takes a solve, as losses of
    instances do, gets a second past the deadline: False where that did not suffice for every rule.
    """
    fleet = FinishedFleet(
        problem=program.problem,
        options=program.options,
        demands=program.canonical.demands,
        allocations=allocations,
        goal_usd_per_hour=point.goal,
        shares_after_loss=_after_loss(program, point),
    )
    broken: list[str] = []
    is_complete = True
    for rule in RuleSet.of(program.problem, program.options).rules:
        try:
            broken += rule.violations(fleet)
        except TimeUpError:
            is_complete = False
    if abs(fleet.cost_usd_per_hour - point.cost) > TOLERANCE * max(1.0, point.cost):
        broken.append(f"${fleet.cost_usd_per_hour:.6f}/h is billed, not ${point.cost:.6f}/h")
    if broken:
        raise RuntimeError("; ".join(broken))
    return is_complete


def _after_loss(
    program: IntegerProgram, point: Point
) -> Callable[[int, Mapping[str, int]], Mapping[str, tuple[Matrix, LateShares]] | None]:
    """Return what proposes, for a loss of instances, who serves what of those that are left."""
    canonical = program.canonical
    options = replace(program.options, deadline=program.options.deadline.at_least(_SECONDS))

    def after_loss(
        demand: int, lost: Mapping[str, int]
    ) -> Mapping[str, tuple[Matrix, LateShares]] | None:
        scenario = tuple(
            (k, lost[canonical.columns[k].name])
            for k in canonical.of_demand(demand)
            if canonical.columns[k].name in lost
        )
        shares = shares_after_loss(canonical, program.problem, options, point.instances, scenario)
        return None if shares is None else to_matrices(canonical, demand, shares)

    return after_loss
