"""Which requests each option takes, in as few words as describe them well."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.plans import ModelPlan

NEARLY_AS_GOOD = 0.95
"""A range of one size alone is told where it fits at least so well as the best of both sizes."""

Range = tuple[int, int | None]
"""Tokens from above the first to the second, both edges of the grid; None for its last one."""

Places = tuple[int, int]
"""The first row or column of a range, and the one after its last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenTraffic:
    """What the instances of one shape, such as ``A10G:8 tp8``, take of a model's requests.

    `inputs`, `outputs`: the range of sizes that describes it best, None for all sizes. `fit` is the
    harmonic mean of two fractions: of its requests, those in the range; of those in the range, its own.
    """

    shape: str
    requests_fraction: float
    inputs: Range | None
    outputs: Range | None
    fit: float


def taken_traffic(plan: ModelPlan) -> tuple[TakenTraffic, ...]:
    """Return what each shape of a plan's instances takes, the one with most requests last."""
    rates = np.asarray(plan.workload.rates_rps, dtype=float)
    own: dict[str, NDArray[np.float64]] = {}
    for allocation in plan.allocations:
        shape = allocation.candidate.option.shape
        taken = np.asarray(allocation.shares, dtype=float) * rates
        own[shape] = own.get(shape, 0.0) + taken
    rows = [_taken(plan, shape, taken, rates) for shape, taken in own.items()]
    return tuple(sorted(rows, key=lambda row: (row.requests_fraction, row.shape)))


def _taken(
    plan: ModelPlan, shape: str, own: NDArray[np.float64], rates: NDArray[np.float64]
) -> TakenTraffic:
    all_rows, all_columns = (0, rates.shape[0]), (0, rates.shape[1])
    by_fit = {
        (rows, columns): _fit(own, rates, rows, columns)
        for rows in _ranges(rates, axis=1)
        for columns in _ranges(rates, axis=0)
    }
    enough = max(by_fit.values()) * NEARLY_AS_GOOD
    one_size = {
        box: fit
        for box, fit in by_fit.items()
        if fit >= enough and (box[0] == all_rows or box[1] == all_columns)
    }
    (rows, columns), fit = max((one_size or by_fit).items(), key=lambda item: item[1])
    return TakenTraffic(
        shape=shape,
        requests_fraction=float(own.sum() / rates.sum()),
        inputs=None if rows == all_rows else _edges(plan.workload.input_edges, rows),
        outputs=None if columns == all_columns else _edges(plan.workload.output_edges, columns),
        fit=fit,
    )


def _ranges(rates: NDArray[np.float64], axis: int) -> list[Places]:
    """Return all ranges of rows or columns whose ends hold requests, the whole grid among them."""
    count = rates.shape[1 - axis]
    used = np.flatnonzero(rates.sum(axis=axis) > 0)
    inner = {int(place) for place in used[1:]}
    return list(combinations(sorted({0, count} | inner), 2))


def _edges(edges: tuple[int, ...], places: Places) -> Range:
    first, after = places
    return edges[first], edges[after] if after < len(edges) - 1 else None


def _fit(
    own: NDArray[np.float64], rates: NDArray[np.float64], rows: Places, columns: Places
) -> float:
    box = slice(*rows), slice(*columns)
    total = float(own.sum() + rates[box].sum())
    return 2 * float(own[box].sum()) / total if total else 0.0
