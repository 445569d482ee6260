"""From a problem to the fleet: least cost first, then the simplest fleet of that cost."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.answers.alternatives import find_alternatives
from melange_sky.optimizer.answers.certificate import check_allocations
from melange_sky.optimizer.answers.conflict import find_conflict
from melange_sky.optimizer.problem.canonical import canonical_form
from melange_sky.optimizer.problem.question import Solution, SolveOptions
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.cheapest import find_cheapest, gap_of
from melange_sky.optimizer.search.dominance import drop_dominated
from melange_sky.optimizer.search.shares import spread, to_allocations
from melange_sky.optimizer.search.simplest import settle_ties
from melange_sky.optimizer.search.solution_point import COST_TIE, Point
from melange_sky.plans import SolverReport

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.program.run import Outcome
    from melange_sky.plans import Allocation


def optimize(problem: Problem, options: SolveOptions | None = None) -> Solution:
    """Return the cheapest fleet that serves every demand within the constraints.

    Among fleets of equal cost: fewest option types, then fewest instances, then first by name.
    Raises InfeasibleError naming buckets or constraints, InputError for unusable figures.
    """
    options = options or SolveOptions()
    start = time.perf_counter()
    canonical = drop_dominated(canonical_form(problem), RuleSet.of(problem, options))
    program, outcome, cheapest = _cheapest(canonical, problem, options)
    program, chosen = settle_ties(program, outcome, cheapest, options.time_limit_s - _since(start))
    gap = gap_of(outcome, cheapest.goal)
    return Solution(
        allocations=allocate(program, chosen),
        report=SolverReport(
            status="optimal" if gap <= max(options.mip_gap, COST_TIE) else "feasible",
            mip_gap=gap if gap > COST_TIE else 0.0,
            solve_seconds=_since(start),
            solver=outcome.solver,
        ),
        cost_usd_per_hour=chosen.cost,
        optimum_usd_per_hour=cheapest.cost,
        alternatives=find_alternatives(program, chosen, allocate) if options.alternatives else (),
    )


def _cheapest(
    canonical: Canonical, problem: Problem, options: SolveOptions
) -> tuple[IntegerProgram, Outcome, Point]:
    program, outcome, point = find_cheapest(canonical, problem, options)
    if point is not None:
        return program, outcome, point
    if outcome.status == "infeasible":
        bounded = replace(options, stop_at_s=time.perf_counter() + options.time_limit_s)
        raise InfeasibleError(find_conflict(canonical, problem, bounded).sentence())
    raise InfeasibleError(
        f"no fleet was found within the time limit of {options.time_limit_s:g} s "
        "(none is proven impossible); raise it with --time-limit"
    )


def allocate(program: IntegerProgram, point: Point) -> tuple[tuple[Allocation, ...], ...]:
    """Settle the shares of a point and re-check it in plain Python.

    Returns its allocations per demand, in the order in which the problem names them.
    """
    shares, canonical = point.shares, program.canonical
    used = [k for k, count in enumerate(point.instances) if count]
    alone = {canonical.columns[k].demand: k for k in used}
    if program.options.assignment == "fractional" and len(alone) < len(used):
        settled = spread(canonical, program.problem, program.options, point.instances)
        shares = shares if settled is None else settled
    elif program.options.assignment == "fractional":
        # One option serves all of a demand: nothing to spread, as in most small fleets.
        shares = {
            (program.offsets[d] + b, k): 1.0
            for d, k in alone.items()
            for b in range(len(canonical.buckets[d]))
        }
    allocations = to_allocations(
        program.canonical, program.offsets, point.instances, point.fixed, shares
    )
    check_allocations(program, point, allocations)
    order = {demand.name: d for d, demand in enumerate(program.canonical.demands)}
    return tuple(allocations[order[demand.name]] for demand in program.problem.demands)


def _since(start: float) -> float:
    return time.perf_counter() - start
