"""What cells lose by taking periods for their lowest rate, and where to cut them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.reserve.cells import finer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.cells import Cell
    from melange_sky.reserve.known import Known
    from melange_sky.reserve.market import Market
    from melange_sky.reserve.objective import Measure

    Floats = NDArray[np.float64]


def lost(
    market: Market, known: Known, cells: Sequence[Cell], measure: Measure, units: Floats
) -> float:
    """Return what the measure loses where every period of a cell has its lowest rate."""
    paid = float(market.usd @ units)
    whole = measure.of(known.cost(market, units) + paid)
    return whole - measure.of(known.cost_in(market, units, cells) + paid)


def finer_beside(
    market: Market, known: Known, cells: Sequence[Cell], purchases: Sequence[Floats]
) -> list[Cell]:
    """Return finer cells: cut where what the periods cost changes beside some purchases."""
    changes: list[list[int]] = []
    for group in market.groups:
        places: set[int] = set()
        for bought in purchases:
            fleets = known.running(market, bought, group)
            places.update((np.flatnonzero((np.diff(fleets, axis=0) != 0).any(axis=1)) + 1).tolist())
        changes.append(sorted(places))
    return finer(cells, market.groups, changes)
