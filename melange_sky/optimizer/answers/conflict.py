"""Why no fleet exists: a smallest set of constraints that clash, and the least that would help."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.cheapest import is_feasible
from melange_sky.optimizer.search.levels import find_cheapest_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.constraints import Constraints
    from melange_sky.optimizer.problem.question import SolveOptions
    from melange_sky.optimizer.rules.base import Clause
    from melange_sky.optimizer.search.levels import Levelled

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


def find_conflict(forms: Sequence[Levelled], options: SolveOptions) -> Conflict:
    """Return why no fleet keeps to all constraints at any of the levels, as far as the time suffices.

    A deletion filter (Chinneck & Dravnieks, ORSA J. Computing 3(2), 1991): each constraint is left
    out in turn, for good where the rest still clashes; what remains is minimal. Each that remains
    is then loosened alone, as little as makes the rest possible.
    """
    options = replace(options, deadline=options.deadline.within(_SECONDS))
    # What may be given up, and how far at most, is the same at every level but for the bounds.
    first = forms[-1]
    kept = RuleSet.of(first.problem, options).clauses(first.canonical)
    asked = first.problem.constraints
    minimal, is_minimal = asked, True
    for clause in list(kept):
        without = clause.loosen(minimal, clause.steps)
        is_needed = _is_feasible(forms, without, options)
        if is_needed is False:
            minimal = without
            kept.remove(clause)
        is_minimal &= is_needed is not None
    helps = [_least_help(forms, asked, clause, options) for clause in kept]
    return Conflict(
        clauses=tuple(kept),
        helps=tuple(help_ for help_ in helps if help_ is not None),
        is_minimal=is_minimal,
    )


def _brief(options: SolveOptions) -> SolveOptions:
    """Return options for one of many solves, none of which may take all the time."""
    return replace(options, deadline=options.deadline.within(_SECONDS_A_SOLVE))


def _kept_to(forms: Sequence[Levelled], constraints: Constraints) -> list[Levelled]:
    """Return the forms with other constraints."""
    return [replace(f, problem=replace(f.problem, constraints=constraints)) for f in forms]


def _is_feasible(
    forms: Sequence[Levelled], constraints: Constraints, options: SolveOptions
) -> bool | None:
    """Return whether any fleet keeps to these constraints, None where time ran out."""
    brief = _brief(options)
    answers = [is_feasible(f.canonical, f.problem, brief) for f in _kept_to(forms, constraints)]
    if any(answers):
        return True
    return None if None in answers else False


def _least_help(
    forms: Sequence[Levelled], asked: Constraints, clause: Clause, options: SolveOptions
) -> Help | None:
    """Return how little this constraint must give, all others as asked; None if nothing suffices.

    What is possible only grows with the step, so the least step is found by halving.
    """
    without = clause.loosen(asked, clause.steps)
    if clause.is_budget:
        cheapest = find_cheapest_levels(_kept_to(forms, without), _brief(options))
        if isinstance(cheapest, Termination):
            return None
        cost = cheapest[0].cheapest.point.cost
        return Help(clause=clause, text=f"raise the budget to ${cost:.2f}/h")
    if _is_feasible(forms, without, options) is not True:
        return None
    low, high = 0, clause.steps
    while high - low > 1:
        middle = (low + high) // 2
        if _is_feasible(forms, clause.loosen(asked, middle), options):
            high = middle
        else:
            low = middle
    return Help(clause=clause, text=clause.remedy(high))
