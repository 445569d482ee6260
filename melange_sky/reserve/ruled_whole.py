"""Whole instances that keep to rows of worths and to the rules about instances, at least cost.

Sought depth first (`ruled_first.py`); where that takes too long, by an integer program of the optimizer's own rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.program.highs import solve_by_highs
from melange_sky.optimizer.program.linear import GE, LE
from melange_sky.optimizer.program.termination import Termination
from melange_sky.reserve.covering import LongSearchError
from melange_sky.reserve.linear_rules import LinearRules
from melange_sky.reserve.ruled_first import GAVE_UP, RuledCover, cheapest_ruled_cover_fast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.program.linear import Terms
    from melange_sky.reserve.ruled_level import RuledLevel
    from melange_sky.reserve.tariff import Tariff

    Floats = NDArray[np.float64]

_MOST_NODES = 400_000
"""Beyond so many nodes the search gives up for HiGHS: some tenths of a second."""

_MOST_USD = 1e30

_ROUNDING = 1e-9

_SAME = 1e-9
"""Costs that differ by no more of the whole are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A row: worth · n ≥ 1, (options), where `is_lossy` for what is left after any loss too."""

    worth: Floats
    is_lossy: bool

    def is_as(self, other: Need) -> bool:
        """Return whether it is the same row."""
        return self.is_lossy == other.is_lossy and bool(np.array_equal(self.worth, other.worth))


class RuledWhole:
    """The rules of one level, and how many instances of each option any rate asked for has use for."""

    def __init__(
        self,
        level: RuledLevel,
        rates_rps: Sequence[float],
        levels: Sequence[RuledLevel],
        *,
        is_patient: bool = True,
    ) -> None:
        """Take the level whose rules hold, and all levels with the rates that are to be served."""
        self._level, self._is_patient = level, is_patient
        rows = [one.most_at(rate) for one, rate in zip(levels, rates_rps, strict=True)]
        self._most = np.max(rows, axis=0)

    def solve(
        self,
        lines: Sequence[tuple[float, Tariff]],
        needs: Sequence[Need],
        below: float,
        deadline: Deadline,
    ) -> tuple[float, Floats] | None:
        """Return the least of the greatest line and the fleet, None where none is under `below`.

        Raises TimeUpError, and LongSearchError where nobody is patient.
        """
        most = self._most_below(*lines[0], below)
        tables = self._tables(lines, most)
        constants = np.array([constant for constant, _ in lines])
        counts: Floats | None
        cost, counts = self._searched(constants, tables, needs, most, below)
        if cost == GAVE_UP:
            if not self._is_patient:
                raise LongSearchError
            cost, counts = self._branched(constants, tables, needs, most, (below, deadline))
        if counts is None or cost >= below:
            return None
        fleet = np.zeros(len(lines[0][1].full))
        fleet[self._level.columns] = counts
        return cost, fleet

    def _most_below(self, constant: float, tariff: Tariff, below: float) -> Floats:
        """Return how many instances of each column cost less than `below` by a line, or are all that there is use for."""
        most: Floats = self._most.copy()
        if not np.isfinite(below):
            return most
        covered = tariff.free.copy()
        for step in tariff.steps:
            covered[step.option] += step.width
        prices = np.where(tariff.full > 0, tariff.full, 1e-9)
        rented = np.ceil(max(0.0, below - constant) / prices)
        most[:] = np.minimum(most, (covered + rented)[self._level.columns])
        return most

    def _tables(self, lines: Sequence[tuple[float, Tariff]], most: Floats) -> Floats:
        """Return what 0, 1, … instances of each column cost by each line, (lines × columns × counts)."""
        counts = np.arange(most.max(initial=0.0) + 1)
        return np.array([_costs(tariff, counts)[self._level.columns] for _, tariff in lines])

    def _searched(
        self, constants: Floats, tables: Floats, needs: Sequence[Need], bounds: Floats, below: float
    ) -> tuple[float, Floats]:
        """Return the least cost and the counts by searching depth first; GAVE_UP: too long a search."""
        level, kept = self._level, self._level.linear
        most: NDArray[np.int64] = bounds.astype(np.int64)
        last = np.take_along_axis(tables[0], most[:, None], axis=1)[:, 0]
        order = np.lexsort((-last / np.maximum(most, 1), kept.model))
        rules = kept.of(order)
        worth = np.array([need.worth[level.columns[order]] for need in needs]).T.copy()
        lossy = np.array([need.is_lossy for need in needs], dtype=np.int64)
        tables, most = tables[:, order], most[order]
        cover = _cover(tables, most, worth, lossy, level.spare, rules)
        cover.spent[:, 0] = constants
        counts = np.zeros(len(order))
        if rules.models > 1:
            cover = cover._replace(owner=_owners(worth, rules.model, rules.models))
            apart = self._apart(cover, tables)
            cover.least[0] = (constants + cover.floor.sum(axis=1)).max()
            is_untied = len(constants) == 1 and (cover.owner < rules.models).all()
            if is_untied and (cover.floor > 0).all() and rules.keeps(apart):
                counts[order] = apart
                return float(cover.least[0]), counts
        cost = cheapest_ruled_cover_fast(cover, below, _MOST_NODES)
        counts[order] = cover.best
        return cost, counts

    def _apart(self, cover: RuledCover, tables: Floats) -> Floats:
        """Find the least that each model costs by itself, its `floor`; return the counts of each, by the last line."""
        apart = np.zeros(len(cover.most))
        for m in range(cover.floor.shape[1]):
            own, rows = np.flatnonzero(cover.model == m), cover.owner == m
            worth, lossy = cover.worth[own][:, rows], cover.lossy[rows]
            for t, table in enumerate(tables):
                part = _cover(table[None, own], cover.most[own], worth, lossy, self._level.spare)
                floor = cheapest_ruled_cover_fast(part, _MOST_USD, _MOST_NODES)
                cover.floor[t, m] = max(0.0, floor)
                apart[own] = part.best
        return apart

    def _branched(
        self,
        constants: Floats,
        tables: Floats,
        needs: Sequence[Need],
        most: Floats,
        until: tuple[float, Deadline],
    ) -> tuple[float, Floats | None]:
        """Return the least cost and the counts by HiGHS, None where none is under `below`. Raises TimeUpError."""
        below, deadline = until
        program = self._level.program()
        lp, x = program.lp, program.x
        columns = self._level.columns
        for k, count in enumerate(most.tolist()):
            lp.upper[x[k]] = min(lp.upper[x[k]], count)
        total = lp.add("cost", -np.inf, below if np.isfinite(below) else np.inf)
        for t, (constant, table) in enumerate(zip(constants.tolist(), tables, strict=True)):
            terms: Terms = [(total, 1.0)]
            for k, own in enumerate(table):
                paid = lp.add(f"paid_{t}_{k}")
                terms.append((paid, -1.0))
                slopes = np.diff(own[: int(most[k]) + 1])
                kinks = np.flatnonzero(np.diff(slopes, prepend=-1.0) > _ROUNDING)
                # the cost is convex: its lines bound it
                for n, slope in zip(kinks.tolist(), slopes[kinks].tolist(), strict=True):
                    lp.row(
                        [(paid, 1.0), (x[k], -slope)],
                        GE,
                        float(own[n]) - slope * n,
                        f"at_{t}_{k}_{n}",
                    )
            lp.row(terms, GE, constant, f"line_{t}")
        there: dict[tuple[int, int], int] = {}
        for n, need in enumerate(needs):
            terms = [(x[k], float(need.worth[j])) for k, j in enumerate(columns.tolist())]
            lp.row(terms, GE, 1.0, f"need_{n}")
            for lost in self._level.all_losses() if need.is_lossy else ():
                less = [
                    (_has(program, there, k, m), -float(need.worth[columns[k]]))
                    for k, count in lost
                    for m in range(1, count + 1)
                ]
                lp.row(terms + less, GE, 1.0, f"need_{n}_after")
        lp.goal = [(total, 1.0)]
        termination, values, bound = solve_by_highs(lp, _SAME, deadline)
        if termination is Termination.INFEASIBLE:
            return np.inf, None
        if termination is not Termination.OPTIMAL:
            raise TimeUpError
        counts = np.round([values[column] for column in x])
        return (lp.value(values) if bound is None else bound), counts


def _costs(tariff: Tariff, counts: Floats) -> Floats:
    """Return what counts of each option cost by a tariff without pools, (options × counts): free, by steps, rented."""
    rest = np.maximum(counts - tariff.base[:, None], 0.0)
    cost = np.zeros(rest.shape)
    for step in tariff.steps:
        if 0 < step.price < tariff.full[step.option]:
            taken = np.minimum(rest[step.option], step.width)
            cost[step.option] += step.price * taken
            rest[step.option] -= taken
    total: Floats = cost + rest * tariff.full[:, None]
    return total


def _cover(
    tables: Floats,
    most: NDArray[np.int64],
    worth: Floats,
    lossy: NDArray[np.int64],
    spare: int,
    rules: LinearRules | None = None,
) -> RuledCover:
    """Return the search for columns in order at what counts of each cost, (lines × columns × counts).

    Without rules as if all were of one model.
    """
    lines, options, rows = len(tables), len(most), worth.shape[1]
    kept = LinearRules.none(options) if rules is None else rules
    free = (tables <= 0).all(axis=0).sum(axis=1) - 1.0  # by every line
    beyond = np.arange(tables.shape[2] - 1) >= free[:, None]
    price = np.where(beyond, np.diff(tables, axis=2), np.inf).min(axis=2, initial=np.inf)
    cheap = np.full((lines, options + 1, rows), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.where(worth > 0, price[:, :, None] / worth, np.inf)
    cheap[:, :-1] = np.minimum.accumulate(own[:, ::-1], axis=1)[:, ::-1]
    idle = np.zeros((options + 1, rows))
    idle[:-1] = _from_here(np.minimum(free, most)[:, None] * worth)
    reach = np.zeros((options + 1, kept.counted.shape[1]))
    reach[:-1] = _from_here(most[:, None] * kept.counted)
    return RuledCover(
        cost=np.ascontiguousarray(tables.reshape(lines * options, -1)),
        most=most,
        worth=np.ascontiguousarray(worth),
        lossy=lossy,
        owner=np.zeros(rows, dtype=np.int64),
        first=np.searchsorted(kept.model, np.arange(kept.models)).astype(np.int64),
        floor=np.zeros((lines, kept.models)),
        least=np.full(1, -np.inf),
        model=kept.model,
        serve=kept.serve,
        kinds=np.array([*kept.types, kept.models, spare], dtype=np.int64),
        counted=np.ascontiguousarray(kept.counted),
        lower=kept.lower,
        upper=kept.upper,
        reach=reach,
        cheap=np.ascontiguousarray(cheap.reshape(-1, rows)),
        idle=idle,
        left=np.ones((options + 1, rows)),
        spent=np.zeros((lines, options + 1)),
        used=np.zeros((options + 1, kept.counted.shape[1])),
        counts=np.zeros(options, dtype=np.int64),
        best=np.zeros(options, dtype=np.int64),
    )


def _owners(worth: Floats, model: NDArray[np.int64], models: int) -> NDArray[np.int64]:
    """Return whose options alone each row is of, (rows): a model's place, one more for several models'."""
    rows = range(worth.shape[1])
    of_row = [np.unique(model[worth[:, row] > 0]) for row in rows]
    return np.array([own[0] if len(own) == 1 else models for own in of_row], dtype=np.int64)


def _from_here(values: Floats) -> Floats:
    """Return the sums from each row on, (rows × columns)."""
    sums: Floats = np.cumsum(values[::-1], axis=0)[::-1]
    return sums


def _has(program: IntegerProgram, there: dict[tuple[int, int], int], k: int, m: int) -> int:
    """Return the variable that is 1 where there are at least m instances of a column: only these can be lost."""
    if (k, m) not in there:
        lp, x = program.lp, program.x[k]
        found = lp.add(f"e_{k}_{m}", 0.0, 1.0, whole=True)
        lp.row([(x, 1.0), (found, -float(lp.upper[x]))], LE, m - 1, f"option_{k}_has_{m}")
        there[k, m] = found
    return there[k, m]
