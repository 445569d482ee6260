"""What all known fleets cost in every cell at once, at a box's shadow prices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.cells import Cell
    from melange_sky.reserve.known import Known
    from melange_sky.reserve.levels import Levels
    from melange_sky.reserve.market import Market
    from melange_sky.reserve.master import Shadows
    from melange_sky.reserve.tariff import Tariff

    Floats = NDArray[np.float64]

_AT_ONCE = 4
"""So many known fleets of a cell enter the program at a time."""

_SAME = 1e-9


class Tariffs:
    """The known fleets beside a box in levels: where each serves, and what it costs there at any shadow prices.

    Purchases of one option cover its instances in order of their prices in a cell; arrays of them are (cells ×
    covered options × slots), a slot per level of the option's purchases.
    """

    def __init__(self, market: Market, cells: Sequence[Cell], known: Known, levels: Levels) -> None:
        """Look the fleets up."""
        self._market, self._cells, self._levels = market, cells, levels
        self._known = known
        self._groups = [market.groups[cell.group] for cell in cells]
        active = np.array([group.active for group in self._groups])
        self._rents = np.array([group.rents for group in self._groups])
        self._free = np.array([group.owned for group in self._groups])
        alone = market.alone
        for k, option in enumerate(alone):
            if option is not None:
                self._free[:, option] += active[:, k] * levels.box.low[k]
        of_option = [(n, alone[k]) for n, k in enumerate(levels.purchase.tolist())]
        self._places = np.array([n for n, j in of_option if j is not None], dtype=np.intp)
        self._options = np.array([j for _, j in of_option if j is not None], dtype=np.intp)
        self._slots = np.array(
            [(self._options[:n] == j).sum() for n, j in enumerate(self._options)], dtype=np.intp
        )
        self._covered, self._rows = np.unique(self._options, return_inverse=True)
        slots = int(self._slots.max(initial=-1)) + 1
        self._widths = np.zeros((len(cells), len(self._covered), slots))
        here = active[:, levels.purchase[self._places]]
        self._widths[:, self._rows, self._slots] = here * levels.width[self._places]
        pools = [k for k, j in enumerate(alone) if j is None]
        self._has_pools = bool((active[:, pools] & (levels.box.high[pools] > 0)).any())
        self._look_up()

    def _look_up(self) -> None:
        """Take in what fleets are known by now."""
        known = self._known
        self._fleets = known.fleets
        self._counts = known.fleets.astype(np.intp).T.copy()
        rates = np.array([cell.rate_rps for cell in self._cells])
        mixes = [group.mix for group in self._groups]
        self._fails = rates[:, None] > known.rates[:, mixes].T
        most = np.arange(int(self._counts.max(initial=0)) + 1.0)
        self._beyond = np.maximum(most - self._free[:, :, None], 0.0)
        self._rented = self._beyond * self._rents[:, :, None]

    def cheapest(self, prices: Floats) -> tuple[NDArray[np.intp], Floats]:
        """Return the cheapest known fleet of every cell at prices, (cells × levels), and what it costs an hour."""
        costs = self._costs(prices)
        places = costs.argmin(axis=1)
        return places, costs[np.arange(len(costs)), places]

    def near(self, prices: Floats) -> Iterator[tuple[int, Tariff, NDArray[np.intp]]]:
        """Yield every cell with a tariff at prices, (cells × levels), and its cheapest known fleets."""
        costs = self._costs(prices)
        few = min(_AT_ONCE, costs.shape[1] - 1)
        for g, places in enumerate(np.argpartition(costs, few, axis=1)[:, :_AT_ONCE]):
            serve = places[np.isfinite(costs[g, places])]
            yield g, self._market.tariff(self._groups[g], self._levels, prices[g]), serve

    def cheaper(self, shadows: Shadows) -> Iterator[tuple[int, Tariff, NDArray[np.intp], float]]:
        """Yield cells with a tariff, some fleets cheaper than its dual, and what that may gain in USD."""
        costs = self._costs(shadows.prices)
        few = min(_AT_ONCE, costs.shape[1] - 1)
        places = np.argpartition(costs, few, axis=1)[:, :_AT_ONCE]
        best = np.take_along_axis(costs, places, axis=1)
        duals = shadows.duals
        cheap = best < (duals - _SAME * np.maximum(1.0, np.abs(duals)))[:, None]
        for g in np.flatnonzero(cheap.any(axis=1) & (shadows.weights > 0)).tolist():
            gain = (duals[g] - float(best[g].min())) * shadows.weights[g]
            yield g, self.tariff(g, shadows), places[g][cheap[g]], float(gain)

    def tariff(self, g: int, shadows: Shadows) -> Tariff:
        """Return what fleets cost in a cell."""
        return self._market.tariff(self._groups[g], self._levels, shadows.prices[g])

    def _costs(self, prices: Floats) -> Floats:
        """Return what fleets cost at prices, (cells × levels): (cells × fleets), inf where one does not serve."""
        if len(self._known) > len(self._fleets):
            self._look_up()
        table, rest = self._table(prices)
        costs = np.zeros(self._fails.shape)
        for option, counts in enumerate(self._counts):
            costs += table[:, option, counts]
        if self._has_pools:
            for g in range(len(self._cells)):
                costs[g] -= self._pooled(
                    self._market.tariff(self._groups[g], self._levels, prices[g]), rest[g]
                )
        costs[self._fails] = np.inf
        return costs

    def _pooled(self, tariff: Tariff, rest: Floats) -> Floats:
        """Return what pools save each fleet, (fleets); `rest`, (options × counts), is what steps leave."""
        saved = np.zeros(len(self._fleets))
        left = {j: rest[j][self._counts[j]] for pool in tariff.pools for j in pool.order.tolist()}
        for pool in tariff.pools:
            used = np.zeros(len(saved))
            for j, worth in zip(pool.order.tolist(), pool.worths.tolist(), strict=True):
                room = float(pool.widths[pool.prices < worth].sum())
                drawn = np.minimum(left[j] * pool.draws[j], np.maximum(room - used, 0.0))
                used += drawn
                saved += worth * drawn
                left[j] = left[j] - drawn / pool.draws[j]
            ends = np.concatenate(([0.0], np.cumsum(pool.widths)))
            paid = np.concatenate(([0.0], np.cumsum(pool.widths * pool.prices)))
            saved -= np.interp(used, ends, paid)
        return saved

    def _table(self, prices: Floats) -> tuple[Floats, Floats]:
        """Return what 0, 1, … instances of each option cost, (cells × options × counts), and those rented."""
        rents = self._rents[:, self._options]
        capped = np.minimum(prices[:, self._places], rents)
        own = np.zeros(self._widths.shape)
        own[:, self._rows, self._slots] = capped
        widths = self._widths.copy()
        widths[:, self._rows, self._slots] *= capped < rents
        order = np.argsort(own, axis=2, kind="stable")
        own = np.take_along_axis(own, order, axis=2)
        widths = np.take_along_axis(widths, order, axis=2)
        left = self._beyond[:, self._covered]
        cost = np.zeros(left.shape)
        for slot in range(widths.shape[2]):
            width = widths[:, :, slot, None]
            if not width.any():
                continue
            taken = np.minimum(left, width)
            cost += own[:, :, slot, None] * taken
            left -= taken
        table, rest = self._rented.copy(), self._beyond.copy()
        table[:, self._covered] = cost + left * self._rents[:, self._covered, None]
        rest[:, self._covered] = left
        return table, rest
