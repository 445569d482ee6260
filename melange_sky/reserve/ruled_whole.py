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

_ROUNDING = 1e-9


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
        self, level: RuledLevel, rates_rps: Sequence[float], levels: Sequence[RuledLevel]
    ) -> None:
        """Take the level whose rules hold, and all levels with the rates that are to be served."""
        self._level = level
        rows = [one.most_at(rate) for one, rate in zip(levels, rates_rps, strict=True)]
        self._most = np.max(rows, axis=0)

    def solve(
        self,
        lines: Sequence[tuple[float, Tariff]],
        needs: Sequence[Need],
        below: float,
        deadline: Deadline,
    ) -> tuple[float, Floats] | None:
        """Return the least of the greatest line and the fleet, None where none is under `below`. Raises TimeUpError."""
        tables = self._tables(lines)
        constants = np.array([constant for constant, _ in lines])
        counts: Floats | None
        cost, counts = self._searched(constants, tables, needs, below)
        if cost == GAVE_UP:
            cost, counts = self._branched(constants, tables, needs, below, deadline)
        if counts is None or cost >= below:
            return None
        fleet = np.zeros(len(lines[0][1].full))
        fleet[self._level.columns] = counts
        return cost, fleet

    def _tables(self, lines: Sequence[tuple[float, Tariff]]) -> Floats:
        """Return what 0, 1, … instances of each column cost by each line, (lines × columns × counts)."""
        counts = np.arange(self._most.max(initial=0.0) + 1)
        return np.array([_costs(tariff, counts)[self._level.columns] for _, tariff in lines])

    def _searched(
        self, constants: Floats, tables: Floats, needs: Sequence[Need], below: float
    ) -> tuple[float, Floats]:
        """Return the least cost and the counts by searching depth first; GAVE_UP: too long a search."""
        level = self._level
        most = self._most.astype(np.int64)
        last = np.take_along_axis(tables[0], most[:, None], axis=1)[:, 0]
        order = np.argsort(-last / np.maximum(most, 1), kind="stable")
        tables, most = tables[:, order], most[order]
        worth = np.array([need.worth[level.columns[order]] for need in needs]).T.copy()
        kept = level.linear
        counted = kept.counted[order]
        options, rows = worth.shape
        free = (tables <= 0).all(axis=0).sum(axis=1) - 1.0  # by every line
        beyond = np.arange(tables.shape[2] - 1) >= free[:, None]
        price = np.where(beyond, np.diff(tables, axis=2), np.inf).min(axis=2, initial=np.inf)
        cheap = np.full((len(constants), options + 1, rows), np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            own = np.where(worth > 0, price[:, :, None] / worth, np.inf)
        cheap[:, :-1] = np.minimum.accumulate(own[:, ::-1], axis=1)[:, ::-1]
        idle = np.zeros((options + 1, rows))
        idle[:-1] = _from_here(np.minimum(free, most)[:, None] * worth)
        reach = np.zeros((options + 1, counted.shape[1]))
        reach[:-1] = _from_here(most[:, None] * counted)
        spent = np.zeros((len(constants), options + 1))
        spent[:, 0] = constants
        cover = RuledCover(
            cost=np.ascontiguousarray(tables.reshape(len(constants) * options, -1)),
            most=most,
            worth=worth,
            lossy=np.array([need.is_lossy for need in needs], dtype=np.int64),
            model=kept.model[order],
            serve=kept.serve[order],
            kinds=np.array([*kept.types, kept.models, level.spare], dtype=np.int64),
            counted=np.ascontiguousarray(counted),
            lower=kept.lower,
            upper=kept.upper,
            reach=reach,
            cheap=np.ascontiguousarray(cheap.reshape(-1, rows)),
            idle=idle,
            left=np.ones((options + 1, rows)),
            spent=spent,
            used=np.zeros((options + 1, counted.shape[1])),
            counts=np.zeros(options, dtype=np.int64),
            best=np.zeros(options, dtype=np.int64),
        )
        cost = cheapest_ruled_cover_fast(cover, below, _MOST_NODES)
        counts = np.zeros(options)
        counts[order] = cover.best
        return cost, counts

    def _branched(
        self,
        constants: Floats,
        tables: Floats,
        needs: Sequence[Need],
        below: float,
        deadline: Deadline,
    ) -> tuple[float, Floats | None]:
        """Return the least cost and the counts by HiGHS, None where none is under `below`. Raises TimeUpError."""
        program = self._level.program()
        lp, x = program.lp, program.x
        columns = self._level.columns
        for k, most in enumerate(self._most.tolist()):
            lp.upper[x[k]] = min(lp.upper[x[k]], most)
        total = lp.add("cost", -np.inf, below if np.isfinite(below) else np.inf)
        for t, (constant, table) in enumerate(zip(constants.tolist(), tables, strict=True)):
            terms: Terms = [(total, 1.0)]
            for k, own in enumerate(table):
                paid = lp.add(f"paid_{t}_{k}")
                terms.append((paid, -1.0))
                slopes = np.diff(own[: int(self._most[k]) + 1])
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
        termination, values, bound = solve_by_highs(lp, 0.0, deadline)
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
