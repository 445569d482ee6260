"""The search for a purchase: branch and bound over boxes of purchases.

A box's bound is a linear program over fleets (`master.py`) to which fleets are added until none could lower it
(`serving.py` finds the cheapest fleet at any prices); with one purchase in the box that program is exact, so that
the search ends with a proof. Where the time ends first, the gap is told. Purchases are tried by look-up in the
fleets found so far (`known.py`), and what looks best is priced with the cheapest fleets of all.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.deadline import NEVER, Deadline, TimeUpError
from melange_sky.reserve.cells import Cell, cells_of, finer
from melange_sky.reserve.market import Box, Market
from melange_sky.reserve.master import Master, Relaxation
from melange_sky.reserve.pricing import Tariffs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.known import Known
    from melange_sky.reserve.market import Group
    from melange_sky.reserve.objective import Measure
    from melange_sky.reserve.tariff import Tariff

    Floats = NDArray[np.float64]

_SAME = 1e-9
"""Costs that differ by no more of the whole are the same."""

_TURNS = 4
"""Every so many cells are asked for new fleets at a time: what is found in one serves its neighbours."""

_STEP = 1e-4
"""A bound that could rise by less of the cost, or of what smaller boxes have to close, is left for those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Units per purchase that may pay, what the measure comes to with them, and what no purchase comes below."""

    units: Floats
    value: float
    bound: float


@dataclass(slots=True, kw_only=True)
class _Tree:
    """The best purchase so far, the boxes that wait, least bound first, and the least bound of those done with.

    `here` is the bound of the box that is looked at, inf for none.
    """

    units: Floats
    value: float
    done: float = np.inf
    here: float = np.inf
    waiting: list[tuple[float, int, Box]] = field(default_factory=list)
    order: Iterator[int] = field(default_factory=count)

    @property
    def floor(self) -> float:
        """What no purchase comes below."""
        return min([self.value, self.done, self.here, *(least for least, _, _ in self.waiting[:1])])

    def put(self, least: float, box: Box) -> None:
        """Let a box wait."""
        heapq.heappush(self.waiting, (least, next(self.order), box))


@dataclass(slots=True, kw_only=True)
class Search:
    """One question's search, over fleets that are shared with others of the same mixes."""

    market: Market
    known: Known
    measure: Measure
    within: float = 0.0
    deadline: Deadline = NEVER
    progress: Callable[[float, float], None] = field(default=lambda _cost, _bound: None)
    priced: set[bytes] = field(default_factory=set)
    cells: list[Cell] = field(init=False)

    def __post_init__(self) -> None:
        """Put the periods in cells."""
        self.cells = cells_of(self.market.groups, self.market.question.hours_each)

    def best(self, starts: Sequence[Floats]) -> Answer:
        """Return the best purchase, proven to `within` of its cost if time suffices; `starts` are guesses.

        Raises InfeasibleError where some rate is served by no fleet, TimeUpError where not even buying nothing
        was priced in time.
        """
        units = np.zeros(len(self.market.usd))
        tree = _Tree(units=units, value=self.value(units))
        if self.market.root.is_point:  # nothing to buy
            return Answer(units=units, value=tree.value, bound=tree.value)
        proven = -np.inf
        try:
            for start in starts:
                self._try(tree, start)
            self._improve(tree)
            cells: list[Cell] = []
            while proven < tree.value - self._room(tree.value) and len(self.cells) > len(cells):
                proven, cells = max(proven, self._explored(tree)), self.cells
                self.cells = self._finer(tree.units)
        except TimeUpError:
            proven = max(proven, tree.floor)  # the boxes that wait say what is not proven
        units = self._needed(tree.units, tree.value)
        return Answer(units=units, value=self.value(units), bound=min(proven, tree.value))

    def _explored(self, tree: _Tree) -> float:
        """Return the bound of all purchases with the cells as they are. Raises TimeUpError."""
        tree.done, tree.waiting = np.inf, []
        tree.put(-np.inf, self.market.root)
        while tree.waiting and tree.floor < tree.value - self._room(tree.value):
            self._split(tree)
            self.progress(tree.value, tree.floor)
        return tree.floor

    def _finer(self, units: Floats) -> list[Cell]:
        """Return finer cells: cut where what the periods cost changes, with a purchase and without."""
        changes: list[list[int]] = []
        for group in self.market.groups:
            places: set[int] = set()
            for bought in (units, np.zeros(len(units))):
                fleets = self.known.running(self.market, bought, group)
                places.update(
                    (np.flatnonzero((np.diff(fleets, axis=0) != 0).any(axis=1)) + 1).tolist()
                )
            changes.append(sorted(places))
        return finer(self.cells, self.market.groups, changes)

    def _split(self, tree: _Tree) -> None:
        """Bound the box that waits first, try what its program buys, and put its parts in its place."""
        tree.here, _, box = heapq.heappop(tree.waiting)
        relaxation, box = self._bounded(box, tree)
        for tried in self._rounded(relaxation.units, box):
            if self._quick(tried) < tree.value - _SAME * self._scale(tree.value):
                self._try(tree, tried)
                self._improve(tree)
        least, tree.here = tree.here, np.inf
        if box.is_point or least >= tree.value - self._room(tree.value):
            tree.done = min(tree.done, least)
            return
        for part in filter(self._payable, _parts(box, relaxation, self.market.usd)):
            tree.put(least, part)

    def by_steps(self) -> float:
        """Return the cost of what single steps and exchanges from nothing lead to, by the known fleets alone."""
        units = np.zeros(len(self.market.usd))
        value = self._quick(units)
        while True:
            ways = [(self._quick(moved), n, moved) for n, moved in enumerate(self._moves(units))]
            least, _, moved = min(ways, default=(np.inf, 0, units))
            if not least < value - _SAME * self._scale(value):
                return value
            units, value = moved, least

    def among(self, known: Known) -> Search:
        """Return the same search over other known fleets."""
        return replace(self, known=known, priced=set())

    def _room(self, value: float) -> float:
        """Return how far below a value no more is sought."""
        return max(self.within, _SAME) * self._scale(value)

    def _scale(self, value: float) -> float:
        """Return what parts of a value are told of: itself, or for a regret the scenarios' mean cost."""
        if self.measure.objective.kind == "regret":
            return float(self.measure.weights @ self.measure.best)
        return abs(value)

    def totals(self, units: Floats) -> Floats:
        """Return what every scenario costs with a purchase and the cheapest fleets of all, (scenarios), USD.

        Raises InfeasibleError, TimeUpError.
        """
        if units.tobytes() not in self.priced:
            for group in self.market.groups:
                self._price(group, self.market.tariff(group, Box(low=units, high=units)))
            self.priced.add(units.tobytes())
        return self.known.cost(self.market, units) + float(self.market.usd @ units)

    def _price(self, group: Group, tariff: Tariff) -> None:
        """Learn the cheapest fleets for a group's periods, lowest rates first."""
        rates, at = group.rates_rps, 0
        mix = self.market.question.mixes[group.mix]
        while at < len(rates):
            found = mix.cheapest(tariff, float(rates[at]))
            if found is None:
                raise InfeasibleError(f"no fleet serves {rates[at]:g} req/s")
            served = self.known.rate(self.known.learn(found.fleet), group.mix)
            at = max(at + 1, int(np.searchsorted(rates, served, side="right")))

    def value(self, units: Floats) -> float:
        """Return what the measure comes to with a purchase. Raises as `totals` does."""
        return self.measure.of(self.totals(units))

    def _payable(self, box: Box) -> bool:
        """Return whether what a box buys for sure keeps to the budget."""
        budget = self.market.question.budget_upfront_usd
        return float(self.market.upfront @ box.low) <= budget * (1 + _SAME)

    def _quick(self, units: Floats) -> float:
        """Return what the measure comes to with the best known fleets; inf beyond the budget."""
        market = self.market
        if not self._payable(Box(low=units, high=units)):
            return np.inf
        return self.measure.of(self.known.cost(market, units) + float(market.usd @ units))

    def _try(self, tree: _Tree, units: Floats) -> bool:
        """Keep a purchase, priced with the cheapest fleets, if it is better; return whether."""
        value = self.value(units)
        better = value < tree.value - _SAME * self._scale(tree.value)
        if better:
            tree.units, tree.value = units, value
        return better

    def _improve(self, tree: _Tree) -> None:
        """Go where single steps and exchanges of units lead to."""
        while True:
            self.deadline.check()
            ways = [
                (self._quick(moved), n, moved) for n, moved in enumerate(self._moves(tree.units))
            ]
            quick, _, moved = min(ways, default=(np.inf, 0, tree.units))
            least = tree.value - _SAME * self._scale(tree.value)
            if not quick < least or not self._try(tree, moved):
                return

    def _moves(self, units: Floats) -> list[Floats]:
        """Return purchases near one: some units more or less of each, or of one in exchange for another."""
        most = self.market.root.high
        places = np.flatnonzero(most > 0).tolist()
        changes = [
            {k: sign * 2.0**power}
            for k in places
            for power in range(int(np.log2(most[k])) + 1)
            for sign in (-1, 1)
        ]
        changes += [{k: -1.0, o: 1.0} for k in places if units[k] > 0 for o in places if o != k]
        found = []
        for change in changes:
            moved = units.copy()
            moved[list(change)] += list(change.values())
            if (moved >= 0).all() and (moved <= most).all():
                found.append(moved)
        return found

    def _needed(self, units: Floats, value: float) -> Floats:
        """Return the purchase without units that save nothing."""
        for k in np.flatnonzero(units > 0).tolist():
            while units[k] > 0:
                fewer = units.copy()
                fewer[k] -= 1
                if self._quick(fewer) > value + _SAME * self._scale(value):
                    break
                units = fewer
        return units

    def _bounded(self, box: Box, tree: _Tree) -> tuple[Relaxation, Box]:
        """Return the program of a box, and the box without what cannot be best; tell the tree its bound.

        Fleets are sought until none could lower it, in a box of several purchases only while that pays.
        """
        value = tree.value
        master = Master(self.market, self.cells, box, self.measure, self.deadline)
        for units in (box.low, box.high):
            point = Tariffs(self.market, self.cells, self.known, Box(low=units, high=units))
            for g, place in enumerate(point.best()):
                group = self.market.groups[self.cells[g].group]
                master.enter(g, self.market.tariff(group, box), self.known.fleets[[place]])
        target, kept, scale = value - self._room(value), box, self._scale(value)
        first = -1
        while True:
            first += 1
            relaxation = self._solved(master, box, scale)
            enough = max(_STEP * scale, (value - relaxation.value) / 2)
            tolerated = max(_SAME, self.within / 4) * scale
            short, new = 0.0, 0
            for turn in range(_TURNS):
                here = range((first + turn) % _TURNS, len(self.cells), _TURNS)
                lowered, entered = self._lowered(master, box, relaxation, here)
                short, new = short + lowered, new + entered
                much = tolerated if box.is_point else max(tolerated, enough)
                if new and first % _TURNS and -short > much:
                    break  # no bound worth having: first with these
            else:
                short = 0.0 if abs(short) <= 2 * _SAME * scale else short
                bound = relaxation.value + short
                kept = _without(kept, box, relaxation.reduced, target - bound)
                tree.here = max(tree.here, bound)
                self.progress(value, tree.floor)
                slack = relaxation.value - tree.here
                if not new or slack <= tolerated or tree.here >= target:
                    return relaxation, kept
                if not box.is_point and slack < enough:
                    return relaxation, kept

    def _solved(self, master: Master, box: Box, scale: float) -> Relaxation:
        """Return the optimum over all known fleets, as nearly as it pays."""
        tariffs = Tariffs(self.market, self.cells, self.known, box)
        while True:
            relaxation = master.solve()
            gained = 0.0
            for g, tariff, places, gain in tariffs.cheaper(relaxation):
                if master.enter(g, tariff, self.known.fleets[places]):
                    gained += gain
            if gained <= max(_SAME, self.within / 8) * scale:
                return relaxation

    def _lowered(
        self, master: Master, box: Box, relaxation: Relaxation, cells: range
    ) -> tuple[float, int]:
        """Return what other fleets in some cells may lower the program's value by; let them enter, count them."""
        total, new = 0.0, 0
        for g in cells:
            if relaxation.weights[g] <= 0:
                continue
            group = self.market.groups[self.cells[g].group]
            tariff = self.market.tariff(group, box, relaxation.prices[g])
            dual, mix = float(relaxation.duals[g]), self.market.question.mixes[group.mix]
            below = dual - max(_SAME * max(1.0, abs(dual)), self.within / 8 * dual)
            found = mix.cheapest(tariff, self.cells[g].rate_rps, below)
            least = below if found is None else min(found.bound, below)
            if found is not None:
                place = self.known.learn(found.fleet)
                new += master.enter(g, tariff, self.known.fleets[[place]])
            total += (least - dual) * relaxation.weights[g]
        return total, new

    def _rounded(self, units: Floats, box: Box) -> list[Floats]:
        """Return what the program buys in whole units, rounded each way."""
        ways = (np.floor, np.round, np.ceil)
        found = {tuple(np.clip(way(units), box.low, box.high)) for way in ways}
        return [np.array(one) for one in sorted(found)]


def _without(kept: Box, box: Box, reduced: Floats, room: float) -> Box:
    """Return a box without purchases that cost more than there is room for, by their reduced costs."""
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(reduced != 0, np.floor(max(room, 0.0) / np.abs(reduced) + _SAME), np.inf)
    high = np.where(reduced > 0, np.minimum(kept.high, box.low + steps), kept.high)
    low = np.where(reduced < 0, np.maximum(kept.low, box.high - steps), kept.low)
    return Box(low=np.minimum(low, high), high=high)


def _parts(box: Box, relaxation: Relaxation, usd: Floats) -> list[Box]:
    """Return a box in two, cut where what the program buys is furthest from whole, else at its widest."""
    wide = box.high > box.low
    bought = relaxation.units
    off = np.where(wide, np.abs(bought - np.round(bought)) * usd, -1.0)
    k = int(off.argmax())
    if abs(bought[k] - round(float(bought[k]))) < 1e-6:
        k = int(np.where(wide, (box.high - box.low) * usd, -1.0).argmax())
    cut = min(max(float(np.floor(bought[k] + 1e-6)), box.low[k]), box.high[k] - 1)
    below, above = box.high.copy(), box.low.copy()
    below[k], above[k] = cut, cut + 1
    return [Box(low=box.low, high=below), Box(low=above, high=box.high)]
