"""The largest argument at which a rising function is not above 0, of many functions at once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Excess = Callable[[Floats], Floats]

PARTS = 2.0**40
"""Steps from 0 to the highest argument: what is found is a whole number of them."""

_NARROW = 1 / (8 * PARTS)
_PATIENCE, _LINES = 3, 20
"""Rounds in which a range must have halved, or it is halved; and those after which all are."""

_FEW = 0.8
"""With fewer than this part of the rows left, the others are looked at no more."""

_TINY = 1e-300


def largest_within(
    excess: Excess, high: Floats, of_rows: Callable[[NDArray[np.intp]], Excess] | None = None
) -> Floats:
    """Return, per element, the largest step below `high` at which a rising function is at most 0; 0 for none.

    `excess` takes arguments of the shape of `high` (all ≥ 0) and returns values of that shape, `of_rows` returns
    `excess` for some rows alone: those that are found are then looked at no more. Each round looks
    where a line between the ends crosses 0, the value at an end that stays made smaller so that it moves
    (Anderson & Björck, BIT 13, 1973), and halves what does not shrink: smooth functions take less than half of the rounds of halving alone.
    """
    low, top = np.zeros_like(high), high
    at_low, at_top = _numbers(excess(low)), _numbers(excess(high))
    all_good, is_hopeless = at_top <= 0, at_low > 0
    low, top = np.where(all_good, high, low), np.where(is_hopeless, low, top)
    search = _Search.of(low, top, at_low, at_top, high)
    rows, narrowed = np.arange(len(high)), excess
    while (left := search.open_rows()).any():
        if of_rows is not None and left.sum() < _FEW * len(left):
            low[rows], top[rows] = search.low, search.top
            rows, search = rows[left], search.of_rows(left)
            narrowed = of_rows(rows)
        search.narrow(narrowed)
    low[rows], top[rows] = search.low, search.top
    return _whole_steps(excess, low, np.where(is_hopeless, high, top), high)


@dataclass(slots=True, kw_only=True)
class _Search:
    """A range per element, with the function's values at its ends, and how it has shrunk."""

    low: Floats
    top: Floats
    at_low: Floats
    at_top: Floats
    high: Floats
    before: Floats
    waited: Floats
    side: Floats
    rounds: int = 0

    @classmethod
    def of(cls, low: Floats, top: Floats, at_low: Floats, at_top: Floats, high: Floats) -> _Search:
        """Begin."""
        return cls(
            low=low,
            top=top,
            at_low=at_low,
            at_top=at_top,
            high=high,
            before=high,
            waited=np.zeros_like(high),
            side=np.zeros_like(high),
        )

    def of_rows(self, rows: NDArray[np.bool_]) -> _Search:
        """Return the search of some rows alone."""
        arrays = (f.name for f in fields(self) if f.name != "rounds")
        return replace(self, **{name: getattr(self, name)[rows] for name in arrays})

    def is_open(self) -> NDArray[np.bool_]:
        """Return which elements are not found yet."""
        still: NDArray[np.bool_] = self.top - self.low > self.high * _NARROW
        return still

    def open_rows(self) -> NDArray[np.bool_]:
        """Return in which rows some element is not found yet."""
        is_open = self.is_open()
        found: NDArray[np.bool_] = np.logical_or.reduce(is_open.reshape(len(is_open), -1), axis=1)
        return found

    def narrow(self, excess: Excess) -> None:
        """Look at one argument of each element."""
        low, top, at_low, at_top, is_open = (
            self.low,
            self.top,
            self.at_low,
            self.at_top,
            self.is_open(),
        )
        by_line = is_open & (self.waited < _PATIENCE) if self.rounds < _LINES else np.False_
        tried = np.where(by_line, _crossing(low, top, at_low, at_top, self.high), (low + top) / 2)
        found = _numbers(excess(tried))
        good = found <= 0
        side = np.where(good, 1.0, -1.0)
        again = side == self.side
        at_top = np.where(good & again, at_top * _shrink(found, at_low), at_top)
        at_low = np.where(~good & again, at_low * _shrink(found, at_top), at_low)
        good, bad = good & is_open, ~good & is_open
        self.low, self.at_low = np.where(good, tried, low), np.where(good, found, at_low)
        self.top, self.at_top = np.where(bad, tried, top), np.where(bad, found, at_top)
        width = self.top - self.low
        halved = width <= self.before / 2
        self.before = np.where(halved, width, self.before)
        self.waited, self.side = np.where(halved, 0.0, self.waited + 1), side
        self.rounds += 1


def _numbers(values: Floats) -> Floats:
    """What is no number is not good."""
    return np.where(np.isnan(values), 1.0, values)


def _crossing(low: Floats, top: Floats, at_low: Floats, at_top: Floats, high: Floats) -> Floats:
    """Return where a line between the ends crosses 0, a little inside the range."""
    crossing = low - at_low * (top - low) / np.maximum(at_top - at_low, _TINY)
    nearest = high * _NARROW / 2
    return np.clip(crossing, low + nearest, top - nearest)


def _shrink(found: Floats, replaced: Floats) -> Floats:
    """By what the value at the end that stays is made smaller, the value at the other replaced by what was found."""
    with np.errstate(over="ignore"):  # infinite halves too
        part = 1 - found / np.where(replaced == 0, _TINY, replaced)
    return np.where(part > 0, part, 0.5)


def _whole_steps(excess: Excess, low: Floats, top: Floats, high: Floats) -> Floats:
    """Return the last whole step that is good, of a narrow range whose ends are good and bad, or both `high`."""
    step = high / PARTS
    count = np.minimum(np.floor(low / np.maximum(step, _TINY)), PARTS - 1)
    following = (count + 1) * step
    is_inside = (following < top) & (count + 1 < PARTS)
    if is_inside.any():
        count = count + (is_inside & (excess(np.where(is_inside, following, low)) <= 0))
    found: Floats = count * step
    return found
