"""The simplest fleet within a cost band: fewest option types, then instances, then names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.program.linear import LE
from melange_sky.optimizer.program.run import run
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.build import build_program
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.column_bounds import worth_a_look
from melange_sky.optimizer.search.counting import simpler_by_counting
from melange_sky.optimizer.search.equal_cost import simpler_fleets
from melange_sky.optimizer.search.loss_scenarios import worst_loss
from melange_sky.optimizer.search.solution_point import COST_TIE, Point, make_point, read_point

if TYPE_CHECKING:
    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.program.integer_program import IntegerProgram, Scenario
    from melange_sky.optimizer.program.linear import Terms
    from melange_sky.optimizer.search.cheapest import Cheapest


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The chosen point and the program that yielded it; `in_time` unless time ran out before."""

    program: IntegerProgram
    point: Point
    in_time: bool = True


def settle_ties(cheapest: Cheapest, deadline: Deadline) -> Settled:
    """Return the simplest fleet of (nearly) the least goal; the cheapest itself where time runs out."""
    best, scenarios = cheapest.point, cheapest.program.scenarios
    options = replace(cheapest.program.options, deadline=deadline)
    unsettled = replace(cheapest.program, options=options)
    if not cheapest.is_proven:
        return Settled(program=unsettled, point=best, in_time=False)
    try:
        while True:
            program = replace(unsettled, scenarios=scenarios)
            point = simplest(program, best)
            loss = worst_loss(program.canonical, program.problem, options, point.instances)
            if loss is None:
                return Settled(program=program, point=point)
            scenarios = (*scenarios, loss)
    except TimeUpError:
        return Settled(program=unsettled, point=best, in_time=False)


def simplest(program: IntegerProgram, best: Point) -> Point:
    """Return the simplest point whose goal is at most `within_fraction` above the best's.

    Raises TimeUpError.
    """
    options = program.options
    band = best.goal * options.within_fraction + COST_TIE * max(1.0, best.goal)
    most = best.goal + band
    if options.mip_gap > 0 and not options.within_fraction:
        return best
    options.deadline.check()
    kept = set(worth_a_look(program.canonical, program.problem, options, most))
    used = {k for k, count in enumerate(best.instances) if count}
    if kept <= used and len(used) == 1:
        return best
    kept |= used | {k for scenario in program.scenarios for k, _ in scenario}
    small, scenarios = _keep(program, sorted(kept))
    own_instances = [best.instances[k] for k in sorted(kept)]
    goal_is_cost = RuleSet.of(program.problem, options).goal_is_cost
    is_tie = goal_is_cost and not options.within_fraction
    fleets = simpler_fleets(small, program.problem, best.cost, own_instances) if is_tie else None
    if fleets == []:
        return best
    part = build_program(small, program.problem, options, scenarios=scenarios)
    if fleets is not None:
        point = _first_that_serves(part, fleets)
        return best if point is None else _in_whole(program, point, sorted(kept))
    outcome = simpler_by_counting(part, options, own_instances, most) if is_tie else None
    if outcome is None:
        _ask_for_simplest(part, best, most)
        outcome = run(part.lp, options)
    if outcome.termination is Termination.LIMIT:
        raise TimeUpError
    if outcome.objective is None:
        return best
    point = _in_whole(program, read_point(part, outcome), sorted(kept))
    return point if point.goal <= most and point.rank() < best.rank() else best


def _first_that_serves(part: IntegerProgram, fleets: list[list[int]]) -> Point | None:
    """Return the first of these fleets that keeps to all of the program's constraints."""
    for x in part.x:
        part.lp.whole[x] = False  # both bounds hold it
    for instances in fleets:
        for x, count in zip(part.x, instances, strict=True):
            part.lp.lower[x] = part.lp.upper[x] = float(count)
        outcome = run(part.lp, part.options)
        if outcome.termination is Termination.LIMIT:
            raise TimeUpError
        if outcome.objective is not None:
            return read_point(part, outcome)
    return None


def _keep(program: IntegerProgram, kept: list[int]) -> tuple[Canonical, tuple[Scenario, ...]]:
    """Return the program's problem and loss scenarios with only these columns."""
    place = {k: n for n, k in enumerate(kept)}
    scenarios = tuple(tuple((place[k], n) for k, n in lost) for lost in program.scenarios)
    return program.canonical.keep(kept), scenarios


def _in_whole(program: IntegerProgram, point: Point, kept: list[int]) -> Point:
    """Return a point over some columns as one over all of the program's."""
    instances, fixed = [0] * len(program.x), [0] * len(program.x)
    for n, k in enumerate(kept):
        instances[k], fixed[k] = point.instances[n], point.fixed[n]
    shares = {(b, kept[n], way): share for (b, n, way), share in point.shares.items()}
    return make_point(program, instances, fixed, shares)


def _ask_for_simplest(program: IntegerProgram, best: Point, most: float) -> None:
    """Bound the goal and make Σ types, then instances, then names least.

    One type outweighs all instances, one instance outweighs all names.
    The best point shows that no more types than its own are needed.
    """
    program.row(program.goal_terms(), LE, most, "cost_within_band")
    cap = max(1, sum(best.instances)) * (2 if program.options.within_fraction else 1)
    names = max(column.place for column in program.canonical.columns) + 1
    goal_is_cost = RuleSet.of(program.problem, program.options).goal_is_cost
    terms: Terms = []
    used_terms: Terms = []
    for k, x in enumerate(program.x):
        used = program.lp.add(f"u_{k}", 0.0, 1.0, whole=True)
        bound = program.bounds[k]
        if goal_is_cost:
            bound = min(bound, int(most / program.canonical.columns[k].price) + 1)
        program.row([(x, 1.0), (used, -float(bound))], LE, 0, f"used_option_{k}")
        terms += [
            (used, cap + 1.0),
            (x, 1.0 + program.canonical.columns[k].place / (names * (cap + 1.0))),
        ]
        used_terms.append((used, 1.0))
    program.row(used_terms, LE, best.rank()[0], "no_more_types")
    program.lp.goal = terms
