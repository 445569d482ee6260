"""From a problem to the fleet: least cost first, then the simplest fleet of that cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulp

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.check import check_allocations
from melange_sky.optimizer.dominance import drop_dominated
from melange_sky.optimizer.fleet import build_fleet
from melange_sky.optimizer.model import build_model
from melange_sky.optimizer.problem import Solution, SolveOptions
from melange_sky.optimizer.shares import read_shares, spread, to_allocations
from melange_sky.optimizer.solver import run
from melange_sky.plan import SolverReport

if TYPE_CHECKING:
    from melange_sky.optimizer.model import Model
    from melange_sky.optimizer.problem import Problem
    from melange_sky.optimizer.shares import Shares
    from melange_sky.optimizer.solver import Outcome
    from melange_sky.plan import Allocation

COST_TIE = 1e-9
"""Two costs this close, relative to the larger, are the same cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A point of the model: instances and paid-for instances per column, shares where sliced."""

    instances: list[int]
    fixed: list[int]
    cost: float
    shares: Shares


def optimize(problem: Problem, options: SolveOptions | None = None) -> Solution:
    """Return the cheapest fleet that serves every demand within the constraints.

    Among fleets of equal cost: fewest option types, then fewest instances, then first by name.
    Raises InfeasibleError naming buckets or constraints, InputError for unusable figures.
    """
    options = options or SolveOptions()
    start = time.perf_counter()
    fleet = build_fleet(problem)
    fleet = drop_dominated(fleet, problem.constraints, options)
    model = build_model(fleet, problem, options)
    outcome = run(model.lp, options, options.time_limit_s)
    if outcome.status == "infeasible":
        raise InfeasibleError("no fleet keeps to all constraints at once")
    if outcome.status == "unknown":
        raise InfeasibleError(
            f"no fleet was found within the time limit of {options.time_limit_s:g} s "
            "(none is proven impossible); raise it with --time-limit"
        )
    cheapest = read_point(model)
    chosen = _simplest(model, options, outcome, cheapest)
    allocations = allocate(model, problem, options, chosen)
    gap = _gap(outcome, cheapest.cost)
    order = {demand.name: d for d, demand in enumerate(fleet.demands)}
    return Solution(
        allocations=tuple(allocations[order[demand.name]] for demand in problem.demands),
        report=SolverReport(
            status="optimal" if gap <= max(options.mip_gap, COST_TIE) else "feasible",
            mip_gap=gap if gap > COST_TIE else 0.0,
            solve_seconds=time.perf_counter() - start,
            solver=outcome.solver,
        ),
        cost_usd_per_hour=chosen.cost,
        optimum_usd_per_hour=cheapest.cost,
    )


def read_point(model: Model) -> Found:
    """Return the solved model's point with its integers rounded and its cost summed afresh."""
    instances = [round(x.varValue or 0.0) for x in model.x]
    fixed = [0] * len(instances)
    for (_, k), f in model.fixed.items():
        fixed[k] += round(f.varValue or 0.0)
    cost = sum(
        (count - paid) * column.price
        for count, paid, column in zip(instances, fixed, model.fleet.columns, strict=True)
    )
    return Found(instances=instances, fixed=fixed, cost=cost, shares=read_shares(model))


def _gap(outcome: Outcome, cost: float) -> float:
    if outcome.status == "optimal" or outcome.bound is None or cost <= 0:
        return 0.0
    return max(0.0, (cost - outcome.bound) / cost)


def _simplest(model: Model, options: SolveOptions, outcome: Outcome, best: Found) -> Found:
    """Return the simplest fleet that costs at most `within_fraction` more than the best.

    Weights: one option type outweighs all instances, one instance outweighs all names.
    """
    seconds_left = options.time_limit_s - outcome.seconds
    if outcome.status != "optimal" or seconds_left <= 0:
        return best
    most = best.cost * (1 + options.within_fraction) + COST_TIE * max(1.0, best.cost)
    model.row(model.cost_terms(), pulp.LpConstraintLE, most, "cost_within_band")
    cap = max(1, sum(best.instances)) * (10 if options.within_fraction else 1)
    names = len(model.x)
    terms: list[tuple[pulp.LpVariable, float]] = []
    for k, x in enumerate(model.x):
        used = model.lp.add_variable(f"u_{k}", 0, 1, pulp.LpInteger)
        model.row(
            [(x, 1.0), (used, -float(model.bounds[k]))], pulp.LpConstraintLE, 0, f"used_option_{k}"
        )
        terms += [(used, cap + 1.0), (x, 1.0 + k / (names * (cap + 1.0)))]
    model.lp.setObjective(pulp.LpAffineExpression(terms))
    second = run(model.lp, options, seconds_left)
    if second.objective is None:
        return best
    simple = read_point(model)
    return simple if simple.cost <= most and _rank(simple) < _rank(best) else best


def _rank(found: Found) -> tuple[int, int, list[int]]:
    used = [count for count in found.instances if count]
    return len(used), sum(used), [-count for count in found.instances]


def allocate(
    model: Model, problem: Problem, options: SolveOptions, found: Found
) -> tuple[tuple[Allocation, ...], ...]:
    """Settle the shares of a point, re-check it in plain Python and return its allocations."""
    shares = found.shares
    if options.assignment == "fractional":
        settled = spread(model.fleet, problem, options, found.instances)
        shares = settled[1] if settled is not None else shares
    allocations = to_allocations(model.fleet, model.offsets, found.instances, found.fixed, shares)
    check_allocations(model.fleet.demands, allocations, problem)
    return allocations
