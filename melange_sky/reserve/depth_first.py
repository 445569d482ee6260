"""Depth-first search over whole counts. Plain functions for `simulator.native`, which makes machine code of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from melange_sky.simulator.native import Program

if TYPE_CHECKING:
    from melange_sky.simulator.state import FloatRows, Floats, Whole

MOST_NODES = 300_000
"""Beyond so many nodes the search gives up: some tens of milliseconds."""

GAVE_UP = -1.0


class Cover(NamedTuple):
    """min Σ price × x with Σ worth × x ≥ 1 for each row, 0 ≤ x ≤ most whole.

    `worth` is (columns × rows), `price`, `most` and `counts` (columns). `cheap` and `left`, (columns + 1 ×
    rows), are the least price of a whole row from a column on, and how much of it is still needed there;
    `left` begins with ones. `spent` (columns + 1) is the cost of the columns before. `best` becomes the counts.
    """

    price: Floats
    most: Whole
    worth: FloatRows
    cheap: FloatRows
    left: FloatRows
    spent: Floats
    counts: Whole
    best: Whole


def _least_cost(c: Cover, at: int, rows: int) -> float:
    """Return the least that what is left can cost from a column on: the dearest row's."""
    least = 0.0
    for row in range(rows):
        if c.left[at, row] > 0.0:
            least = max(least, c.left[at, row] * c.cheap[at, row])
    return least


def _enough(c: Cover, at: int, rows: int) -> int:
    """Return how many of a column do all that it can for what is left."""
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
    c.spent[at + 1] = c.spent[at] + c.price[at] * float(count)
    for row in range(rows):
        c.left[at + 1, row] = c.left[at, row] - c.worth[at, row] * float(count)


def cheapest_cover(c: Cover, below: float, rows: int) -> float:
    """Return the least cost, `below` where no cost is less, GAVE_UP after too many nodes."""
    columns = len(c.price)
    best, at, nodes = below, 0, 0
    _take(c, 0, rows, _enough(c, 0, rows))
    while at >= 0:
        nodes += 1
        if nodes > MOST_NODES:
            return GAVE_UP
        least = _least_cost(c, at + 1, rows)
        if least == 0.0 and c.spent[at + 1] < best:
            best = c.spent[at + 1]
            for k in range(columns):
                c.best[k] = c.counts[k] if k <= at else 0
        if least > 0.0 and c.spent[at + 1] + least < best and at + 1 < columns:
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
