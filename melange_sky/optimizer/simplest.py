"""The simplest fleet within a cost band: fewest option types, then instances, then names."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pulp

from melange_sky.optimizer.model import build_model
from melange_sky.optimizer.point import COST_TIE, Point, read_point
from melange_sky.optimizer.solver import run

if TYPE_CHECKING:
    from melange_sky.optimizer.program import Model, Terms


def simplest(model: Model, best: Point, seconds: float) -> Point:
    """Return the simplest point whose goal is at most `within_fraction` above the best's."""
    options = model.options
    band = best.goal * options.within_fraction + COST_TIE * max(1.0, best.goal)
    most = best.goal + band
    start = time.perf_counter()
    if seconds <= 0 or (options.mip_gap > 0 and not options.within_fraction):
        return best
    whole = build_model(model.fleet, model.problem, options, scenarios=model.scenarios)
    _ask_for_simplest(whole, best, most)
    outcome = run(whole.lp, options, seconds - (time.perf_counter() - start))
    if outcome.objective is None:
        return best
    point = read_point(whole)
    return point if point.goal <= most and point.rank() < best.rank() else best


def _ask_for_simplest(model: Model, best: Point, most: float) -> None:
    """Bound the goal and make Σ types, then instances, then names least.

    One type outweighs all instances, one instance outweighs all names.
    The best point shows that no more types than its own are needed.
    """
    model.row(model.goal_terms(), pulp.LpConstraintLE, most, "cost_within_band")
    cap = max(1, sum(best.instances)) * (2 if model.options.within_fraction else 1)
    names = len(model.x)
    terms: Terms = []
    used_terms: Terms = []
    for k, x in enumerate(model.x):
        used = model.lp.add_variable(f"u_{k}", 0, 1, pulp.LpInteger)
        bound = float(min(model.bounds[k], int(most / model.fleet.columns[k].price) + 1))
        if model.fixed or model.options.stay_close:
            bound = float(model.bounds[k])
        model.row([(x, 1.0), (used, -bound)], pulp.LpConstraintLE, 0, f"used_option_{k}")
        terms += [(used, cap + 1.0), (x, 1.0 + k / (names * (cap + 1.0)))]
        used_terms.append((used, 1.0))
    model.row(used_terms, pulp.LpConstraintLE, best.rank()[0], "no_more_types")
    model.lp.setObjective(pulp.LpAffineExpression(terms))
