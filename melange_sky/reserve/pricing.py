"""What all known fleets cost in every cell at once, at a box's shadow prices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.cells import Cell
    from melange_sky.reserve.known import Known
    from melange_sky.reserve.market import Box, Market
    from melange_sky.reserve.master import Relaxation
    from melange_sky.reserve.tariff import Tariff

    Floats = NDArray[np.float64]

_AT_ONCE = 3
"""So many known fleets of a cell enter the program at a time."""

_SAME = 1e-9


class Tariffs:
    """The known fleets as a table: in which cells each serves, and how many instances of each option it has."""

    def __init__(self, market: Market, cells: Sequence[Cell], known: Known) -> None:
        """Look the fleets up."""
        self._market, self._cells = market, cells
        self._fleets = known.fleets
        self._counts = known.fleets.astype(np.intp).T.copy()
        mixes = [market.groups[cell.group].mix for cell in cells]
        rates = np.array([cell.rate_rps for cell in cells])
        self._fails = rates[:, None] > known.rates[:, mixes].T

    def best(self, box: Box) -> list[int]:
        """Return the cheapest fleet of every cell beside a box whose purchases between cost nothing."""
        tariffs = [self._market.tariff(self._market.groups[c.group], box) for c in self._cells]
        places: list[int] = self._costs(tariffs).argmin(axis=1).tolist()
        return places

    def cheaper(
        self, box: Box, relaxation: Relaxation
    ) -> Iterator[tuple[int, Tariff, NDArray[np.intp], float]]:
        """Yield cells with a tariff, some fleets cheaper than its dual, and what that may gain in USD."""
        tariffs = [
            self._market.tariff(self._market.groups[cell.group], box, prices)
            for cell, prices in zip(self._cells, relaxation.prices, strict=True)
        ]
        costs = self._costs(tariffs)
        few = min(_AT_ONCE, costs.shape[1] - 1)
        places = np.argpartition(costs, few, axis=1)[:, :_AT_ONCE]
        best = np.take_along_axis(costs, places, axis=1)
        duals = relaxation.duals
        cheap = best < (duals - _SAME * np.maximum(1.0, np.abs(duals)))[:, None]
        for g in np.flatnonzero(cheap.any(axis=1) & (relaxation.weights > 0)).tolist():
            gain = (duals[g] - float(best[g].min())) * relaxation.weights[g]
            yield g, tariffs[g], places[g][cheap[g]], float(gain)

    def _costs(self, tariffs: Sequence[Tariff]) -> Floats:
        """Return what fleets cost, (cells × fleets), inf where one does not serve."""
        if any(tariff.pools for tariff in tariffs):
            costs = np.array([tariff.cost(self._fleets) for tariff in tariffs])
        else:
            most = int(self._counts.max(initial=0)) + 1
            tables = np.array([tariff.table(most) for tariff in tariffs])
            costs = np.zeros(self._fails.shape)
            for option, counts in enumerate(self._counts):
                costs += tables[:, option, counts]
        costs[self._fails] = np.inf
        return costs
