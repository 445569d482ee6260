"""The fleets that serve a problem's mix, made from the optimizer's own canonical forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.deadline import NEVER, Deadline
from melange_sky.optimizer.problem.question import SolveOptions
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.levels import checked_levels
from melange_sky.reserve.cone import Cone, Shape
from melange_sky.reserve.serving import Served

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer.problem.question import Problem
    from melange_sky.optimizer.search.levels import Levelled


def served_by(problem: Problem, names: Sequence[str], deadline: Deadline = NEVER) -> Served:
    """Return the fleets that serve one model's mix; `names` are the options in the order of the arrays.

    Make the problem at the highest rate that is asked for: tiny loads are rounded up.

    Raises InfeasibleError where a size is served by no option, TimeUpError.
    """
    place = {name: k for k, name in enumerate(names)}
    shapes = [_shape(form, place) for form in checked_levels(problem, deadline)]
    return Served([Cone(shape, deadline) for shape in shapes], deadline)


def _shape(form: Levelled, place: dict[str, int]) -> Shape:
    (demand,), (buckets,) = form.canonical.demands, form.canonical.buckets
    usable = RuleSet.of(form.problem, SolveOptions()).usable_fraction
    rate_rps = demand.workload.rate_rps
    columns = form.canonical.columns
    ways = max(len(column.loads) for column in columns)
    loads = np.full((len(place), ways, len(buckets)), np.inf)
    weights = np.zeros((len(place), ways))
    for column in columns:
        k = place[column.name]
        loads[k, : len(column.loads)] = column.loads / usable / rate_rps
        weights[k, : len(column.weights)] = column.weights
    return Shape(
        loads=loads,
        weights=weights,
        shares=np.array([bucket.rate_rps for bucket in buckets]) / rate_rps,
        may_miss=demand.may_miss_fraction if ways > 1 else 0.0,
    )
