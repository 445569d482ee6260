"""Measured cells as capacities: they override estimates cell by cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.capacities import CapacityCell, Origin
from melange_sky.capacity_search import FARTHEST_SD, RatioPoint, ratio_surface, reaches_any
from melange_sky.steps import Load, capacity_estimate

if TYPE_CHECKING:
    from melange_sky.capacity_search import SearchResult
    from melange_sky.profiles.query import CapacityQuery
    from melange_sky.profiletable import MeasuredCell
    from melange_sky.steps import ReplicaModel

_SURE = 1.645


@dataclass(frozen=True, slots=True)
class MeasuredRates:
    """Measured cells of one replica, and what they say of other sizes.

    `points` hold measured ÷ analytic rates, both of the whole replica; `unservable` the sizes that
    were measured to meet the SLO at no rate.
    """

    query: CapacityQuery
    cells: dict[tuple[int, int], MeasuredCell]
    points: tuple[RatioPoint, ...]
    unservable: tuple[tuple[int, int], ...]

    @classmethod
    def of(
        cls, cells: Sequence[MeasuredCell], query: CapacityQuery, engine: tuple[ReplicaModel, int]
    ) -> MeasuredRates:
        """Take in the cells of a replica of so many engines."""
        by_size = {(c.input_tokens, c.output_tokens): c for c in cells}
        guesses = analytic_rates(query, engine, list(by_size))
        points, unservable = [], []
        for (size, cell), guess in zip(by_size.items(), guesses, strict=True):
            known = cell.known(query.slo)
            if cell.settled(query.slo) is None:
                continue
            if known.rate_rps is None:
                unservable.append(size)
            elif guess > 0:
                ratio = math.log(known.rate_rps / guess)
                points.append(RatioPoint(size=size, log_ratio=ratio, sd=known.sd))
        return cls(query, by_size, tuple(points), tuple(unservable))

    def cell(self, sizes: tuple[float, float], guess_rps: float) -> CapacityCell | None:
        """Return the cell of exactly these sizes, or one inferred from those near, None for neither.

        Inferred: the analytic estimate `guess_rps` (0: not servable) times the ratio that the measured
        sizes show, where that ratio is known well enough and no smaller size was measured unservable.
        """
        exact = self.cells.get((round(sizes[0]), round(sizes[1])))
        if exact is not None and (found := exact.settled(self.query.slo)) is not None:
            return _as_cell(found, Origin.MEASURED)
        if not self.points or guess_rps <= 0 or reaches_any(sizes, self.unservable):
            return None
        surface = ratio_surface(self.points, [sizes])
        sd = float(surface.sd[0])
        if sd > FARTHEST_SD:
            return None
        rate = guess_rps * math.exp(float(surface.mean[0]))
        return CapacityCell(
            max_rate_rps=rate,
            origin=Origin.INTERPOLATED,
            low_rps=rate * math.exp(-_SURE * sd),
            high_rps=rate * math.exp(_SURE * sd),
        )


def analytic_rates(
    query: CapacityQuery, engine: tuple[ReplicaModel, int], sizes: Sequence[tuple[float, float]]
) -> list[float]:
    """Return the analytic estimates of a replica of so many engines."""
    replica, copies = engine
    inputs, outputs = np.asarray(sizes, dtype=np.float64).reshape(-1, 2).T
    load = Load(input_tokens=inputs, output_tokens=outputs)
    rates: list[float] = (copies * capacity_estimate(replica, load, query.slo).rate_rps).tolist()
    return rates


def _as_cell(found: SearchResult, origin: Origin) -> CapacityCell:
    if found.max_rate_rps is None:
        return CapacityCell(max_rate_rps=None, origin=origin, reason=f"measured: {found.reason}")
    return CapacityCell(
        max_rate_rps=found.max_rate_rps,
        origin=origin,
        low_rps=found.low_rps or found.max_rate_rps,
        high_rps=found.high_rps or found.max_rate_rps,
    )
