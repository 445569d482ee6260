"""Periods as the bound sees them: spans of rates taken for their lowest, so that the bound stays one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.reserve.market import Group

_MOST_CELLS = 220
"""So many spans at first; where rounding is what keeps the bound from the cost, more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Periods of a group, from the `first` of its order to before the `last`, at their lowest rate; USD weights are hours."""

    group: int
    first: int
    last: int
    rate_rps: float
    hours: float


def cells_of(groups: Sequence[Group], hours_each: float) -> list[Cell]:
    """Return the periods of all groups in cells: as many as there are rates, where these are few."""
    starts = [np.flatnonzero(np.diff(g.rates_rps, prepend=-1.0) > 0) for g in groups]
    total = sum(map(len, starts))
    cells = []
    for n, (group, start) in enumerate(zip(groups, starts, strict=True)):
        kept = start
        if total > _MOST_CELLS:
            count = max(1, round(_MOST_CELLS * len(start) / total))
            kept = start[np.unique(np.linspace(0, len(start), count, endpoint=False).astype(int))]
        cells += _cells(n, group, kept.tolist(), hours_each)
    return cells


def _cells(n: int, group: Group, starts: list[int], hours_each: float) -> list[Cell]:
    ends = [*starts[1:], len(group.rates_rps)]
    return [
        Cell(
            group=n,
            first=first,
            last=last,
            rate_rps=float(group.rates_rps[first]),
            hours=hours_each * (last - first),
        )
        for first, last in zip(starts, ends, strict=True)
    ]
