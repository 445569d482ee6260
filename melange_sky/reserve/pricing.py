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

_AT_ONCE = 4
"""So many known fleets of a cell enter the program at a time."""

_SAME = 1e-9


class Tariffs:
    """The known fleets beside a box: in which cells each serves, and what it costs there at any shadow prices.

    Purchases of one option cover its instances in order of their prices in a cell; arrays of them are (cells ×
    options × purchases of the option).
    """

    def __init__(self, market: Market, cells: Sequence[Cell], known: Known, box: Box) -> None:
        """Look the fleets up."""
        self._market, self._cells, self._box = market, cells, box
        self._fleets = known.fleets
        self._counts = known.fleets.astype(np.intp).T.copy()
        groups = [market.groups[cell.group] for cell in cells]
        rates = np.array([cell.rate_rps for cell in cells])
        self._fails = rates[:, None] > known.rates[:, [group.mix for group in groups]].T
        active = np.array([group.active for group in groups])
        self._rents = np.array([group.rents for group in groups])
        free = np.array([group.owned for group in groups])
        alone = market.alone
        self._steps = np.array([k for k, j in enumerate(alone) if j is not None], dtype=np.intp)
        self._options = np.array([j for j in alone if j is not None], dtype=np.intp)
        self._slots = np.array(
            [(self._options[:n] == j).sum() for n, j in enumerate(self._options)], dtype=np.intp
        )
        self._widths = np.zeros((*free.shape, int(self._slots.max(initial=0)) + 1))
        for k, j, slot in zip(self._steps, self._options, self._slots, strict=True):
            free[:, j] += active[:, k] * box.low[k]
            self._widths[:, j, slot] = active[:, k] * (box.high[k] - box.low[k])
        most = np.arange(int(self._counts.max(initial=0)) + 1.0)
        self._beyond = np.maximum(most - free[:, :, None], 0.0)
        pools = [k for k, j in enumerate(alone) if j is None]
        self._has_pools = bool((active[:, pools] & (box.high[pools] > 0)).any())

    def best(self) -> list[int]:
        """Return the cheapest fleet of every cell where the purchases between cost nothing."""
        prices = np.zeros((len(self._cells), len(self._market.usd)))
        places: list[int] = self._costs(prices).argmin(axis=1).tolist()
        return places

    def cheaper(
        self, relaxation: Relaxation
    ) -> Iterator[tuple[int, Tariff, NDArray[np.intp], float]]:
        """Yield cells with a tariff, some fleets cheaper than its dual, and what that may gain in USD."""
        costs = self._costs(relaxation.prices)
        few = min(_AT_ONCE, costs.shape[1] - 1)
        places = np.argpartition(costs, few, axis=1)[:, :_AT_ONCE]
        best = np.take_along_axis(costs, places, axis=1)
        duals = relaxation.duals
        cheap = best < (duals - _SAME * np.maximum(1.0, np.abs(duals)))[:, None]
        for g in np.flatnonzero(cheap.any(axis=1) & (relaxation.weights > 0)).tolist():
            gain = (duals[g] - float(best[g].min())) * relaxation.weights[g]
            yield g, self._tariff(g, relaxation.prices[g]), places[g][cheap[g]], float(gain)

    def _tariff(self, g: int, prices: Floats) -> Tariff:
        return self._market.tariff(self._market.groups[self._cells[g].group], self._box, prices)

    def _costs(self, prices: Floats) -> Floats:
        """Return what fleets cost at prices, (cells × purchases): (cells × fleets), inf where one does not serve."""
        if self._has_pools:
            costs = np.array(
                [self._tariff(g, row).cost(self._fleets) for g, row in enumerate(prices)]
            )
        else:
            table = self._table(prices)
            costs = np.zeros(self._fails.shape)
            for option, counts in enumerate(self._counts):
                costs += table[:, option, counts]
        costs[self._fails] = np.inf
        return costs

    def _table(self, prices: Floats) -> Floats:
        """Return what 0, 1, … instances of each option cost, (cells × options × counts)."""
        own = np.zeros(self._widths.shape)
        capped = np.minimum(prices[:, self._steps], self._rents[:, self._options])
        own[:, self._options, self._slots] = capped
        order = np.argsort(own, axis=2, kind="stable")
        own = np.take_along_axis(own, order, axis=2)
        widths = np.take_along_axis(self._widths, order, axis=2)
        rest = self._beyond
        table: Floats = np.zeros(rest.shape)
        for slot in range(widths.shape[2]):
            width = widths[:, :, slot, None]
            taken = np.minimum(rest, width)
            table += own[:, :, slot, None] * taken
            rest = rest - taken
        table += rest * self._rents[:, :, None]
        return table
