"""The constraints of a problem one by one, in the user's words, each with a way to loosen it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from melange_sky.constraints import Constraints, InstanceGroup
    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem

_SHARE_STEPS = 1000
"""Shares are loosened in thousandths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One constraint that could be given up.

    `loosen(constraints, step)` makes it looser by so many steps; at `steps` it asks for nothing.
    `told(step)` is what one would have to do, in words.
    """

    text: str
    steps: int
    loosen: Callable[[Constraints, int], Constraints]
    told: Callable[[int], str]
    is_budget: bool = False

    def relaxed(self, problem: Problem, step: int) -> Problem:
        """Return the problem with this constraint looser by `step`."""
        return replace(problem, constraints=self.loosen(problem.constraints, step))

    def dropped(self, problem: Problem) -> Problem:
        """Return the problem without this constraint."""
        return self.relaxed(problem, self.steps)


def clauses(canonical: Canonical, problem: Problem) -> list[Clause]:
    """Return every constraint that could be given up: first those that most likely do not matter."""
    asked = problem.constraints
    found = _share_clauses(asked) + _count_clauses(asked)
    found += [_minimum_clause(n, group) for n, group in enumerate(asked.minimum)]
    found += [_limit_clause(canonical, problem, n) for n in range(len(asked.limits))]
    if (budget := asked.budget_usd_per_hour) is not None:
        found.append(
            Clause(
                text=f"the budget of ${budget:g}/h",
                steps=1,
                loosen=lambda c, _: replace(c, budget_usd_per_hour=None),
                told=lambda _: "lift the budget",
                is_budget=True,
            )
        )
    return found


def _limit_clause(canonical: Canonical, problem: Problem, n: int) -> Clause:
    key, limit = problem.constraints.limits[n]
    usable = 1 - problem.headroom
    most = sum(
        column.units(key)
        * (
            math.ceil(sum(load for load in column.loads if load) / usable)
            + problem.constraints.spare
            + problem.constraints.min_replicas
            + sum(group.instances for group in problem.constraints.minimum)
        )
        for column in canonical.columns
    )

    def loosen(constraints: Constraints, step: int) -> Constraints:
        limits = list(constraints.limits)
        limits[n] = (key, limit + step)
        return replace(constraints, limits=tuple(limits))

    return Clause(
        text=f"the limit of {limit} {key.unit}",
        steps=max(1, 2 * most),
        loosen=loosen,
        told=lambda step: f"raise the limit to {limit + step} {key.unit}",
    )


def _minimum_clause(n: int, group: InstanceGroup) -> Clause:
    def loosen(constraints: Constraints, step: int) -> Constraints:
        minimum = list(constraints.minimum)
        minimum[n] = replace(group, instances=group.instances - step)
        return replace(constraints, minimum=tuple(minimum))

    return Clause(
        text=f"the minimum of {group.label()}",
        steps=max(1, group.instances),
        loosen=loosen,
        told=lambda step: f"lower the minimum to {group.instances - step}",
    )


def _count_clauses(asked: Constraints) -> list[Clause]:
    found = []
    if (least := asked.min_replicas) > 1:
        found.append(
            Clause(
                text=f"at least {least} replicas",
                steps=least,
                loosen=lambda c, step: replace(c, min_replicas=least - step),
                told=lambda step: f"ask for at least {least - step} replicas",
            )
        )
    if (spare := asked.spare) > 0:
        found.append(
            Clause(
                text=f"{spare} spare",
                steps=spare,
                loosen=lambda c, step: replace(c, spare=spare - step),
                told=lambda step: f"ask for {spare - step} spare",
            )
        )
    return found


def _share_clauses(asked: Constraints) -> list[Clause]:
    found = []
    if (region := asked.max_share_per_region) is not None:
        found.append(
            _share_clause(
                "per region", region, lambda c, most: replace(c, max_share_per_region=most)
            )
        )
    if (cloud := asked.max_share_per_cloud) is not None:
        found.append(
            _share_clause("per cloud", cloud, lambda c, most: replace(c, max_share_per_cloud=most))
        )
    if (spot := asked.spot) is not None and spot.max_fraction < 1:
        found.append(
            _share_clause(
                "on spot",
                spot.max_fraction,
                lambda c, most: replace(
                    c, spot=None if c.spot is None else replace(c.spot, max_fraction=most)
                ),
            )
        )
    return found


def _share_clause(
    where: str, asked: float, change: Callable[[Constraints, float], Constraints]
) -> Clause:
    steps = max(1, math.ceil((1 - asked) * _SHARE_STEPS))

    def at(step: int) -> float:
        return 1.0 if step >= steps else asked + step / _SHARE_STEPS

    return Clause(
        text=f"a share {where} of at most {asked:g}",
        steps=steps,
        loosen=lambda c, step: change(c, at(step)),
        told=lambda step: f"allow a share {where} of {at(step):.3g}",
    )
