"""Purchases near others: some units more or less, one exchanged for another, or parts of units made whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.levels import Box

    Floats = NDArray[np.float64]


def moves(units: Floats, within: Box, places: Sequence[int]) -> list[Floats]:
    """Return purchases near one in a box: some units more or less of those at `places`, or an exchange of one."""
    changes = [
        {k: sign * 2.0**power}
        for k in places
        for power in range(int(np.log2(within.high[k])) + 1)
        for sign in (-1, 1)
    ]
    changes += [{k: -1.0, o: 1.0} for k in places if units[k] > 0 for o in places if o != k]
    found = []
    for change in changes:
        moved = units.copy()
        moved[list(change)] += list(change.values())
        if within.holds(moved):
            found.append(moved)
    return found


def rounded(units: Floats, box: Box) -> list[Floats]:
    """Return a purchase in parts in whole units within a box, rounded each way."""
    ways = (np.floor, np.round, np.ceil)
    found = {tuple(np.clip(way(units), box.low, box.high)) for way in ways}
    return [np.array(one) for one in sorted(found)]
