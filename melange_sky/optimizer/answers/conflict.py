"""Why no fleet exists: a smallest set of constraints that clash, and the least that would help."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.cheapest import find_cheapest, is_feasible

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.rules.base import Clause

_SECONDS = 20.0
_SECONDS_A_SOLVE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Help:
    """The least change of one constraint that alone would resolve a conflict; `text` says it."""

    clause: Clause
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Constraints of which no fleet keeps to all, and the changes of which any one would do.

    Where `is_minimal`, the rest would hold together without any one of `clauses`; else time ran out
    before that was seen, and some of them may have no part in it. Without any clause, the rate
    itself cannot be served.
    """

    clauses: tuple[Clause, ...]
    helps: tuple[Help, ...]
    is_minimal: bool


def find_conflict(canonical: Canonical, problem: Problem, options: SolveOptions) -> Conflict:
    """Return why no fleet keeps to all constraints, as far as the time suffices.

    A deletion filter (Chinneck & Dravnieks, ORSA J. Computing 3(2), 1991): each constraint is left
    out in turn, for good where the rest still clashes; what remains is minimal. Each that remains
    is then loosened alone, as little as makes the rest possible.
    """
    options = replace(options, deadline=options.deadline.within(_SECONDS))
    kept = RuleSet.of(problem, options).clauses(canonical)
    minimal, is_minimal = problem, True
    for clause in list(kept):
        without = clause.dropped(minimal)
        is_needed = is_feasible(canonical, without, _brief(options))
        if is_needed is False:
            minimal = without
            kept.remove(clause)
        is_minimal &= is_needed is not None
    helps = [_least_help(canonical, problem, clause, options) for clause in kept]
    return Conflict(
        clauses=tuple(kept),
        helps=tuple(help_ for help_ in helps if help_ is not None),
        is_minimal=is_minimal,
    )


def _brief(options: SolveOptions) -> SolveOptions:
    """Return options for one of many solves, none of which may take all the time."""
    return replace(options, deadline=options.deadline.within(_SECONDS_A_SOLVE))


def _least_help(
    canonical: Canonical, problem: Problem, clause: Clause, options: SolveOptions
) -> Help | None:
    """Return how little this constraint must give, all others as asked; None if nothing suffices.

    What is possible only grows with the step, so the least step is found by halving.
    """
    without = clause.dropped(problem)
    if clause.is_budget:
        cheapest = find_cheapest(canonical, without, _brief(options))
        if isinstance(cheapest, Termination):
            return None
        return Help(clause=clause, text=f"raise the budget to ${cheapest.point.cost:.2f}/h")
    if is_feasible(canonical, without, _brief(options)) is not True:
        return None
    low, high = 0, clause.steps
    while high - low > 1:
        middle = (low + high) // 2
        if is_feasible(canonical, clause.relaxed(problem, middle), _brief(options)):
            high = middle
        else:
            low = middle
    return Help(clause=clause, text=clause.remedy(high))
