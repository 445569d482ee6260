"""What replicas would carry with their model in another form: a quick look, without simulation.

The closed-form estimates of both forms say by how much the rate changes; that factor goes on top of
what the first form is known to carry. So it is near, never exact, and shown as "about".
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.profiles.constants import engine_generation
from melange_sky.profiles.estimate import GroupKey, Unfit, gpu_group, group_key
from melange_sky.profiles.lookup import planning_sizes
from melange_sky.profiles.shipped import shipped_table
from melange_sky.steps import capacity_estimates

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from melange_sky.capacities import CapacityCell, OptionCapacity
    from melange_sky.models import ModelShape
    from melange_sky.profiles.query import CapacityQuery, ReplicaShape
    from melange_sky.steps import ReplicaModel


@dataclass(frozen=True, slots=True)
class Outlook:
    """Rate in the other form ÷ rate as it is, per group and size, row by row.

    Groups on which either form does not fit are left out; NaN where a closed form knows no rate.
    `shipped` True where tables that ship with the project answer for all groups as they are.
    """

    factors: Mapping[GroupKey, NDArray[np.float64]]
    shipped: bool


def outlook(query: CapacityQuery, other: ModelShape, shapes: Iterable[ReplicaShape]) -> Outlook:
    """Return what holding the model as `other` instead of the query's would change."""
    generation, sizes = engine_generation(query.generation), planning_sizes(query)
    changed = dataclasses.replace(query, model=other)
    pairs: dict[GroupKey, tuple[ReplicaModel, ReplicaModel]] = {}
    shipped = True
    for key in sorted({group_key(shape) for shape in shapes}):
        now = gpu_group(query, key, sizes, generation)
        then = gpu_group(changed, key, sizes, generation)
        if not isinstance(now, Unfit):
            shipped = shipped and shipped_table(now.replica, query.slo) is not None
        if not isinstance(now, Unfit) and not isinstance(then, Unfit):
            pairs[key] = now.replica, then.replica
    rates = capacity_estimates([r for pair in pairs.values() for r in pair], sizes, query.slo)
    factors = {}
    for at, key in enumerate(pairs):
        now_rps, then_rps = rates[2 * at].rate_rps, rates[2 * at + 1].rate_rps
        both = (now_rps > 0) & (then_rps > 0)
        factors[key] = np.divide(then_rps, now_rps, out=np.full_like(now_rps, np.nan), where=both)
    return Outlook(factors, shipped)


def scaled_cells(
    capacity: OptionCapacity, factors: NDArray[np.float64]
) -> tuple[tuple[CapacityCell, ...], ...]:
    """Return an option's cells times the factors; a size without one is not served."""
    flat = iter(factors.tolist())
    return tuple(tuple(_scaled(cell, next(flat)) for cell in row) for row in capacity.cells)


def _scaled(cell: CapacityCell, factor: float) -> CapacityCell:
    if cell.max_rate_rps is None:
        return cell
    if not factor > 0:
        return type(cell).unserved("not known in this form")
    return dataclasses.replace(
        cell, max_rate_rps=cell.max_rate_rps * factor, low_rps=None, high_rps=None
    )
