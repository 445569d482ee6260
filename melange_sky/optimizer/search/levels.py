"""The search over attainment levels: how many of the misses that a target allows go to which requests.

A replica has one load, and so one level of attainment for all that it serves in time. All instances of a
model are therefore counted at one level: at the target, where nothing may be late besides, or at one
above it, whose capacities are lower and which leaves misses to sizes that are served late. Each
combination of levels is a problem of its own with one load per option and bucket, solved as any other;
the best of them is the answer. So a tighter level is taken only where what it leaves late saves more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from melange_sky.capacities import levels_above
from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.registry import RuleSet, checked_form
from melange_sky.optimizer.search.cheapest import Cheapest, find_cheapest
from melange_sky.optimizer.search.column_bounds import Waste, least_goal
from melange_sky.optimizer.search.dominance import drop_dominated
from melange_sky.optimizer.search.incumbent import affordable
from melange_sky.optimizer.search.simplest import settle_ties
from melange_sky.optimizer.search.solution_point import COST_TIE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Demand, Problem, SolveOptions
    from melange_sky.optimizer.search.simplest import Settled

MOST_COMBINATIONS = 9
"""Combinations of levels of several models that are tried; beyond, all move up together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Levelled:
    """A problem with the level of each model chosen, and its canonical form."""

    problem: Problem
    canonical: Canonical


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The cheapest fleet at one combination of levels."""

    levelled: Levelled
    cheapest: Cheapest


def at_levels(problem: Problem) -> list[Problem]:
    """Return the problem at every combination of levels, that of the fewest late requests first."""
    choices = [_levels(demand) for demand in problem.demands]
    combinations = list(product(*choices))
    if len(combinations) > MOST_COMBINATIONS:
        longest = max(choices, key=len)
        combinations = [
            tuple(levels[min(n, len(levels) - 1)] for levels in choices)
            for n in range(len(longest))
        ]
    return [
        replace(
            problem,
            demands=tuple(
                replace(demand, level=level)
                for demand, level in zip(problem.demands, levels, strict=True)
            ),
        )
        for levels in combinations
    ]


def _levels(demand: Demand) -> tuple[float | None, ...]:
    """Return the levels worth a look: the target's alone where no size has a way to be late."""
    if demand.target is None or demand.level is not None:
        return (demand.level,)
    may_be_late = any(
        capacity.cells[i][j].can_be_late(demand.target)
        for capacity in demand.options
        for i, j in demand.workload.buckets()
    )
    return (None, *levels_above(demand.target)) if may_be_late else (None,)


def levelled_forms(problem: Problem, options: SolveOptions) -> list[Levelled]:
    """Return the problem at every combination of levels at which every bucket can be served.

    Without needless columns. Raises as `checked_levels` does.
    """
    return needed_levels(checked_levels(problem, options.deadline), options)


def checked_levels(problem: Problem, deadline: Deadline) -> list[Levelled]:
    """Return the problem at every combination of levels at which every bucket can be served.

    Raises as `checked_form` does where there is none.
    """
    forms: list[Levelled] = []
    refused: InfeasibleError | None = None
    for candidate in at_levels(problem):
        try:
            canonical = checked_form(candidate, deadline)
        except InfeasibleError as error:
            refused = error
            continue
        forms.append(Levelled(problem=candidate, canonical=canonical))
    if not forms and refused is not None:
        raise refused
    return forms


def needed_levels(forms: Iterable[Levelled], options: SolveOptions) -> list[Levelled]:
    """Return forms without needless columns; raise TimeUpError."""
    return [
        replace(form, canonical=drop_dominated(form.canonical, RuleSet.of(form.problem, options)))
        for form in forms
    ]


def find_cheapest_levels(
    forms: list[Levelled], options: SolveOptions
) -> tuple[Level, ...] | Termination:
    """Return the cheapest fleets of all combinations within the band asked for, the best first.

    Or how the search for one ended in vain. Each combination gets its part of the time that is left;
    one that no fleet as cheap as the best can hold is not solved. All are proven, or none.
    """
    found: list[Level] = []
    ends: list[Termination] = []
    doubts: list[float] = []
    for n, form in enumerate(forms):
        part = replace(options, deadline=options.deadline.share(1 / (len(forms) - n)))
        best = min((one.cheapest.point.goal for one in found), default=None)
        canonical = form.canonical if best is None else within(form, part, best)
        if canonical is None:
            continue
        result = find_cheapest(canonical, form.problem, part)
        if isinstance(result, Termination):
            ends.append(result)
            if result is not Termination.INFEASIBLE:
                doubts.append(least_goal(form.canonical, form.problem, options))
        else:
            found.append(Level(levelled=form, cheapest=result))
    if not found:
        return _worst(ends)
    found = _proven_together(found, doubts)
    goal = min(one.cheapest.point.goal for one in found)
    most = goal * (1 + options.within_fraction) + COST_TIE * max(1.0, goal)
    kept = [one for one in found if one.cheapest.point.goal <= most]
    return tuple(sorted(kept, key=lambda one: one.cheapest.point.goal))


def _proven_together(found: list[Level], doubts: list[float]) -> list[Level]:
    """Return the fleets, each with no more said of it than holds over all levels.

    `doubts` are the least goals that the levels without an answer could have.
    """
    if len(found) == 1 and not doubts:
        return found
    bound = min([*doubts, *(one.cheapest.outcome.bound or 0.0 for one in found)])
    is_proven = not doubts and all(one.cheapest.is_proven for one in found)
    together = []
    for one in found:
        cheapest = one.cheapest
        if not is_proven:
            cheapest = cheapest.unproven(bound)
        elif (cheapest.outcome.bound or 0.0) > bound:
            cheapest = replace(cheapest, outcome=replace(cheapest.outcome, bound=bound))
        together.append(replace(one, cheapest=cheapest))
    return together


def within(form: Levelled, options: SolveOptions, best: float) -> Canonical | None:
    """Return what a fleet as cheap as the best known may hold, None where there is no such fleet."""
    if not RuleSet.of(form.problem, options).goal_is_cost:
        return form.canonical
    most = best * (1 + options.within_fraction) + COST_TIE * max(1.0, best)
    if Waste.of(form.canonical, form.problem).bound > most:
        return None
    canonical = affordable(form.canonical, form.problem, options, best)
    return canonical if canonical.covers() else None


def _worst(ends: list[Termination]) -> Termination:
    """Return how a search ended of which each part ended so: a doubt outweighs a proof."""
    doubts = (Termination.LIMIT, Termination.GAVE_UP)
    return next((end for end in doubts if end in ends), Termination.INFEASIBLE)


def cheapest_of(problem: Problem, options: SolveOptions) -> tuple[Level, ...] | Termination:
    """Return the cheapest fleets of a problem by level, the best first, or how the search ended.

    Raises InputError, InfeasibleError where a bucket can be served at no level.
    """
    try:
        return find_cheapest_levels(levelled_forms(problem, options), options)
    except TimeUpError:
        return Termination.LIMIT


def settle_levels(levels: tuple[Level, ...], options: SolveOptions) -> Settled:
    """Return the simplest fleet in the band, over all levels that have one there; first the fewest late."""
    best = levels[0].cheapest.point.goal
    most = best * (1 + options.within_fraction) + COST_TIE * max(1.0, best)
    settled = []
    for level in levels:
        cheapest, room = level.cheapest, most / max(level.cheapest.point.goal, COST_TIE) - 1
        within = max(0.0, room) if options.within_fraction else 0.0
        program = replace(
            cheapest.program, options=replace(cheapest.program.options, within_fraction=within)
        )
        settled.append(settle_ties(replace(cheapest, program=program), options.deadline))
    in_time = all(one.in_time for one in settled)
    return replace(min(settled, key=lambda one: one.point.rank()[:2]), in_time=in_time)
