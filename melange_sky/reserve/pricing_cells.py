"""The cheapest fleets of all cells beside a box of purchases, at a price of every unit in every cell."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.reserve.cone import Cone
from melange_sky.reserve.pricing_steps import MOST_ROWS, Cells, cheapest_fleets_fast
from melange_sky.reserve.rate_cone import SLACK
from melange_sky.settings import usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.cells import Cell
    from melange_sky.reserve.known import Known
    from melange_sky.reserve.levels import Levels
    from melange_sky.reserve.market import Market

    Floats = NDArray[np.float64]

QUICK, PATIENT = 2_000, 20_000
"""A cell's search of more nodes ends with a lower bound: on the way, and for a bound that stays."""

_FEW, _PARTS_EACH = 4, 8
"""Cells are searched in parts of so many at least, up to so many parts for each core, for some take far longer."""

_LEAST_PRICE = 1e-9
"""What is free counts as this part of the dearest price where a worth is made along prices."""

_SAME = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """The bound at some prices, and what is used and bought there.

    `used`, (cells × levels), and `drawn`, (cells × pools), are what the cheapest fleets use; `bought`, (levels), and
    `pooled`, (pools), what is bought. `reduced`, (levels), is what a unit more of each costs.
    """

    bound: float
    used: Floats
    drawn: Floats
    bought: Floats
    pooled: Floats
    reduced: Floats

    def less(self, usd: float) -> Priced:
        """Return the same with so much taken off the bound."""
        return replace(self, bound=self.bound - usd)

    def towards(self, other: Priced, part: float) -> Priced:
        """Return what lies between these and others, so large a part of the way."""

        def between(a: Floats, b: Floats) -> Floats:
            return a + part * (b - a)

        return replace(
            other,
            used=between(self.used, other.used),
            drawn=between(self.drawn, other.drawn),
            bought=between(self.bought, other.bought),
            pooled=between(self.pooled, other.pooled),
        )


class PricedCells:
    """Cells beside a box whose whole instances are in levels of one unit; other purchases, `pools`, have one level."""

    def __init__(
        self,
        market: Market,
        known: Known,
        cells: Sequence[Cell],
        levels: Levels,
        matter: Floats,
        within: float = 0.0,
    ) -> None:
        """Look up all that prices do not change; `matter`, (scenarios), is how much each scenario's cost does.

        Fleets are sought to a part `within` of their cost.
        """
        self._within = within
        self._market, self._known, self._levels = market, known, levels
        groups = [market.groups[cell.group] for cell in cells]
        active = np.array([group.active for group in groups])
        self._rents = np.array([group.rents for group in groups])
        self._rates = np.array([cell.rate_rps for cell in cells])
        self._mix = np.array([group.mix for group in groups], dtype=np.intp)
        self.weights = (
            np.array([cell.hours for cell in cells]) * matter[[g.scenario for g in groups]]
        )
        self._usd = market.usd * float(matter.sum())
        options, count = len(market.question.options), len(levels.purchase)
        self._pools = self.pools(market)
        draws = market.draws[self._pools]
        self._draws = active[:, self._pools, None] * draws
        alone = [
            (n, j) for n, k in enumerate(levels.purchase) if (j := market.alone[k]) is not None
        ]
        self._places = np.array([n for n, _ in alone], dtype=np.intp)
        self._options = np.array([j for _, j in alone], dtype=np.intp)
        self._slots = np.array(
            [(self._options[:n] == j).sum() for n, j in enumerate(self._options)], dtype=np.intp
        )
        self._slot_count = int(self._slots.max(initial=-1)) + 1
        self._counts_here = active[:, levels.purchase[self._places]]
        free = np.array([group.owned for group in groups])
        for k, option in enumerate(market.alone):
            if option is not None:
                free[:, option] += active[:, k] * levels.box.low[k]
        self._free = free
        of_mix = np.array([mix.most for mix in market.question.mixes])
        self._most = np.ceil(of_mix[self._mix] * self._rates[:, None])
        self._levels_of = np.bincount(self._options, minlength=options)
        self._fleets = np.zeros((len(cells), options), dtype=np.int64)
        self._kept: dict[tuple[int, int], NDArray[np.int64]] = {}
        self._along: dict[tuple[int, int], Floats] = {}
        self._learnt: set[bytes] = set()
        self.dearest = np.zeros((len(cells), count))
        self.dearest[:, self._places] = self._rents[:, self._options] * self._counts_here
        with np.errstate(divide="ignore", invalid="ignore"):
            worth = np.where(self._draws > 0, self._rents[:, None] / self._draws, 0.0)
        self.dearest_pooled = worth.max(axis=2, initial=0.0)

    @staticmethod
    def pools(market: Market) -> NDArray[np.intp]:
        """Return the purchases that are not of whole instances of one option."""
        return np.array([k for k, j in enumerate(market.alone) if j is None], dtype=np.intp)

    def at(self, prices: Floats, pooled: Floats, nodes: int = QUICK) -> Priced:
        """Return what prices of levels and pools come to by searches of so many nodes at most."""
        rents = self._rents
        if len(self._pools):
            drawn = np.where(self._draws > 0, self._draws * pooled[:, :, None], np.inf)
            rents = np.minimum(rents, drawn.min(axis=1))
        own = np.where(self._counts_here, prices[:, self._places], np.inf)
        costs, rank = self._costs(own, rents)
        least = self._cheapest(costs, nodes)
        beyond = np.maximum(self._fleets - self._free, 0.0)
        used = np.zeros(prices.shape)
        cheap = own < rents[:, self._options] * (1 - _SAME)
        used[:, self._places] = (rank < beyond[:, self._options]) & cheap
        for place, option in zip(self._places.tolist(), self._options.tolist(), strict=True):
            beyond[:, option] -= used[:, place]
        draws = np.zeros(pooled.shape)
        for n in range(len(self._pools)):
            paid = (self._draws[:, n] > 0) & (self._draws[:, n] * pooled[:, n, None] <= rents)
            paid &= rents < self._rents
            draws[:, n] = (beyond * paid * self._draws[:, n]).sum(axis=1)
            beyond = np.where(paid, 0.0, beyond)
        return self._bound(prices, pooled, least, used, draws)

    def _bound(
        self, prices: Floats, pooled: Floats, least: Floats, used: Floats, draws: Floats
    ) -> Priced:
        levels, box, usd = self._levels, self._levels.box, self._usd
        reduced = usd[levels.purchase] - self.weights @ prices
        active = self._draws.any(axis=2)
        of_pools = usd[self._pools] - self.weights @ (pooled * active)
        low, high = box.low[self._pools], box.high[self._pools]
        bought = np.where(of_pools < 0, high, low)
        place = np.full(len(usd), -1)
        place[self._pools] = np.arange(len(self._pools))
        of_pool = place[levels.purchase]
        reduced = np.where(of_pool >= 0, of_pools[of_pool] if len(of_pools) else 0.0, reduced)
        whole = of_pool < 0
        fixed = float(usd @ np.where(place < 0, box.low, 0.0)) + float(of_pools @ bought)
        fixed += float(np.minimum(reduced[whole], 0.0).sum())
        return Priced(
            bound=fixed + float(self.weights @ least),
            used=used,
            drawn=draws,
            bought=np.where(whole & (reduced < -_SAME * usd[levels.purchase]), 1.0, 0.0),
            pooled=bought,
            reduced=reduced,
        )

    def _most_of_use(self, rents: Floats) -> int:
        """Return how many instances of one option a cheapest fleet has at most: it costs no more than a known one.

        What is free or in a level may cost nothing, all else does the rents. Where a known fleet is free none else is
        sought.
        """
        known = self._known
        able = self._rates[:, None] <= known.rates[:, self._mix].T
        costs = np.where(able, rents @ known.fleets.T, np.inf)
        cheapest = costs.argmin(axis=1)
        least = costs[np.arange(len(costs)), cheapest]
        with np.errstate(divide="ignore", invalid="ignore"):
            rented = np.floor(least[:, None] / rents * (1 + _SAME))
        paid = self._free + self._levels_of + np.where(rents > 0, rented, np.inf)
        paid = np.where(least[:, None] > 0, paid, known.fleets[cheapest])
        return 1 + int(np.minimum(self._most, paid).max())

    def _costs(self, own: Floats, rents: Floats) -> tuple[Floats, NDArray[np.intp]]:
        """Return what 0, 1, … instances cost, (cells × options × counts), and the place of each level among its option's."""
        cells, options = rents.shape
        most = self._most_of_use(rents)
        slots = np.full((cells, options, max(self._slot_count, 1)), np.inf)
        slots[:, self._options, self._slots] = own
        order = np.argsort(slots, axis=2, kind="stable")
        rank = np.argsort(order, axis=2, kind="stable")[:, self._options, self._slots]
        by_price = np.minimum(np.take_along_axis(slots, order, axis=2), rents[:, :, None])
        each = np.repeat(rents[:, :, None], most, axis=2)
        wide = min(most, slots.shape[2])
        each[:, :, :wide] = by_price[:, :, :wide]
        costs = np.zeros((cells, options, most + 1))
        np.cumsum(each, axis=2, out=costs[:, :, 1:])
        if self._free.any():
            shifted = np.maximum(np.arange(most + 1) - self._free[:, :, None], 0.0)
            costs = np.take_along_axis(costs, shifted.astype(np.intp), axis=2)
        return costs, rank

    def _cheapest(self, costs: Floats, nodes: int) -> Floats:
        """Return the least cost of every cell, (cells); keep its fleet."""
        least = np.full(len(costs), np.inf)
        fleets = self._fleets.copy()
        for m, mix in enumerate(self._market.question.mixes):
            here = np.flatnonzero((self._mix == m) & (self.weights > 0))
            for n, level in enumerate(mix.levels):
                assert isinstance(level, Cone)
                if len(here):
                    record = self._record(costs[here], here, (m, n), level)
                    _search_at_once(record, nodes, self._within)
                    better = record.least < least[here]
                    least[here[better]] = record.least[better]
                    fleets[here[better]] = record.counts[better]
        self._fleets = fleets
        return np.where(np.isfinite(least), least, 0.0)

    def _record(
        self, costs: Floats, here: NDArray[np.intp], which: tuple[int, int], cone: Cone
    ) -> Cells:
        """Return cells of one mix at one attainment level for the search."""
        known, counts = self._known, self._fleets[here]
        cells, options, most = costs.shape
        if which not in self._kept:
            self._kept[which] = np.zeros((cells, 1 + MOST_ROWS), dtype=np.int64)
        if cone.shape.may_miss <= 0 or which not in self._along:
            self._along[which] = cone.shape.worths(_margins(costs, counts))
        return Cells(
            cost=np.ascontiguousarray(costs.reshape(-1, most)),
            rate=self._rates[here] * (1 - SLACK),
            along=np.ascontiguousarray(self._along[which]),
            worth=np.ascontiguousarray(cone.worths),
            kept=self._kept[which],
            fleets=known.fleets.astype(np.int64),
            serves=np.ascontiguousarray(known.rates[:, which[0]]),
            counts=counts,
            least=np.zeros(cells),
            **_room(options),
        )

    def look_again(self) -> None:
        """Let worths be made along the prices at hand, which takes longer where some requests may miss."""
        self._along.clear()

    def learn(self) -> None:
        """Let the fleets found last become known. Raises TimeUpError."""
        for fleet in np.unique(self._fleets, axis=0):
            key = fleet.tobytes()
            if key not in self._learnt:
                self._learnt.add(key)
                self._known.learn(fleet.astype(np.float64))

    def units(self, mean: Priced) -> Floats:
        """Return the units of each purchase in a mean of steps, (purchases)."""
        units = self._levels.units(mean.bought)
        units[self._pools] = mean.pooled
        return units


def _search_at_once(record: Cells, nodes: int, within: float) -> None:
    """Search all cells, on all cores: machine code leaves Python alone, and no cell looks at another."""
    cells, cores = len(record.rate), usable_cores()
    count = max(1, min(_PARTS_EACH * cores, cells // _FEW)) if cores > 1 else 1
    if count == 1:
        cheapest_fleets_fast(record, nodes, within)
        return
    parts = [_part(record, a, b) for a, b in pairwise(np.linspace(0, cells, count + 1).astype(int))]
    with ThreadPoolExecutor(max_workers=cores) as pool:
        for done in [pool.submit(cheapest_fleets_fast, part, nodes, within) for part in parts]:
            done.result()


def _part(record: Cells, first: int, last: int) -> Cells:
    """Return the cells from the first to before the last, with room of their own to work in."""
    options = len(record.order)
    return record._replace(
        cost=record.cost[first * options : last * options],
        rate=record.rate[first:last],
        along=record.along[first:last],
        kept=record.kept[first:last],
        counts=record.counts[first:last],
        least=record.least[first:last],
        **_room(options),
    )


def _room(options: int) -> dict[str, NDArray[Any]]:
    """Return what a search works in."""
    wide = (options + 1, MOST_ROWS)
    return {
        "row": np.zeros((MOST_ROWS, options)),
        "left": np.zeros(wide),
        "cheap": np.zeros(wide),
        "rest": np.zeros(wide),
        "money": np.zeros(MOST_ROWS),
        "spent": np.zeros(options + 1),
        "order": np.zeros(options, dtype=np.int64),
        "here": np.zeros(options, dtype=np.int64),
        "best": np.zeros(options, dtype=np.int64),
        "strict": np.zeros(options, dtype=np.int64),
    }


def _margins(costs: Floats, counts: NDArray[np.int64]) -> Floats:
    """Return what the last instance of each option costs in fleets, (cells × options), what is free a little."""
    last = np.clip(counts - 1, 0, costs.shape[2] - 2)
    margins = np.take_along_axis(np.diff(costs, axis=2), last[:, :, None], axis=2)[:, :, 0]
    margins = np.maximum(margins, _LEAST_PRICE * margins.max(axis=1, keepdims=True))
    paid: Floats = np.where(margins > 0, margins, 1.0)
    return paid
