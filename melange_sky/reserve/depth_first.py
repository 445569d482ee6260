"""Depth-first search over whole counts. Plain functions for `simulator.native`, which makes machine code of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from melange_sky.simulator.native import Program

if TYPE_CHECKING:
    from melange_sky.simulator.state import FloatRows, Whole

GAVE_UP = -1.0


class Cover(NamedTuple):
    """min max_t (spent_t0 + Σ price_t × x) with Σ worth × x ≥ 1 for each row, 0 ≤ x ≤ most whole.

    `price` is (tariffs × columns), `worth` (columns × rows), `most` and `counts` (columns). A column that `follows`
    the one before, (columns), is used only where that is used up. `cheap`,
    (tariffs × (columns + 1) by rows), is the least price of a whole row from a column on under a tariff;
    `left`, (columns + 1 × rows), begins with ones and is what is still needed there. `spent`, (tariffs × columns
    + 1), begins with what every fleet costs and is the cost of the columns before. `best` becomes the counts.
    """

    price: FloatRows
    most: Whole
    follows: Whole
    worth: FloatRows
    cheap: FloatRows
    left: FloatRows
    spent: FloatRows
    counts: Whole
    best: Whole


def _lacks(c: Cover, at: int, rows: int) -> bool:
    """Return whether anything is still needed from a column on."""
    most = 0.0
    for row in range(rows):
        most = max(most, c.left[at, row])
    return most > 0.0


def _dearer(c: Cover, at: int, rows: int, than: float) -> bool:
    """Return whether all that the columns before allow costs as much as `than`, by the dearest row's rest."""
    columns = len(c.most)
    for tariff in range(len(c.price)):
        room = than - c.spent[tariff, at]
        if room <= 0.0:
            return True
        base = tariff * (columns + 1) + at
        for row in range(rows):
            if c.left[at, row] > 0.0 and c.left[at, row] * c.cheap[base, row] >= room:
                return True
    return False


def _enough(c: Cover, at: int, rows: int) -> int:
    """Return how many of a column do all that it can for what is left."""
    if c.follows[at] > 0 and c.counts[at - 1] < c.most[at - 1]:
        return 0
    enough = 0
    for row in range(rows):
        if c.left[at, row] > 0.0 and c.worth[at, row] > 0.0:
            needed = min(c.left[at, row] / c.worth[at, row], 1e9)
            whole = int(needed)
            if float(whole) < needed:
                whole += 1
            enough = max(enough, whole)
    return min(enough, c.most[at])


def _take(c: Cover, at: int, rows: int, count: int) -> None:
    c.counts[at] = count
    for tariff in range(len(c.price)):
        c.spent[tariff, at + 1] = c.spent[tariff, at] + c.price[tariff, at] * float(count)
    for row in range(rows):
        c.left[at + 1, row] = c.left[at, row] - c.worth[at, row] * float(count)


def cheapest_cover(c: Cover, below: float, rows: int, most_nodes: int) -> float:
    """Return the least cost, `below` where no cost is less, GAVE_UP after too many nodes."""
    columns = len(c.most)
    best, at, nodes = below, 0, 0
    _take(c, 0, rows, _enough(c, 0, rows))
    while at >= 0:
        nodes += 1
        if nodes > most_nodes:
            return GAVE_UP
        deeper = False
        if not _dearer(c, at + 1, rows, best):
            if not _lacks(c, at + 1, rows):
                best = c.spent[0, at + 1]
                for tariff in range(len(c.price)):
                    best = max(best, c.spent[tariff, at + 1])
                for k in range(columns):
                    c.best[k] = c.counts[k] if k <= at else 0
            else:
                deeper = at + 1 < columns
        if deeper:
            at += 1
            _take(c, at, rows, _enough(c, at, rows))
        else:
            while at >= 0 and c.counts[at] == 0:
                at -= 1
            if at >= 0:
                _take(c, at, rows, c.counts[at] - 1)
    return best


_PROGRAM = Program(cheapest_cover)
(cheapest_cover_fast,) = _PROGRAM.entries()
