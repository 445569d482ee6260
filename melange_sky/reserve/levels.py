"""The units of a box of purchases in parts that hours see one by one.

What one bought unit is worth differs from the next: the first is busy all day, the fifth at noon alone. A bound in
which every unit must be bought before an hour may use *it* is far higher than one in which hours share all units of
a purchase (as in plant location: Balinski, Management Science 12, 1965). Parts may be wider than a unit, which
lowers the bound and keeps the program small.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The purchases with low ≤ units ≤ high: arrays of whole units, one place per purchase."""

    low: Floats
    high: Floats

    @property
    def is_point(self) -> bool:
        """Whether it holds one purchase."""
        return bool((self.low == self.high).all())

    def cut(self, k: int, units: float) -> list[Box]:
        """Return the box in two: at most so many units of purchase `k`, and more; neither is empty."""
        most = min(max(float(np.floor(units)), self.low[k]), self.high[k] - 1)
        below, above = self.high.copy(), self.low.copy()
        below[k], above[k] = most, most + 1
        return [Box(low=self.low, high=below), Box(low=above, high=self.high)]

    def holds(self, units: Floats) -> bool:
        """Return whether a purchase is one of them."""
        return bool((units >= self.low).all() and (units <= self.high).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """A box in levels: of `purchase` up to `width` units beyond the first `start`. Arrays are (levels)."""

    box: Box
    purchase: NDArray[np.intp]
    start: Floats
    width: Floats

    @classmethod
    def of(cls, box: Box, cuts: Sequence[set[float]] | None = None) -> Levels:
        """Return a box cut where `cuts` say, one set per purchase; whole where there are none."""
        rows = []
        for k in np.flatnonzero(box.high > box.low).tolist():
            low, high = float(box.low[k]), float(box.high[k])
            within = set() if cuts is None else {c for c in cuts[k] if low < c < high}
            edges = sorted(within | {low, high})
            rows += [(k, a, b - a) for a, b in pairwise(edges)]
        table = np.array(rows, dtype=np.float64).reshape(-1, 3)
        return cls(
            box=box, purchase=table[:, 0].astype(np.intp), start=table[:, 1], width=table[:, 2]
        )

    def units(self, bought: Floats) -> Floats:
        """Return the units of each purchase, those for sure with them, where so much of each level is bought."""
        more = np.bincount(self.purchase, weights=bought, minlength=len(self.box.low))
        units: Floats = self.box.low + more
        return units

    def prices_from(self, other: Levels, prices: Floats) -> Floats:
        """Return prices of these levels, (cells × levels), as others have them where these begin; else 0."""
        found = np.zeros((len(prices), len(self.purchase)))
        for n, (k, start) in enumerate(zip(self.purchase, self.start, strict=True)):
            here = (other.purchase == k) & (other.start <= start)
            here &= start < other.start + other.width
            if here.any():
                found[:, n] = prices[:, int(here.argmax())]
        return found

    def without(self, reduced: Floats, room: float) -> Box:
        """Return the box without purchases that cost more than there is room for.

        `reduced`, (levels), is what a unit more of each costs at the bound's prices, below 0 where the level is
        bought. So many units of a purchase cost at least what the cheapest of its levels sum up to.
        """
        low, high = self.box.low.copy(), self.box.high.copy()
        for k in np.unique(self.purchase).tolist():
            here = np.flatnonzero(self.purchase == k)
            order = here[np.argsort(reduced[here], kind="stable")]
            costs, widths = reduced[order], self.width[order]
            units = np.concatenate(([0.0], np.cumsum(widths)))
            more = np.concatenate(([0.0], np.cumsum(costs * widths)))
            more -= more.min()
            counts = np.arange(low[k], high[k] + 0.5)
            able = counts[np.interp(counts - low[k], units, more) <= max(room, 0.0)]
            if len(able):
                low[k], high[k] = able[0], able[-1]
        return type(self.box)(low=low, high=high)
