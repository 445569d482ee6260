"""The search for the least goal, loss scenarios added as they prove to matter."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.optimizer.program.run import run
from melange_sky.optimizer.rules.build import build_program
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.incumbent import affordable, first_options, hurried
from melange_sky.optimizer.search.loss_scenarios import worst_loss
from melange_sky.optimizer.search.solution_point import Point, read_point

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import IntegerProgram, Scenario
    from melange_sky.optimizer.program.run import Outcome


LOOSE_GAP = 0.03
"""With spare instances asked for, losses are first sought on fleets this near to the optimum."""


def find_cheapest(
    canonical: Canonical, problem: Problem, options: SolveOptions
) -> tuple[IntegerProgram, Outcome, Point | None]:
    """Return the program solved for its goal alone; the point is None where none was found.

    Large problems are first solved on a few promising options: one instance that costs more than
    that whole fleet is then left out, and if time runs out that fleet is the answer, gap told.
    """
    start = time.perf_counter()
    if options.known_usd_per_hour is not None:
        found = _find_known(canonical, problem, options, options.known_usd_per_hour)
        if found is not None:
            return found
        options = replace(options, time_limit_s=options.time_limit_s - _since(start))
    few = first_options(canonical, problem, options)
    if few is None:
        return _find(canonical, problem, options)
    program, outcome, point = _find(few, problem, hurried(options))
    if point is None:
        left = options.time_limit_s - (time.perf_counter() - start)
        return _find(canonical, problem, replace(options, time_limit_s=left))
    rest = affordable(canonical, problem, options, point.cost)
    left = options.time_limit_s - (time.perf_counter() - start)
    whole = _find(
        rest, problem, replace(options, time_limit_s=left), _translate(few, rest, program)
    )
    if whole[2] is not None and whole[2].goal <= point.goal:
        return whole
    # The promising few's own bound says nothing of the whole; only the whole's may be told.
    bound = whole[1].bound if whole[1].objective is not None else None
    return program, replace(outcome, status="feasible", bound=bound or 0.0), point


def _find_known(
    canonical: Canonical, problem: Problem, options: SolveOptions, known: float
) -> tuple[IntegerProgram, Outcome, Point] | None:
    """Return the least goal among fleets of at most the known cost, None where there is none.

    None too where nothing could be left out, or time ran out.
    """
    rest = affordable(canonical, problem, options, known)
    if len(rest.columns) == len(canonical.columns) or not rest.covers():
        return None
    program, outcome, point = _find(rest, problem, options)
    # Beyond the known cost, a column that was left out could be in a cheaper fleet.
    if point is None or outcome.status != "optimal" or point.goal > known * (1 + 1e-9):
        return None
    return program, outcome, point


def _since(start: float) -> float:
    return time.perf_counter() - start


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
    scenarios: tuple[Scenario, ...] = (),
) -> tuple[IntegerProgram, Outcome, Point | None]:
    """Solve; with spare instances asked for, seek the loss that the fleet does not survive, again.

    Each round adds one of finitely many losses, and few of them ever matter. Each round's bound
    holds for the whole problem, for it lacks only constraints. Where time runs out, a fleet that
    survives every loss is still returned if one was found, with its true gap.
    """
    start = time.perf_counter()
    spare = RuleSet.of(problem, options).spare_instances
    gap = max(options.mip_gap, LOOSE_GAP) if spare else options.mip_gap
    safe: tuple[IntegerProgram, Outcome, Point] | None = None
    bound = 0.0
    while True:
        program = build_program(canonical, problem, options, scenarios=scenarios)
        seconds_left = options.time_limit_s - (time.perf_counter() - start)
        outcome = run(program.lp, replace(options, mip_gap=gap), seconds_left)
        if outcome.objective is None:
            if outcome.status == "unknown" and safe is not None:
                return safe[0], replace(safe[1], status="feasible", bound=bound), safe[2]
            return program, outcome, None
        bound = max(bound, outcome.bound or 0.0)
        point = read_point(program, outcome)
        loss = worst_loss(canonical, problem, options, point.instances)
        if loss is not None:
            scenarios = (*scenarios, loss)
            continue
        if safe is None or point.goal < safe[2].goal:
            safe = program, outcome, point
        if gap <= options.mip_gap or outcome.status == "feasible":
            return safe[0], replace(outcome, bound=bound), safe[2]
        gap = options.mip_gap


def gap_of(outcome: Outcome, goal: float) -> float:
    """Return how far, as a fraction of it, a goal may lie above the least: 0 where it is proven.

    A solver that tells no bound has proven nothing but that no cost is below 0: a gap of 1.
    """
    if goal <= 0 or (outcome.status == "optimal" and outcome.bound == outcome.objective):
        return 0.0
    if outcome.bound is None:
        return 1.0
    return max(0.0, (goal - outcome.bound) / goal)


def is_feasible(canonical: Canonical, problem: Problem, options: SolveOptions) -> bool | None:
    """Return whether any fleet keeps to all constraints, None where time ran out."""
    any_fleet = replace(options, mip_gap=1e6, within_fraction=0.0, alternatives=0)
    _, outcome, point = find_cheapest(canonical, problem, any_fleet)
    if point is not None:
        return True
    return False if outcome.status == "infeasible" else None
