"""What no purchase in a box comes below, by prices of units that are bettered step by step.

Every unit that may be bought has a price in each cell, which whatever uses it there pays instead of the rent. With
any prices u

    Σ_l min(0, usd_l − Σ_g weight_g u_gl) + Σ_g weight_g (cost of the cheapest whole fleet in g)

is a bound (Lagrange); it rises where what is used too much becomes dearer (the volume algorithm: Barahona & Anbil,
Mathematical Programming 87, 2000). Machine code prices all cells within milliseconds (`pricing_steps.py`), so that
hundreds of steps take less than one linear program of the same bound (`master.py`), which alone comes to it exactly.
A box within another begins at its prices and takes few steps: more boxes gain more than longer climbs.
A purchase that several options draw on has one price for all its units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.reserve.cells import around_each
from melange_sky.reserve.cone import Cone
from melange_sky.reserve.levels import Box, Levels
from melange_sky.reserve.pricing_cells import PATIENT, QUICK, Priced, PricedCells
from melange_sky.reserve.serving import Served

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.reserve.cells import Cell
    from melange_sky.reserve.in_parts import Mean, Span
    from melange_sky.reserve.known import Known
    from melange_sky.reserve.market import Market

    Floats = NDArray[np.float64]

_STEPS = (150, 25)
"""So many steps at most: in the box of all purchases, and in one that begins at the prices of another."""

_LENGTH = 0.2
"""The first step's part of what, by Polyak's rule, would close the gap."""

_SHORTEST = 0.01
"""Steps of a smaller part gain nothing."""

_LONGER, _SHORTER, _PATIENCE = 1.1, 0.6, 4
"""A step that gains makes the next one longer, so many in turn that gain nothing shorter."""

_LOOK_BACK, _LITTLE = 10, 1e-4
"""So many steps that gain less than this part of the cost are the last."""

_SETTLING = 20
"""So often at most the first prices of all are looked at again."""

_NEWEST = 0.25
"""How much the newest step counts in the mean of what is used and bought."""

_LEARN = 4
"""Every so many steps the fleets found become known, and with them why they serve no more, and a purchase is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Climb:
    """The best bound of a box, its prices, (cells × levels) and (cells × pools), and what is bought about there.

    `units`, (purchases), is a mean of several steps, `kept` the box without what cannot be best.
    """

    bound: float
    units: Floats
    kept: Box
    levels: Levels
    prices: Floats
    pooled: Floats
    cells: Sequence[Cell]

    def parts(self, usd: Floats) -> list[Box]:
        """Return the kept box in two, cut where what is bought in part costs most; one of one purchase as it is."""
        low, high = self.kept.low, self.kept.high
        if self.kept.is_point:
            return [self.kept]
        units = np.clip(self.units, low, high)
        off = np.minimum(units - np.floor(units), np.ceil(units) - units)
        wide = high > low
        k = int(np.where(wide, (off + 1e-3 * (high - low)) * usd, -1.0).argmax())
        return self.kept.cut(k, units[k])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ascent:
    """Bounds of boxes by better and better prices; `matter`, (scenarios), is how much each scenario's cost does.

    The measure comes to no less than Σ matter · (cost − offsets) whatever is bought. Cells are priced to a part
    `within` of their cost, which the bound is less by.
    """

    market: Market
    known: Known
    matter: Floats
    offsets: Floats
    deadline: Deadline
    within: float = 0.0

    @staticmethod
    def can(market: Market) -> bool:
        """Return whether all fleets are known by worths alone: none keeps to rules."""
        mixes = market.question.mixes
        levels = (level for mix in mixes for level in mix.levels)
        return all(type(mix) is Served for mix in mixes) and all(
            isinstance(level, Cone) for level in levels
        )

    def levels(self, box: Box) -> Levels:
        """Return the box with a level per unit of whole instances, one for all that is left of others."""
        cuts = [
            set() if option is None else set(np.arange(low, high).tolist())
            for option, low, high in zip(self.market.alone, box.low, box.high, strict=True)
        ]
        return Levels.of(box, cuts)

    def from_mean(self, cells: Sequence[Cell], spans: Sequence[Span], mean: Mean) -> Climb:
        """Return where to begin: all purchases, each unit at the price that a program in parts has for it."""
        around = around_each(cells, spans)
        levels, prices = self.levels(self.market.root), mean.prices[around]
        return Climb(
            bound=-np.inf,
            units=mean.units,
            kept=self.market.root,
            levels=levels,
            prices=prices[:, levels.purchase],
            pooled=prices[:, PricedCells.pools(self.market)],
            cells=cells,
        )

    def of(
        self,
        cells: Sequence[Cell],
        above: Climb,
        box: Box,
        span: tuple[float, float],
        raised: Callable[[float], None],
        looked: Callable[[Floats], tuple[float, float] | None] = lambda _units: None,
    ) -> Climb:
        """Return the best bound found for a box, beginning at the prices of one around it.

        `span` is the cost of the best known purchase, and from where on no more is sought; `raised` is told of
        better bounds. `looked` is told now and then what is bought about there, once the fleets found are known, and
        may answer with the span then. Raises TimeUpError.
        """
        value, target = span
        around = np.array(around_each(cells, above.cells), dtype=np.intp)
        levels = self.levels(box)
        prices = levels.prices_from(above.levels, above.prices[around])
        pooled = above.pooled[around]
        priced = self._priced(cells, levels)
        rounds = 0 if np.isfinite(above.bound) else _SETTLING
        best = mean = self._settled(priced, prices, pooled, rounds)
        at, length, idle = (prices, pooled), _LENGTH, 0
        raised(best.bound)
        before = -np.inf
        for step in range(1, _STEPS[bool(np.isfinite(above.bound))]):
            if best.bound >= target or length < _SHORTEST:
                break
            self.deadline.check()
            used, drawn = mean.used - mean.bought, mean.drawn - mean.pooled
            norm = float(priced.weights @ ((used**2).sum(axis=1) + (drawn**2).sum(axis=1)))
            if norm <= 0:
                break
            far = length * max(value - best.bound, _LITTLE * abs(value)) / norm
            prices = np.clip(at[0] + far * used, 0.0, priced.dearest)
            pooled = np.clip(at[1] + far * drawn, 0.0, priced.dearest_pooled)
            now = self._step(priced, prices, pooled)
            mean = mean.towards(now, _NEWEST)
            if step % _LEARN == 0:
                priced.learn()
                value, target = looked(priced.units(mean)) or (value, target)
            if now.bound > best.bound:
                best, at, idle = now, (prices, pooled), 0
                length = min(1.0, length * _LONGER)
                raised(best.bound)
            else:
                idle += 1
            if idle >= _PATIENCE:
                length, idle = length * _SHORTER, 0
            if step % _LOOK_BACK == 0:
                if best.bound < before + _LITTLE * abs(value):
                    break
                before = best.bound
        if best.bound < target:
            priced.look_again()
            patient = self._step(priced, *at, PATIENT)
            best = max(best, patient, key=lambda one: one.bound)
            raised(best.bound)
        priced.learn()
        return Climb(
            bound=best.bound,
            units=priced.units(mean),
            kept=levels.without(best.reduced, target - best.bound),
            levels=levels,
            prices=at[0],
            pooled=at[1],
            cells=cells,
        )

    def beside(self, climb: Climb, units: Floats) -> float:
        """Return what a purchase is not below, by a climb's prices; the fleets found beside it become known."""
        box = Box(low=units, high=units)
        priced = self._priced(climb.cells, self.levels(box))
        found = self._step(priced, np.zeros((len(climb.cells), 0)), climb.pooled)
        priced.learn()
        return found.bound

    def _priced(self, cells: Sequence[Cell], levels: Levels) -> PricedCells:
        return PricedCells(self.market, self.known, cells, levels, self.matter, self.within)

    def _settled(self, priced: PricedCells, prices: Floats, pooled: Floats, rounds: int) -> Priced:
        """Return what prices come to once it is known why the fleets that look cheapest there serve no more."""
        best = self._step(priced, prices, pooled)
        for _ in range(rounds):
            self.deadline.check()
            priced.learn()
            priced.look_again()
            now = self._step(priced, prices, pooled)
            if now.bound < best.bound + _LITTLE * abs(best.bound):
                break
            best = now
        return best

    def _step(
        self, priced: PricedCells, prices: Floats, pooled: Floats, nodes: int = QUICK
    ) -> Priced:
        """Return what prices come to."""
        found = priced.at(prices, pooled, nodes)
        return found.less(float(self.matter @ self.offsets))
