"""Fleets of a cost within a window, counted column by column: those that waste too much end early."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

MOST_FLEETS = 20_000
"""Beyond so many fleets that are left with some columns counted, there are too many."""

MOST_AT_ONCE = 1_000_000
"""Fleets with one more column that are looked at together, for the memory that they take."""


def fleets_between(columns: Sequence[CountedColumn], window: Window) -> Floats | None:
    """Return the fleets in a window, (fleets × columns), sorted by cost; None: too many."""
    found: PartFleets | None = PartFleets.empty(len(columns))
    # What few are affordable of comes first; how many there are of the last its cost tells.
    *first, last = sorted(range(len(columns)), key=lambda k: columns[k].most)
    for k in first:
        found = found and found.times(k, columns[k], window)
    found = found and found.filled(last, columns[last], window)
    if found is None:
        return None
    # A fleet may waste what it costs above the bound, and no more.
    fits = (found.cost > window.below) & (found.waste <= window.room - (window.cap - found.cost))
    rows, cost = found.rows[fits], found.cost[fits]
    return rows[np.lexsort((*rows.T[::-1], cost))]


class Window(NamedTuple):
    """What a fleet may cost, waste, and cost more than the root's cut says; all that it carries may be of one size."""

    below: float
    cap: float
    room: float
    spare: float
    is_one_size: bool


class CountedColumn(NamedTuple):
    """One column: its price, what 0, 1, … instances waste, how much dearer than its worth one is, and how many may be."""

    price: float
    wasted: Floats
    dearer: float
    most: int


class PartFleets(NamedTuple):
    """Fleets with some columns counted, (fleets × columns), and what each costs, wastes and is dearer by."""

    rows: Floats
    cost: Floats
    waste: Floats
    over: Floats

    @classmethod
    def empty(cls, columns: int) -> PartFleets:
        """Return the one fleet of nothing."""
        return cls(np.zeros((1, columns)), np.zeros(1), np.zeros(1), np.zeros(1))

    def times(self, k: int, column: CountedColumn, window: Window) -> PartFleets | None:
        """Return every fleet with each count of one more column; None: too many."""
        fleets, each = len(self.rows), column.most + 1
        if fleets * each > MOST_AT_ONCE:
            return None
        of, counts = np.repeat(np.arange(fleets), each), np.tile(np.arange(each), fleets)
        return self._with(k, of, counts, column, window)

    def filled(self, k: int, column: CountedColumn, window: Window) -> PartFleets | None:
        """Return every fleet with the counts of the last column by which its cost comes into the window."""
        least = np.maximum(np.floor((window.below - self.cost) / column.price), 0.0)
        largest = np.minimum(np.ceil((window.cap - self.cost) / column.price), column.most)
        ways = np.maximum(largest - least + 1, 0).astype(np.int64)
        if int(ways.sum()) > MOST_AT_ONCE:
            return None
        of = np.repeat(np.arange(len(self.rows)), ways)
        counts = (
            np.arange(len(of))
            - np.repeat(np.cumsum(ways) - ways, ways)
            + least[of].astype(np.int64)
        )
        return self._with(k, of, counts, column, window)

    def _with(
        self, k: int, of: Whole, counts: Whole, column: CountedColumn, window: Window
    ) -> PartFleets | None:
        cost = self.cost[of] + column.price * counts
        waste = self.waste[of] + column.wasted[counts]
        over = self.over[of] + column.dearer * counts
        kept = np.flatnonzero(
            (cost <= window.cap) & (waste <= window.room) & (over <= window.spare)
        )
        if window.is_one_size:
            kept = kept[_not_outdone(cost[kept], cost[kept] - over[kept])]
        if len(kept) > MOST_FLEETS:
            return None
        rows = self.rows[of[kept]]
        rows[:, k] = counts[kept]
        return PartFleets(rows, cost[kept], waste[kept], over[kept])


def _not_outdone(cost: Floats, worth: Floats) -> Whole:
    """Return the fleets, by number, that carry more than each of those that cost no more."""
    order = np.lexsort((-worth, cost))
    best = np.maximum.accumulate(worth[order])
    more = np.concatenate(([True], worth[order][1:] > best[:-1]))
    return np.sort(order[more[: len(order)]])
