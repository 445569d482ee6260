"""The fleets found so far with the highest rates they serve, and what a purchase costs with the best of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.cells import Cell
    from melange_sky.reserve.market import Group, Market
    from melange_sky.reserve.serving import Served

    Floats = NDArray[np.float64]


class Known:
    """Fleets, (fleets × options), and rates, (fleets × mixes); a purchase's cost is a look-up in their order."""

    def __init__(self, mixes: Sequence[Served]) -> None:
        """Begin with none."""
        self._mixes = mixes
        self._at: dict[bytes, int] = {}
        self._fleets: list[Floats] = []
        self._rates: list[Floats] = []
        self._table: tuple[Floats, Floats] | None = None
        self._orders: dict[int, NDArray[np.intp]] = {}
        self._weights: dict[tuple[int, bytes], Floats] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._fleets)

    def learn(self, fleet: Floats) -> int:
        """Keep a fleet; return its place. Raises TimeUpError."""
        key = fleet.tobytes()
        if key not in self._at:
            self.put(fleet, np.array([mix.rate(fleet) for mix in self._mixes]))
        return self._at[key]

    def put(self, fleet: Floats, rates: Floats) -> None:
        """Keep a fleet whose highest rates of all mixes are known, if it is not kept yet."""
        key = fleet.tobytes()
        if key not in self._at:
            self._at[key] = len(self._fleets)
            self._fleets.append(fleet)
            self._rates.append(rates)
            self._table = None

    def rate(self, place: int, mix: int) -> float:
        """Return the highest rate of a mix that a fleet serves."""
        return float(self._rates[place][mix])

    def rates_of(self, place: int) -> Floats:
        """Return the highest rates of all mixes that a fleet serves, (mixes)."""
        return self._rates[place]

    @property
    def fleets(self) -> Floats:
        """All fleets, (fleets × options)."""
        return self._tables()[0]

    @property
    def rates(self) -> Floats:
        """Their highest rates, (fleets × mixes)."""
        return self._tables()[1]

    def _tables(self) -> tuple[Floats, Floats]:
        if self._table is None:
            self._table = (np.array(self._fleets), np.array(self._rates))
            self._orders, self._weights = {}, {}
        return self._table

    def cost(self, market: Market, units: Floats) -> Floats:
        """Return the rent of every scenario beside a purchase with the best known fleets, (scenarios), USD."""
        costs = np.zeros(len(market.question.scenarios))
        paid: dict[tuple[bytes, ...], Floats] = {}
        for group in market.groups:
            order, weights = self._order(group)
            key = (group.rents.tobytes(), group.owned.tobytes(), group.active.tobytes())
            if key not in paid:  # groups that differ in their mix alone pay the same
                paid[key] = market.beside(group, units).cost(self.fleets)
            best = np.minimum.accumulate(paid[key][order])
            costs[group.scenario] += float(weights @ best[: len(weights)])
        return costs * market.question.hours_each

    def totals(self, market: Market, units: Floats) -> Floats:
        """Return that and what the purchase costs, (scenarios), USD."""
        return self.cost(market, units) + float(market.usd @ units)

    def cost_in(self, market: Market, units: Floats, cells: Sequence[Cell]) -> Floats:
        """Return what `cost` does where every period of a cell has its rate: no more than that, (scenarios), USD."""
        costs = np.zeros(len(market.question.scenarios))
        for n, group in enumerate(market.groups):
            here = [cell for cell in cells if cell.group == n]
            order, _ = self._order(group)
            best = np.minimum.accumulate(market.beside(group, units).cost(self.fleets[order]))
            falling = self.rates[order, group.mix]
            rates = np.array([cell.rate_rps for cell in here])
            last = np.searchsorted(-falling, -rates, side="right") - 1
            costs[group.scenario] += float(np.array([cell.hours for cell in here]) @ best[last])
        return costs

    def running(self, market: Market, units: Floats, group: Group) -> Floats:
        """Return the best known fleet of every period of a group beside a purchase, (periods there × options)."""
        order = np.argsort(-self.rates[:, group.mix], kind="stable")
        fleets, rates = self.fleets[order], self.rates[order, group.mix]
        costs = market.beside(group, units).cost(fleets)
        least = np.minimum.accumulate(costs)
        first = np.maximum.accumulate(
            np.where(costs <= least, np.arange(len(costs)), 0)
        )  # the last fleet that was cheapest so far
        last = np.searchsorted(-rates, -group.rates_rps, side="right") - 1
        running: Floats = fleets[first[last]]
        return running

    def _order(self, group: Group) -> tuple[NDArray[np.intp], Floats]:
        """Return the fleets in order of falling rates, and how many periods each is the last to serve."""
        rates = self.rates[:, group.mix]
        key = (group.mix, group.rates_rps.tobytes())
        if key not in self._weights:
            if group.mix not in self._orders:
                self._orders[group.mix] = np.argsort(-rates, kind="stable")
            falling = rates[self._orders[group.mix]]
            last = np.searchsorted(-falling, -group.rates_rps, side="right") - 1
            self._weights[key] = np.bincount(last).astype(np.float64)
        return self._orders[group.mix], self._weights[key]
