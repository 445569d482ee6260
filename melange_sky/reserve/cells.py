"""Periods as the bound sees them: spans of rates taken for their lowest, so that the bound stays one."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.reserve.market import Group

FEW_CELLS = 48
"""So many spans at first for a linear program; where rounding is what keeps the bound from the cost, more."""

MANY_CELLS = 168
"""So many at first where machine code prices them."""


class Begun(Protocol):
    """Periods of a group, from the `first` of its order on."""

    @property
    def group(self) -> int:
        """Which group."""

    @property
    def first(self) -> int:
        """The first period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Periods of a group, from the `first` of its order to before the `last`, at their lowest rate; USD weights are hours."""

    group: int
    first: int
    last: int
    rate_rps: float
    hours: float


def cells_of(groups: Sequence[Group], hours_each: float, most: int) -> list[Cell]:
    """Return the periods of all groups in about `most` cells: as many as there are rates, where these are fewer."""
    starts = [np.flatnonzero(np.diff(g.rates_rps, prepend=-1.0) > 0) for g in groups]
    total = sum(map(len, starts))
    cells = []
    for n, (group, start) in enumerate(zip(groups, starts, strict=True)):
        kept = start
        if total > most:
            count = max(1, round(most * len(start) / total))
            kept = start[np.unique(np.linspace(0, len(start), count, endpoint=False).astype(int))]
        cells += _cells(n, group, kept.tolist(), hours_each)
    return cells


def around_each(cells: Sequence[Cell], coarse: Sequence[Begun]) -> list[int]:
    """Return which of coarser cells each cell is part of."""
    places = sorted(range(len(coarse)), key=lambda n: (coarse[n].group, coarse[n].first))
    starts = [(coarse[n].group, coarse[n].first) for n in places]
    return [places[bisect_right(starts, (cell.group, cell.first)) - 1] for cell in cells]


def finer(
    cells: Sequence[Cell], groups: Sequence[Group], changes: Sequence[Sequence[int]]
) -> list[Cell]:
    """Return the cells cut where each group's costs change, else in halves; the same where none can be cut."""
    hours_each = cells[0].hours / (cells[0].last - cells[0].first)
    cut = _cut(cells, groups, changes, hours_each)
    if len(cut) > len(cells):
        return cut
    halves: list[list[int]] = [[] for _ in groups]
    for cell in cells:
        halves[cell.group].append((cell.first + cell.last) // 2)
    return _cut(cells, groups, halves, hours_each)


def _cut(
    cells: Sequence[Cell],
    groups: Sequence[Group],
    changes: Sequence[Sequence[int]],
    hours_each: float,
) -> list[Cell]:
    """Return the cells cut at places in their groups' periods, never between equal rates."""
    found = []
    for n, (group, places) in enumerate(zip(groups, changes, strict=True)):
        firsts = (cell.first for cell in cells if cell.group == n)
        rates = group.rates_rps[sorted({*firsts, *places})]
        starts = np.unique(np.searchsorted(group.rates_rps, rates, side="left"))
        found += _cells(n, group, starts.tolist(), hours_each)
    return found


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
