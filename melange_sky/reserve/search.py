"""The search for a purchase: branch and bound over boxes of purchases.

What no purchase of all comes below is known soon by a program with fleets in parts (`in_parts.py`).
A box's bound is a linear program over fleets (`master.py`) to which fleets are added until none could lower it
(`bounding.py`; `serving.py` finds the cheapest fleet at any prices); a box of one purchase is priced, so that the
search ends with a proof. Where the time ends first, the gap is told. Purchases are tried by look-up in the
fleets found so far (`known.py`), and what looks best is priced with the cheapest fleets of all.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.deadline import NEVER, Deadline, TimeUpError
from melange_sky.reserve.bounding import Bounds, Shade
from melange_sky.reserve.cells import Cell, cells_of, finer
from melange_sky.reserve.in_parts_tied import program_of
from melange_sky.reserve.levels import Box, Levels
from melange_sky.reserve.market import Market
from melange_sky.reserve.neighbours import moves, rounded
from melange_sky.reserve.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.in_parts import Mean
    from melange_sky.reserve.known import Known
    from melange_sky.reserve.market import Group
    from melange_sky.reserve.objective import Measure
    from melange_sky.reserve.tariff import Tariff

    Floats = NDArray[np.float64]

_SAME = 1e-9
"""Costs that differ by no more of the whole are the same."""

_PART = 1e-6
"""A level bought less than so far from whole is whole."""

_FEW = 12
"""Of so many purchases each is tried at every step."""

_UNITS = 30
"""Of a box of so many units each is a level from the start, of a larger one those near the best known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Units per purchase that may pay, what the measure comes to with them, and what no purchase comes below."""

    units: Floats
    value: float
    bound: float


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
    cuts: list[set[float]] = field(init=False)

    def __post_init__(self) -> None:
        """Put the periods in cells, and the units in levels."""
        self.cells = cells_of(self.market.groups, self.market.question.hours_each)
        high = self.market.root.high
        most = high if high.sum() <= _UNITS else np.zeros(len(high))
        self.cuts = [set(np.arange(count + 1.0).tolist()) for count in most]

    def best(self, starts: Sequence[Floats]) -> Answer:
        """Return the best purchase, proven to `within` of its cost if time suffices; `starts` are guesses.

        Raises InfeasibleError where some rate is served by no fleet, TimeUpError where not even buying nothing
        was priced in time.
        """
        units = self.market.root.low
        tree = Tree(units=units, value=self.value(units))
        if self.market.root.is_point and not self.market.is_together:  # nothing to buy
            return Answer(units=units, value=tree.value, bound=tree.value)
        tree.put(-np.inf, self.market.root)
        try:
            for start in starts:
                self._try(tree, start)
            self._in_parts(tree)
            while tree.waiting and tree.floor < tree.value - self._room(tree.value):
                self._split(tree)
                self.progress(tree.value, tree.floor)
        except TimeUpError:
            pass  # the boxes that wait say what is not proven
        units = self._needed(tree.units, tree.value)
        value = self.measure.of(self.settled(units))
        return Answer(units=units, value=value, bound=min(tree.floor, tree.value))

    def _in_parts(self, tree: Tree) -> None:
        """Bound all purchases with fleets in parts, try what that buys, then raise the bound by whole fleets."""
        program = program_of(self.market, self.known, self.measure, self.deadline)

        def told(mean: Mean) -> None:
            tree.least = max(tree.least, mean.value - _SAME * self._scale(tree.value))
            self.progress(tree.value, tree.floor)

        def enough() -> bool:
            return tree.least >= tree.value - self._room(tree.value)

        mean = program.bound(told, enough)
        self._improve(tree, np.ones(len(tree.units)))
        self._explore(tree, mean.units)
        mean = program.bound(told, enough, whole=True)
        self._explore(tree, mean.units)

    def _split(self, tree: Tree) -> None:
        """Bound the box that waits first, try what its program buys, and put its parts in its place."""
        tree.here, _, box, above = tree.take()
        if box.is_point:
            least = self._least(box.low)
            self._try(tree, box.low)
            tree.done, tree.here = min(tree.done, least), np.inf
            return
        for k, bought in enumerate(tree.units.tolist()):
            self.cuts[k] |= {bought - 1, bought, bought + 1} if bought else set()
        shade = self._bounds(tree).of(
            Levels.of(box, self.cuts), tree.value, lambda bound: self._raise(tree, bound), above
        )
        units = shade.levels.units(shade.bought)
        self._explore(tree, units, box)
        room = tree.value - tree.here
        if room <= self._room(tree.value):
            tree.done = min(tree.done, tree.here)
        elif self._sharpened(shade, tree) or (self._levelled(shade) and above is None):
            tree.put(tree.here, shade.kept, shade)
        else:
            parts = [shade.kept] if shade.kept.is_point else shade.parts(self.market.usd)
            for part in filter(self._payable, parts):
                tree.put(tree.here, part, shade)
        tree.here = np.inf

    def _explore(self, tree: Tree, units: Floats, box: Box | None = None) -> None:
        """Try what a program buys, and what is near."""
        for tried in rounded(units, self.market.root if box is None else box):
            quick = self._quick(tried)
            if quick < tree.value - _SAME * self._scale(tree.value) or (
                self.market.is_together and np.isfinite(quick) and box is None
            ):  # of several models few fleets are known beside it
                self._try(tree, tried)
        self._improve(tree, units)

    def _bounds(self, tree: Tree) -> Bounds:
        return Bounds(
            market=self.market,
            known=self.known,
            measure=self.measure,
            cells=self.cells,
            units=tree.units,
            within=self.within,
            scale=self._scale(tree.value),
            deadline=self.deadline,
        )

    def _raise(self, tree: Tree, bound: float) -> None:
        """Let the box at hand have a bound, and tell."""
        tree.here = max(tree.here, bound)
        self.progress(tree.value, tree.floor)

    def _levelled(self, shade: Shade) -> bool:
        """Cut levels that are bought in part; return whether there are any."""
        levels, bought = shade.levels, shade.bought
        coarse = (levels.width > 1) & (bought > _PART) & (bought < levels.width - _PART)
        for k, units in zip(levels.purchase[coarse], (levels.start + bought)[coarse], strict=True):
            self.cuts[k] |= {float(np.floor(units)), float(np.floor(units)) + 1}
        return bool(coarse.any())

    def _sharpened(self, shade: Shade, tree: Tree) -> bool:
        """Cut cells finer where their rounding is much of what keeps the bound from the cost; return whether."""
        box = shade.levels.box
        rounded = np.clip(np.round(shade.levels.units(shade.bought)), box.low, box.high)
        pair = [tree.units, rounded]
        if max(self._lost(units) for units in pair) <= (tree.value - tree.here) / 4:
            return False
        cells = self._finer(pair)
        is_finer = len(cells) > len(self.cells)
        self.cells = cells
        return is_finer

    def _lost(self, units: Floats) -> float:
        """Return what the measure loses where every period of a cell has its lowest rate."""
        paid = float(self.market.usd @ units)
        known, market = self.known, self.market
        whole = self.measure.of(known.cost(market, units) + paid)
        return whole - self.measure.of(known.cost_in(market, units, self.cells) + paid)

    def _finer(self, purchases: Sequence[Floats]) -> list[Cell]:
        """Return finer cells: cut where what the periods cost changes beside some purchases."""
        changes: list[list[int]] = []
        for group in self.market.groups:
            places: set[int] = set()
            for bought in purchases:
                fleets = self.known.running(self.market, bought, group)
                places.update(
                    (np.flatnonzero((np.diff(fleets, axis=0) != 0).any(axis=1)) + 1).tolist()
                )
            changes.append(sorted(places))
        return finer(self.cells, self.market.groups, changes)

    def by_steps(self) -> float:
        """Return the cost of what single steps and exchanges from nothing lead to, by the known fleets alone."""
        units = self.market.root.low
        value = self._quick(units)
        every = self.market.buyable
        while True:
            ways = [
                (self._quick(moved), n, moved)
                for n, moved in enumerate(moves(units, self.market.root, every))
            ]
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
                self._price(group, self.market.beside(group, units))
            self.priced.add(units.tobytes())
        return self.known.totals(self.market, units)

    def _least(self, units: Floats) -> float:
        """Return what the measure of a purchase is not below, by the cheapest fleets of all. Raises as `totals` does."""
        if not self.market.is_together:
            return self.value(units)
        costs = np.zeros(len(self.market.question.scenarios))
        for group in self.market.groups:
            tariff = self.market.beside(group, units)
            costs[group.scenario] += self._price(group, tariff, is_near=False)
        return self.measure.of(costs + float(self.market.usd @ units))

    def settled(self, units: Floats) -> Floats:
        """Return what `totals` does; where time ends, with the cheapest fleets found so far. Raises InfeasibleError."""
        with contextlib.suppress(TimeUpError):
            return self.totals(units)
        return self.known.totals(self.market, units)

    def _price(self, group: Group, tariff: Tariff, *, is_near: bool = True) -> float:
        """Learn the cheapest fleets for a group's periods, lowest rates first; return what they cost at least, USD.

        Fleets that are `is_near` to these where the cheapest take long.
        """
        rates, at, least = group.rates_rps, 0, 0.0
        mix = self.market.question.mixes[group.mix]
        seek = mix.near if is_near else mix.cheapest
        while at < len(rates):
            found = seek(tariff, float(rates[at]))
            if found is None:
                raise InfeasibleError(f"no fleet serves {rates[at]:g} req/s")
            served = self.known.rate(self.known.learn(found.fleet), group.mix)
            then = max(at + 1, int(np.searchsorted(rates, served, side="right")))
            least += max(found.bound, 0.0) * (then - at)
            at = then
        return least * self.market.question.hours_each

    def value(self, units: Floats) -> float:
        """Return what the measure comes to with a purchase. Raises as `totals` does."""
        return self.measure.of(self.totals(units))

    def _payable(self, box: Box) -> bool:
        """Return whether what a box buys for sure keeps to the budget."""
        budget = self.market.question.budget_upfront_usd
        return float(self.market.upfront @ box.low) <= budget * (1 + _SAME)

    def _quick(self, units: Floats) -> float:
        """Return what the measure comes to with the best known fleets; inf beyond the budget."""
        if not self._payable(Box(low=units, high=units)):
            return np.inf
        return self.measure.of(self.known.totals(self.market, units))

    def _try(self, tree: Tree, units: Floats) -> bool:
        """Keep a purchase, priced with the cheapest fleets, if it is better; return whether."""
        value = self.value(units)
        better = value < tree.value - _SAME * self._scale(tree.value)
        if better:
            tree.units, tree.value = units, value
        return better

    def _improve(self, tree: Tree, near: Floats) -> None:
        """Go where single steps and exchanges of units lead to, of purchases in use or near to it."""
        while True:
            self.deadline.check()
            able = np.zeros(len(tree.units), dtype=bool)
            able[self.market.buyable] = True
            if len(tree.units) > _FEW:
                able &= (tree.units > 0) | (near > 0)
            units, value = tree.units, tree.value
            around = moves(units, self.market.root, np.flatnonzero(able).tolist())
            ways = [(self._quick(moved), n, moved - units) for n, moved in enumerate(around)]
            for quick, _, change in sorted(ways, key=lambda way: way[:2]):
                if quick >= tree.value - _SAME * self._scale(tree.value):
                    break
                moved = units + change  # several at once
                if self.market.root.holds(moved):
                    total = self._quick(moved)
                    if total < value - _SAME * self._scale(tree.value):
                        units, value = moved, total
            if units is tree.units or not self._try(tree, units):
                return

    def _needed(self, units: Floats, value: float) -> Floats:
        """Return the purchase without units that save nothing."""
        low = self.market.root.low
        for k in np.flatnonzero(units > low).tolist():
            while units[k] > low[k]:
                fewer = units.copy()
                fewer[k] -= 1
                if self._quick(fewer) > value + _SAME * self._scale(value):
                    break
                units = fewer
        return units
