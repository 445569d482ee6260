"""The search for the least goal, loss scenarios added as they prove to matter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.program.run import divisible, run
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.build import build_program
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.column_bounds import least_goal
from melange_sky.optimizer.search.counting import least_by_counting
from melange_sky.optimizer.search.incumbent import (
    affordable,
    first_options,
    hurried,
    least_alone,
)
from melange_sky.optimizer.search.loss_scenarios import worst_loss
from melange_sky.optimizer.search.solution_point import Point, read_point

if TYPE_CHECKING:
    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import IntegerProgram, Scenario
    from melange_sky.optimizer.program.run import Outcome


LOOSE_GAP = 0.03
"""With spare instances asked for, losses are first sought on fleets this near to the optimum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cheapest:
    """A fleet that keeps to all rules, the program that yielded it, and how far it is proven."""

    program: IntegerProgram
    outcome: Outcome
    point: Point

    @property
    def is_proven(self) -> bool:
        """Whether the solver proved the least goal, to within the gap that it was given."""
        return self.outcome.termination is Termination.OPTIMAL

    @property
    def gap(self) -> float:
        """How far, as a fraction of it, the goal may lie above the least."""
        return gap_of(self.outcome, self.point.goal)

    def unproven(self, bound: float) -> Cheapest:
        """Return the same fleet with no more said of it than that none is cheaper than the bound."""
        outcome = replace(self.outcome, termination=Termination.FEASIBLE, bound=bound)
        return replace(self, outcome=outcome)


def find_cheapest(
    canonical: Canonical, problem: Problem, options: SolveOptions
) -> Cheapest | Termination:
    """Return the fleet of the least goal, or how the search for one ended in vain.

    Large problems are first solved on a few promising options: one instance that costs more than
    that whole fleet is then left out, and if time runs out that fleet is the answer, with its gap.
    """
    found = _find_cheapest(canonical, problem, options)
    if isinstance(found, Termination) or found.is_proven:
        return found
    bound = least_goal(canonical, problem, options)
    return found if (found.outcome.bound or 0.0) >= bound else found.unproven(bound)


def _find_cheapest(
    canonical: Canonical, problem: Problem, options: SolveOptions
) -> Cheapest | Termination:
    unproven: Cheapest | None = None
    if options.known_usd_per_hour is not None:
        unproven = _find_known(canonical, problem, options, options.known_usd_per_hour)
        if unproven is not None and unproven.is_proven:
            return unproven
    cheapest = _find_among_all(canonical, problem, options)
    if unproven is None:
        return cheapest
    if isinstance(cheapest, Termination) or unproven.point.goal < cheapest.point.goal:
        return unproven.unproven(0.0)
    return cheapest


def _find_among_all(
    canonical: Canonical, problem: Problem, options: SolveOptions
) -> Cheapest | Termination:
    spare = RuleSet.of(problem, options).spare_instances
    enough = options.deadline.share(options.search_fraction)
    alone = least_alone(canonical, problem, options)
    if alone is not None:
        canonical = affordable(canonical, problem, options, alone)
    few = first_options(canonical, problem, options)
    if few is None:
        return _find(canonical, problem, options, enough)
    soon = options.deadline.share(1 / 3)
    own = _find_soon(canonical, problem, options, soon) if spare else None
    first = own or _find(few, problem, hurried(options), soon)
    if isinstance(first, Termination):
        return _find(canonical, problem, options, enough)
    rest = affordable(canonical, problem, options, first.point.cost)
    in_time = replace(options, deadline=enough)
    # Past this, fleets with own spares are looked for among what is left.
    enough = enough.share(0.7) if spare else enough
    whole = _find(rest, problem, in_time, enough, _translate(few, rest, first.program))
    if isinstance(whole, Termination):
        return first.unproven(0.0)
    if whole.point.goal <= first.point.goal:
        return whole
    # The promising few's own bound says nothing of the whole; only the whole's may be stated.
    return first.unproven(whole.outcome.bound or 0.0)


def _find_soon(
    canonical: Canonical, problem: Problem, options: SolveOptions, soon: Deadline
) -> Cheapest | None:
    """Return a fleet with own spares, or one of the options of such that survives every loss for less.

    None where there is none with own spares. Nothing is proven of either.
    """
    half = replace(options, deadline=soon.share(0.5))
    own = with_own_spares(canonical, problem, half)
    if own is None:
        return None
    held = own.program.canonical.keep(k for k, n in enumerate(own.point.instances) if n)
    best, in_time = own, replace(options, deadline=soon)
    for among in (held, own.program.canonical):
        better = _find(among, problem, in_time, soon.share(0.7))
        if isinstance(better, Cheapest) and better.point.goal < best.point.goal:
            best = better.unproven(0.0)
    return best


def with_own_spares(
    canonical: Canonical, problem: Problem, options: SolveOptions
) -> Cheapest | None:
    """Return the cheapest fleet of which every kind of option holds spare instances of its own.

    Sought among the options that would be used were instances divisible. None where none is found.
    """
    near = replace(options, mip_gap=max(options.mip_gap, LOOSE_GAP))
    try:
        program = build_program(canonical, problem, near, own_spares=True)
        used = divisible(program.lp, program.x, near)
        if used is not None and any(used):
            canonical = canonical.keep(k for k, count in enumerate(used) if count > 0)
            program = build_program(canonical, problem, near, own_spares=True)
        outcome = run(program.lp, near)
        if outcome.objective is None:
            return None
        point = read_point(program, outcome)
        program = build_program(canonical, problem, options)
    except TimeUpError:
        return None
    return Cheapest(program=program, outcome=outcome, point=point).unproven(0.0)


def _find_known(
    canonical: Canonical, problem: Problem, options: SolveOptions, known: float
) -> Cheapest | None:
    """Return the least goal among fleets of at most the known cost, None where there is none.

    None too where nothing could be left out. Half of the time may go into it.
    """
    rest = affordable(canonical, problem, options, known)
    if len(rest.columns) == len(canonical.columns) or not rest.covers():
        return None
    half = options.deadline.share(0.5)
    cheapest = _find(rest, problem, replace(options, deadline=half), half)
    # Beyond the known cost, a column that was left out could be in a cheaper fleet.
    if isinstance(cheapest, Termination) or cheapest.point.goal > known * (1 + 1e-9):
        return None
    return cheapest


def _translate(few: Canonical, whole: Canonical, program: IntegerProgram) -> tuple[Scenario, ...]:
    """Return the few's loss scenarios in the columns of the whole."""
    place = {(c.demand, c.name): k for k, c in enumerate(whole.columns)}
    return tuple(
        moved
        for scenario in program.scenarios
        if len(
            moved := tuple(
                (place[key], n)
                for k, n in scenario
                if (key := (few.columns[k].demand, few.columns[k].name)) in place
            )
        )
        == len(scenario)
    )


def _find(
    canonical: Canonical,
    problem: Problem,
    options: SolveOptions,
    enough: Deadline,
    scenarios: tuple[Scenario, ...] = (),
) -> Cheapest | Termination:
    """Solve; with spare instances asked for, seek the loss that the fleet does not survive, again.

    Each round adds one of finitely many losses; its bound holds for the whole problem. Past `enough`,
    a fleet that survives every loss is returned with its true gap, else any is sought to the deadline.
    """
    spare = RuleSet.of(problem, options).spare_instances
    gap = max(options.mip_gap, LOOSE_GAP) if spare else options.mip_gap
    safe, bound, is_late = None, 0.0, False
    while not (is_late and safe):
        limited = replace(options, mip_gap=gap, deadline=enough)
        try:
            program = build_program(canonical, problem, options, scenarios=scenarios)
            outcome = _solved(program, _any(options) if is_late else limited)
            bound = max(bound, outcome.bound or 0.0)
            if outcome.termination is Termination.LIMIT and not is_late:
                is_late = True
                safe = with_own_spares(canonical, problem, options) if spare else None
                continue
            if outcome.objective is None:
                return outcome.termination if safe is None else safe.unproven(bound)
            point = read_point(program, outcome)
            loss = worst_loss(canonical, problem, options, point.instances)
        except TimeUpError:
            break
        if loss is not None:
            scenarios = (*scenarios, loss)
            if enough.passed and not is_late:
                is_late, safe = True, safe or with_own_spares(canonical, problem, options)
            continue
        is_late = is_late or enough.passed
        if safe is None or point.goal < safe.point.goal:
            safe = Cheapest(program=program, outcome=outcome, point=point)
        if not is_late and (gap <= options.mip_gap or outcome.termination is Termination.FEASIBLE):
            return replace(safe, outcome=replace(outcome, bound=bound))
        gap = options.mip_gap
    return Termination.LIMIT if safe is None else safe.unproven(bound)


def _solved(program: IntegerProgram, options: SolveOptions) -> Outcome:
    return least_by_counting(program, options) or run(program.lp, options)


def _any(options: SolveOptions) -> SolveOptions:
    """Return options that take any fleet that keeps to the rules, whatever it costs."""
    return replace(options, mip_gap=1e6, within_fraction=0.0, alternatives=0)


def gap_of(outcome: Outcome, goal: float) -> float:
    """Return how far, as a fraction of it, a goal may lie above the least: 0 where it is proven.

    A solver that tells no bound has proven nothing but that no cost is below 0: a gap of 1.
    """
    if goal <= 0 or (
        outcome.termination is Termination.OPTIMAL and outcome.bound == outcome.objective
    ):
        return 0.0
    if outcome.bound is None:
        return 1.0
    return max(0.0, (goal - outcome.bound) / goal)


def is_feasible(canonical: Canonical, problem: Problem, options: SolveOptions) -> bool | None:
    """Return whether any fleet keeps to all constraints, None where time ran out."""
    cheapest = find_cheapest(canonical, problem, _any(options))
    if isinstance(cheapest, Cheapest):
        return True
    return False if cheapest is Termination.INFEASIBLE else None
