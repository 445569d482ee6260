"""Why no fleet exists: a smallest set of constraints that clash, and the least that would help."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.cheapest import find_cheapest, is_feasible

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.rules.base import Clause

_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A minimal set of clashing constraints, and the changes of which any one would resolve it."""

    clashing: tuple[str, ...]
    helps: tuple[str, ...]

    def sentence(self) -> str:
        """Return the conflict as one line."""
        if not self.clashing:
            return "no fleet serves the rate, even with every constraint left out"
        alone = len(self.clashing) == 1
        clash = "cannot hold while the rate is served" if alone else "cannot hold together"
        helps = f"; it would do to {', or to '.join(self.helps)}" if self.helps else ""
        return f"{' and '.join(self.clashing)} {clash}{helps}"


def find_conflict(canonical: Canonical, problem: Problem, options: SolveOptions) -> Conflict:
    """Return why no fleet keeps to all constraints.

    A deletion filter (Chinneck & Dravnieks, ORSA J. Computing 3(2), 1991): each constraint is left
    out in turn, for good where the rest still clashes; what remains is minimal. Each that remains
    is then loosened alone, as little as makes the rest possible.
    """
    deadline = time.perf_counter() + _SECONDS
    brief = replace(options, time_limit_s=min(options.time_limit_s, 5.0))
    kept = RuleSet.of(problem, options).clauses(canonical)
    minimal = problem
    for clause in list(kept):
        without = clause.dropped(minimal)
        if time.perf_counter() < deadline and is_feasible(canonical, without, brief) is False:
            minimal = without
            kept.remove(clause)
    helps = [
        help_
        for clause in kept
        if time.perf_counter() < deadline
        and (help_ := _least_help(canonical, problem, clause, brief)) is not None
    ]
    return Conflict(clashing=tuple(clause.text for clause in kept), helps=tuple(helps))


def _least_help(
    canonical: Canonical, problem: Problem, clause: Clause, options: SolveOptions
) -> str | None:
    """Return how little this constraint must give, all others as asked; None if nothing suffices.

    What is possible only grows with the step, so the least step is found by halving.
    """
    without = clause.dropped(problem)
    if clause.is_budget:
        point = find_cheapest(canonical, without, options)[2]
        return None if point is None else f"raise the budget to ${point.cost:.2f}/h"
    if is_feasible(canonical, without, options) is not True:
        return None
    low, high = 0, clause.steps
    while high - low > 1:
        middle = (low + high) // 2
        if is_feasible(canonical, clause.relaxed(problem, middle), options):
            high = middle
        else:
            low = middle
    return clause.remedy(high)
