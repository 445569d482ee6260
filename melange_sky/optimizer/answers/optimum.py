"""From a problem to the fleet: least cost first, then the simplest fleet of that cost."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.answers.alternatives import find_alternatives
from melange_sky.optimizer.answers.certificate import check_allocations
from melange_sky.optimizer.answers.conflict import find_conflict
from melange_sky.optimizer.problem.canonical import build_fleet
from melange_sky.optimizer.problem.dominance import drop_dominated
from melange_sky.optimizer.problem.question import Solution, SolveOptions
from melange_sky.optimizer.search.cheapest import find_cheapest, gap_of
from melange_sky.optimizer.search.shares import spread, to_allocations
from melange_sky.optimizer.search.simplest import settle_ties
from melange_sky.optimizer.search.solution_point import COST_TIE, Point
from melange_sky.plans import SolverReport

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.canonical import Fleet
    from melange_sky.optimizer.problem.question import Problem
    from melange_sky.optimizer.program.model import Model
    from melange_sky.optimizer.program.run import Outcome
    from melange_sky.plans import Allocation


def optimize(problem: Problem, options: SolveOptions | None = None) -> Solution:
    """Return the cheapest fleet that serves every demand within the constraints.

    Among fleets of equal cost: fewest option types, then fewest instances, then first by name.
    Raises InfeasibleError naming buckets or constraints, InputError for unusable figures.
    """
    options = options or SolveOptions()
    start = time.perf_counter()
    fleet = drop_dominated(build_fleet(problem), problem.constraints, options)
    model, outcome, cheapest = _cheapest(fleet, problem, options)
    model, chosen = settle_ties(model, outcome, cheapest, options.time_limit_s - _since(start))
    gap = gap_of(outcome, cheapest.goal)
    return Solution(
        allocations=allocate(model, chosen),
        report=SolverReport(
            status="optimal" if gap <= max(options.mip_gap, COST_TIE) else "feasible",
            mip_gap=gap if gap > COST_TIE else 0.0,
            solve_seconds=_since(start),
            solver=outcome.solver,
        ),
        cost_usd_per_hour=chosen.cost,
        optimum_usd_per_hour=cheapest.cost,
        alternatives=find_alternatives(model, chosen, allocate) if options.alternatives else (),
    )


def _cheapest(
    fleet: Fleet, problem: Problem, options: SolveOptions
) -> tuple[Model, Outcome, Point]:
    model, outcome, point = find_cheapest(fleet, problem, options)
    if point is not None:
        return model, outcome, point
    if outcome.status == "infeasible":
        bounded = replace(options, stop_at_s=time.perf_counter() + options.time_limit_s)
        raise InfeasibleError(find_conflict(fleet, problem, bounded).sentence())
    raise InfeasibleError(
        f"no fleet was found within the time limit of {options.time_limit_s:g} s "
        "(none is proven impossible); raise it with --time-limit"
    )


def allocate(model: Model, point: Point) -> tuple[tuple[Allocation, ...], ...]:
    """Settle the shares of a point and re-check it in plain Python.

    Returns its allocations per demand, in the order in which the problem names them.
    """
    shares, fleet = point.shares, model.fleet
    used = [k for k, count in enumerate(point.instances) if count]
    alone = {fleet.columns[k].demand: k for k in used}
    if model.options.assignment == "fractional" and len(alone) < len(used):
        settled = spread(fleet, model.problem, model.options, point.instances)
        shares = shares if settled is None else settled
    elif model.options.assignment == "fractional":
        # One option serves all of a demand: nothing to spread, as in most small fleets.
        shares = {
            (model.offsets[d] + b, k): 1.0
            for d, k in alone.items()
            for b in range(len(fleet.buckets[d]))
        }
    allocations = to_allocations(model.fleet, model.offsets, point.instances, point.fixed, shares)
    check_allocations(model.fleet.demands, allocations, model.problem)
    order = {demand.name: d for d, demand in enumerate(model.fleet.demands)}
    return tuple(allocations[order[demand.name]] for demand in model.problem.demands)


def _since(start: float) -> float:
    return time.perf_counter() - start
