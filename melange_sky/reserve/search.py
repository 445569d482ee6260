"""The search for a purchase: branch and bound over boxes of purchases.

What no purchase of all comes below is known soon by a program with fleets in parts (`in_parts.py`). A box's bound
is climbed to by better and better prices (`ascent.py`); where that may not do, it is a linear program over fleets
(`master.py`) to which fleets are added until none could lower it (`bounding.py`; `serving.py` finds the cheapest
fleet at any prices). A box of one purchase is priced, so that the search ends with a proof. Where the time ends
first, the gap is told. Purchases are tried by look-up in the fleets found so far (`known.py`), beside those that are
cheapest at a climb's prices, and what looks best is priced with the cheapest fleets of all.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.deadline import NEVER, Deadline, TimeUpError
from melange_sky.reserve.ascent import Ascent, Climb
from melange_sky.reserve.bounding import Bounds, Shade
from melange_sky.reserve.cells import FEW_CELLS, MANY_CELLS, Cell, cells_of
from melange_sky.reserve.exact import learn_cheapest, least_costs
from melange_sky.reserve.in_parts_tied import program_of
from melange_sky.reserve.levels import Box, Levels
from melange_sky.reserve.market import Market
from melange_sky.reserve.neighbours import moves, rounded
from melange_sky.reserve.sharpening import finer_beside, lost
from melange_sky.reserve.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.in_parts import Mean
    from melange_sky.reserve.known import Known
    from melange_sky.reserve.objective import Measure

    Floats = NDArray[np.float64]

_SAME = 1e-9
"""Costs that differ by no more of the whole are the same."""

_ROUNDING = 1e-6
"""So much less of `within` is left, so that no gap exceeds it by rounding."""

_FEW = 12
"""Of so many purchases each is tried at every step."""

_FINE = 1e-4
"""An ascent comes so near to what the program of the same box comes to, and sooner."""

_OF_CELLS = 0.05
"""An ascent may lose so much of what a purchase may be off, so that its cells are priced far sooner."""

_SOME = 0.05
"""Of what a climb buys less of than this, no steps are tried."""

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
    seen: set[bytes] = field(default_factory=set)
    cells: list[Cell] = field(init=False)
    cuts: list[set[float]] = field(init=False)
    ascent: Ascent | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Put the periods in cells, and the units in levels."""
        self.cells = self._cells(FEW_CELLS)
        high = self.market.root.high
        most = high if high.sum() <= _UNITS else np.zeros(len(high))
        self.cuts = [set(np.arange(count + 1.0).tolist()) for count in most]

    def _cells(self, most: int) -> list[Cell]:
        return cells_of(self.market.groups, self.market.question.hours_each, most)

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
            while tree.waiting and tree.floor < self._target(tree):
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
            return tree.least >= self._target(tree)

        mean = program.bound(told, enough)
        if not Ascent.can(self.market):
            self._improve(tree, np.ones(len(tree.units)))
            self._explore(tree, mean.units)
            mean = program.bound(told, enough, whole=True)
            self._explore(tree, mean.units)
            return
        self._price_first(tree, mean.units)
        self._explore(tree, mean.units)
        ascent = Ascent(
            market=self.market,
            known=self.known,
            matter=mean.matter,
            offsets=self.measure.offsets,
            deadline=self.deadline,
            within=self.within * _OF_CELLS,
        )
        if self.within >= _FINE and self.measure.objective.kind == "expected":
            self.ascent = ascent
            self.cells = self._cells(MANY_CELLS)
        start, box = ascent.from_mean(self.cells, program.spans, mean), self.market.root
        span = (tree.value, self._target(tree))

        def looked(units: Floats) -> tuple[float, float]:
            self._explore(tree, units)
            return tree.value, self._target(tree)

        climb = ascent.of(
            self.cells, start, box, span, lambda bound: told(replace(mean, value=bound)), looked
        )
        self._explore(tree, climb.units)
        if self.ascent is not None:
            self._explore_beside(tree, climb)
            tree.take()
            self._go_on(tree, box, climb, tree.least)

    def _price_first(self, tree: Tree, units: Floats) -> None:
        """Price what a program in parts buys, in whole units: the fleets known so far are those beside nothing."""
        for tried in rounded(units, self.market.root):
            if self._payable(Box(low=tried, high=tried)):
                self._try(tree, tried)
                return

    def _go_on(self, tree: Tree, box: Box, climb: Climb, bound: float) -> None:
        """Put a box whose bound was climbed to, or its parts, back, if they may hold something better."""
        target = self._target(tree)
        if bound >= target:
            tree.done = min(tree.done, bound)
            return
        self._leave_out(tree, box, climb.kept)
        if self._sharpened(climb.units, climb.kept, tree, bound):
            tree.put(bound, climb.kept, climb)
            return
        for part in filter(self._payable, climb.parts(self.market.usd)):
            tree.put(bound, part, climb)

    def _leave_out(self, tree: Tree, box: Box, kept: Box) -> None:
        """Let the told bound count what was cut off a box: it may be better by as much as is not sought."""
        if (kept.low > box.low).any() or (kept.high < box.high).any():
            tree.done = min(tree.done, self._target(tree))

    def _split(self, tree: Tree) -> None:
        """Bound the box that waits first, try what its program buys, and put its parts in its place."""
        tree.here, _, box, above = tree.take()
        if box.is_point:
            least = self._least(box.low)
            self._try(tree, box.low)
            tree.done, tree.here = min(tree.done, least), np.inf
        elif self.ascent is not None and isinstance(above, Climb):
            span = (tree.value, self._target(tree))
            climb = self.ascent.of(
                self.cells, above, box, span, lambda bound: self._raise(tree, bound)
            )
            self._explore(tree, climb.units, box)
            self._explore_beside(tree, climb)
            self._go_on(tree, box, climb, tree.here)
            tree.here = np.inf
        else:
            self._shaded(tree, box, None if isinstance(above, Climb) else above)

    def _shaded(self, tree: Tree, box: Box, above: Shade | None) -> None:
        """Bound a box by its linear program, and put it or its parts back, if they may hold something better."""
        for k, bought in enumerate(tree.units.tolist()):
            self.cuts[k] |= {bought - 1, bought, bought + 1} if bought else set()
        shade = self._bounds(tree).of(
            Levels.of(box, self.cuts), tree.value, lambda bound: self._raise(tree, bound), above
        )
        units = shade.levels.units(shade.bought)
        self._explore(tree, units, box)
        self._leave_out(tree, box, shade.kept)
        if tree.value - tree.here <= self._room(tree.value):
            tree.done = min(tree.done, tree.here)
        elif self._sharpened(units, box, tree, tree.here) or (
            shade.cut_at(self.cuts) and above is None
        ):
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
            if self._is_better(tree, quick) or (
                self.market.is_together and np.isfinite(quick) and box is None
            ):  # of several models few fleets are known beside it
                self._try(tree, tried)
        self._improve(tree, units)

    def _explore_beside(self, tree: Tree, climb: Climb) -> None:
        """Try what a climb buys, and where single steps and exchanges lead to, beside the cheapest fleets there.

        What `_improve` looks up costs what known fleets do, and few are known that are cheap beside what was never tried.
        """
        places = np.flatnonzero((climb.units > _SOME) | (tree.units > 0)).tolist()
        for units in rounded(climb.units, climb.kept):
            self._try_beside(tree, climb, units)
        before = None
        while before is not tree.units:
            before = tree.units
            around = moves(before, self.market.root, places)
            near = [
                u for u in around if abs(u - before).max() <= 1 and u.tobytes() not in self.seen
            ]
            for units in sorted(near, key=self._quick):
                if self._try_beside(tree, climb, units):
                    break

    def _try_beside(self, tree: Tree, climb: Climb, units: Floats) -> bool:
        """Keep a purchase if it is better beside the fleets that are cheapest at a climb's prices; return whether."""
        assert self.ascent is not None
        self.deadline.check()
        if units.tobytes() in self.seen or not self._payable(Box(low=units, high=units)):
            return False
        self.seen.add(units.tobytes())
        least = self.ascent.beside(climb, units)
        return (
            least < self._target(tree)
            and self._is_better(tree, self._quick(units))
            and self._try(tree, units)
        )

    def _bounds(self, tree: Tree) -> Bounds:
        return Bounds(
            market=self.market,
            known=self.known,
            measure=self.measure,
            cells=self.cells,
            units=tree.units,
            within=self.within * (1 - _ROUNDING),
            scale=self._scale(tree.value),
            deadline=self.deadline,
        )

    def _raise(self, tree: Tree, bound: float) -> None:
        """Let the box at hand have a bound, and tell."""
        tree.here = max(tree.here, bound)
        self.progress(tree.value, tree.floor)

    def _sharpened(self, units: Floats, box: Box, tree: Tree, bound: float) -> bool:
        """Cut cells finer where their rounding is much of what keeps the bound from the cost; return whether."""
        pair = [tree.units, np.clip(np.round(units), box.low, box.high)]
        of = (self.market, self.known, self.cells)
        if max(lost(*of, self.measure, bought) for bought in pair) <= (tree.value - bound) / 4:
            return False
        before, self.cells = len(self.cells), finer_beside(*of, pair)
        return len(self.cells) > before

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
        return replace(self, known=known, priced=set(), seen=set())

    def _room(self, value: float) -> float:
        """Return how far below a value no more is sought."""
        return max(self.within * (1 - _ROUNDING), _SAME) * self._scale(value)

    def _target(self, tree: Tree) -> float:
        """Return what a purchase must cost less than to be sought."""
        return tree.value - self._room(tree.value)

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
                learn_cheapest(self.market, self.known, group, self.market.beside(group, units))
            self.priced.add(units.tobytes())
        return self.known.totals(self.market, units)

    def _least(self, units: Floats) -> float:
        """Return what the measure of a purchase is not below, by the cheapest fleets of all. Raises as `totals` does."""
        if not self.market.is_together:
            return self.value(units)
        return self.measure.of(least_costs(self.market, self.known, units))

    def settled(self, units: Floats) -> Floats:
        """Return what `totals` does; where time ends, with the cheapest fleets found so far. Raises InfeasibleError."""
        with contextlib.suppress(TimeUpError):
            return self.totals(units)
        return self.known.totals(self.market, units)

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
        better = self._is_better(tree, value)
        if better:
            tree.units, tree.value = units, value
        return better

    def _is_better(self, tree: Tree, value: float) -> bool:
        """Return whether a value is less than the best known one by more than rounding."""
        return value < tree.value - _SAME * self._scale(tree.value)

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
                if not self._is_better(tree, quick):
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
