"""What no purchase within a box comes below: the box's program and the search for fleets that could lower it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.reserve.cells import Cell, around_each
from melange_sky.reserve.levels import Box, Levels
from melange_sky.reserve.market import Market
from melange_sky.reserve.master import Master, Relaxation, Shadows
from melange_sky.reserve.pricing import Tariffs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.reserve.known import Known
    from melange_sky.reserve.objective import Measure

    Floats = NDArray[np.float64]

_SAME = 1e-9
"""Costs that differ by no more of the whole are the same."""

_STEP = 1e-4
"""A bound that could rise by less of the cost, or of what smaller boxes have to close, is left for those."""

_PULL = 0.5
"""How far prices are drawn to those of the best bound."""

_PART = 1e-6
"""A level bought less than so far from whole is whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shade:
    """What a program of a box came to: what it buys of each level, its prices, and the box without what cannot be best."""

    levels: Levels
    bought: Floats
    shadows: Shadows
    kept: Box
    cells: Sequence[Cell]

    def cut_at(self, cuts: Sequence[set[float]]) -> bool:
        """Add cuts to levels that are bought in part; return whether there are any."""
        levels, bought = self.levels, self.bought
        coarse = (levels.width > 1) & (bought > _PART) & (bought < levels.width - _PART)
        for k, units in zip(levels.purchase[coarse], (levels.start + bought)[coarse], strict=True):
            cuts[k].update((float(np.floor(units)), float(np.floor(units)) + 1))
        return bool(coarse.any())

    def parts(self, usd: Floats) -> list[Box]:
        """Return a box in two, cut at what its program buys of the purchase that is furthest from whole levels."""
        box, levels, bought = self.kept, self.levels, self.bought
        off = np.minimum(bought, levels.width - bought) / np.maximum(levels.width, 1.0)
        parts = np.bincount(levels.purchase, weights=off, minlength=len(usd)) * usd
        wide = box.high > box.low
        if not (parts[wide] > _PART * usd[wide]).any():
            parts = (box.high - box.low) * usd
        k = int(np.where(wide, parts, -1.0).argmax())
        return box.cut(k, levels.units(bought)[k] + _PART)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds of boxes over the periods in `cells`; `units` is the best known purchase, `scale` what parts are told of."""

    market: Market
    known: Known
    measure: Measure
    cells: Sequence[Cell]
    units: Floats
    within: float
    scale: float
    deadline: Deadline

    def of(
        self, levels: Levels, value: float, raised: Callable[[float], None], above: Shade | None
    ) -> Shade:
        """Return what the program of a box comes to, `above` that of one around it; `raised` is told each bound.

        `value` is of the best known purchase. Raises TimeUpError.

        Fleets are sought until none could raise it, or while that pays. They are priced between the program's duals
        and those of the best bound, which calms them (Wentges 1997).
        """
        scale = self.scale
        target = value - max(_SAME, self.within) * scale
        tolerated = max(_SAME, self.within / 4) * scale
        master = Master(self.market, self.cells, levels, self.measure, self.deadline)
        tariffs = Tariffs(self.market, self.cells, self.known, levels)
        self._begin(master, tariffs, levels, above)
        kept, centre, best, pull = levels.box, None, -np.inf, 0.0
        while True:
            relaxation = self._solved(master, tariffs)
            shadows = relaxation.shadows
            if centre is not None and pull:
                shadows = master.shadows(pull * centre.raw + (1 - pull) * shadows.raw)
            least, new = self._least(master, tariffs, shadows)
            bound = shadows.bound(least)
            if centre is None or bound > best:
                best, centre = bound, shadows
                kept = levels.without(shadows.reduced, target - bound)
                raised(bound)
            slack = relaxation.value - best
            enough = max(_STEP * scale, (value - relaxation.value) / 4)  # smaller boxes gain more
            done = best >= target or slack <= tolerated or not (new or pull)
            if done or slack < enough:
                return Shade(
                    levels=levels,
                    bought=relaxation.bought,
                    shadows=centre,
                    kept=kept,
                    cells=self.cells,
                )
            pull = _PULL if new else 0.0

    def _begin(
        self,
        master: Master,
        tariffs: Tariffs,
        levels: Levels,
        above: Shade | None,
    ) -> None:
        """Let fleets enter that are cheap beside the least, the most and the best known purchase, or as above."""
        box, beyond = levels.box, levels.start + levels.width
        groups = [self.market.groups[cell.group] for cell in self.cells]
        start = np.clip(self.units, box.low, box.high)
        for bought in (start, box.low, box.high):
            point = Levels.of(Box(low=bought, high=bought))
            beside = Tariffs(self.market, self.cells, self.known, point)
            prices = np.where(beyond <= bought[levels.purchase] + _PART, 0.0, np.inf)
            for g, place in enumerate(beside.cheapest(np.zeros((len(self.cells), 0)))[0].tolist()):
                tariff = self.market.tariff(groups[g], levels, prices)
                master.enter(g, tariff, tariff.bill(self.known.fleets[[place]]))
        if above is not None:
            around = np.array(around_each(self.cells, above.cells), dtype=np.intp)
            shadows = levels.prices_from(above.levels, above.shadows.prices[around])
            for g, tariff, places in tariffs.near(shadows):
                master.enter(g, tariff, tariff.bill(self.known.fleets[places]))
        master.begin(start)

    def _solved(self, master: Master, tariffs: Tariffs) -> Relaxation:
        """Return the optimum over all known fleets, as nearly as it pays."""
        while True:
            relaxation = master.solve()
            gained = 0.0
            for g, tariff, places, gain in tariffs.cheaper(relaxation.shadows):
                if master.enter(g, tariff, tariff.bill(self.known.fleets[places])):
                    gained += gain
            if gained <= max(_SAME, self.within / 8) * self.scale:
                return relaxation

    def _least(self, master: Master, tariffs: Tariffs, shadows: Shadows) -> tuple[Floats, int]:
        """Return what no fleet costs less than in each cell, (cells); let cheaper ones enter, count them."""
        _, costs = tariffs.cheapest(shadows.prices)
        least, new = costs.copy(), 0
        fresh: list[tuple[Floats, Floats]] = []
        for g in np.flatnonzero(shadows.weights > 0).tolist():
            cell = self.cells[g]
            group = self.market.groups[cell.group]
            tariff, mix = tariffs.tariff(g, shadows), self.market.question.mixes[group.mix]
            able = [fleet for fleet, rates in fresh if rates[group.mix] >= cell.rate_rps]
            if able:
                bill = tariff.bill(np.array(able))
                total = tariff.total(bill)
                if total.min() < least[g]:
                    least[g] = total.min()
                    new += master.enter(g, tariff, bill)
            below = least[g] - max(_SAME * max(1.0, least[g]), self.within / 8 * least[g])
            found = mix.cheapest(tariff, cell.rate_rps, below)
            if found is not None:
                place = self.known.learn(found.fleet)
                fresh.append((found.fleet, self.known.rates_of(place)))
                bill = found.bill or tariff.bill(found.fleet[None])
                new += master.enter(g, tariff, bill)
            least[g] = below if found is None else min(found.bound, below)
        return least, new
