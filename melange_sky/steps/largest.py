"""The largest argument at which a rising function is not above 0, of many functions at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PARTS = 2.0**40
"""Steps from 0 to the highest argument: what is found is a whole number of them."""

_NARROW = 1 / (8 * PARTS)
_PATIENCE, _LINES = 3, 20
"""Rounds in which a range must have halved, or it is halved; and those after which all are."""

_TINY = 1e-300


def largest_within(excess: Callable[[Floats], Floats], high: Floats) -> Floats:
    """Return, per element, the largest step below `high` at which a rising function is at most 0; 0 for none.

    `excess` takes arguments of the shape of `high` (all ≥ 0) and returns values of that shape. Each round looks
    where a line between the ends crosses 0, the value at an end that stays made smaller so that it moves
    (Anderson & Björck, BIT 13, 1973), and halves what does not shrink: smooth functions take less than half of the rounds of halving alone.
    """
    low, top = np.zeros_like(high), high
    at_low, at_top = _numbers(excess(low)), _numbers(excess(high))
    all_good = at_top <= 0
    is_open = (at_low <= 0) & ~all_good
    before, waited, side = high, np.zeros_like(high), np.zeros_like(high)
    rounds = 0
    while (is_open := is_open & (top - low > high * _NARROW)).any():
        by_line = is_open & (waited < _PATIENCE) if rounds < _LINES else np.False_
        tried = np.where(by_line, _crossing(low, top, at_low, at_top, high), (low + top) / 2)
        found = _numbers(excess(tried))
        good = found <= 0
        again, side = np.where(good, 1.0, -1.0) == side, np.where(good, 1.0, -1.0)
        at_top = np.where(good & again, at_top * _shrink(found, at_low), at_top)
        at_low = np.where(~good & again, at_low * _shrink(found, at_top), at_low)
        good, bad = good & is_open, ~good & is_open
        low, at_low = np.where(good, tried, low), np.where(good, found, at_low)
        top, at_top = np.where(bad, tried, top), np.where(bad, found, at_top)
        halved, rounds = top - low <= before / 2, rounds + 1
        before, waited = np.where(halved, top - low, before), np.where(halved, 0.0, waited + 1)
    return _whole_steps(excess, np.where(all_good, high, low), np.where(all_good, high, top), high)


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
    part = 1 - found / np.where(replaced == 0, _TINY, replaced)
    return np.where(part > 0, part, 0.5)


def _whole_steps(
    excess: Callable[[Floats], Floats], low: Floats, top: Floats, high: Floats
) -> Floats:
    """Return the last whole step that is good, of a narrow range whose ends are good and bad, or both `high`."""
    step = high / PARTS
    count = np.minimum(np.floor(low / np.maximum(step, _TINY)), PARTS - 1)
    following = (count + 1) * step
    is_inside = (following < top) & (count + 1 < PARTS)
    if is_inside.any():
        count = count + (is_inside & (excess(np.where(is_inside, following, low)) <= 0))
    found: Floats = count * step
    return found
