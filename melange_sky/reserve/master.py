"""The linear program that bounds what any purchase within a box costs, over the fleets known so far.

For a box of purchases in levels l (`levels.py`), with fleet f drawing q_fl units of each in cell g for a part x_gf of
its time, and z_gl of what it draws rented after all:

    min  measure over scenarios s of   usd · y + Σ_g∈s hours_g (Σ_f rent_gf x_gf + Σ_l worth_gl z_gl)
    Σ_f x_gf = 1,   y_l + z_gl ≥ Σ_f q_fl x_gf   for every cell g and every level l that counts there,   y_l ≤ width_l

Units up to the box's `low` are there for sure and those beyond `high` are not. The program is exact where the box is
a point, and where no level that is bought in part is used (Dantzig & Wolfe, Operations Research 8, 1960). Its duals
are the prices at which a fleet outside of it would have to be cheaper, and any such prices give a bound (Lagrange).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import highspy
import numpy as np

from melange_sky.optimizer.program.highs import quiet_highs, solve_again

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.reserve.cells import Cell
    from melange_sky.reserve.levels import Levels
    from melange_sky.reserve.market import Market
    from melange_sky.reserve.objective import Measure
    from melange_sky.reserve.tariff import Bill, Tariff

    Floats = NDArray[np.float64]

_PRIMAL_SIMPLEX = 4
"""Fleets that enter leave the last optimum feasible, so that few steps lead on from it."""

_SETTINGS = {
    "presolve": "off",
    "dual_feasibility_tolerance": 1e-9,
    "simplex_strategy": _PRIMAL_SIMPLEX,
}

_LEAST_WEIGHT = 1e-12
"""A cell of less weight, in a scenario that does not matter here, has no prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadows:
    """Prices of levels in cells, (cells × levels), and what they prove.

    `weights` are a cell's hours times how much its scenario matters, 0: not at all. Where the cheapest fleet of
    each costs `least` an hour, no purchase in the box comes below fixed + weights · least. `reduced`, (levels), is
    what a unit more of each costs. `raw` are the program's duals, `duals` what the fleets in it cost an hour at least.
    """

    prices: Floats
    weights: Floats
    fixed: float
    reduced: Floats
    raw: Floats
    duals: Floats

    def bound(self, least: Floats) -> float:
        """Return what no purchase comes below."""
        return self.fixed + float(self.weights @ least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """The optimum over the fleets that entered: USD, units of each level, and its prices."""

    value: float
    bought: Floats
    shadows: Shadows


class Master:
    """The program of one box, to which fleets are added; each solve begins where the last one ended."""

    def __init__(
        self,
        market: Market,
        cells: Sequence[Cell],
        levels: Levels,
        measure: Measure,
        deadline: Deadline,
    ) -> None:
        """Build the program without fleets."""
        self._market, self._cells, self._levels = market, cells, levels
        self._measure, self._deadline = measure, deadline
        self._hours = np.array([cell.hours for cell in cells])
        self._scenario = np.array([market.groups[c.group].scenario for c in cells], dtype=np.intp)
        active = np.array([market.groups[c.group].active for c in cells])
        cell, level = np.nonzero(active[:, levels.purchase])
        self._cell, self._level = cell, level
        self._scenarios = len(measure.weights)
        self._links = np.full((len(cells), len(levels.purchase)), -1, dtype=np.intp)
        self._links[cell, level] = self._scenarios + np.arange(len(cell))
        self._first = self._scenarios + len(cell)
        self._usd = market.usd[levels.purchase]
        self._upfront = market.upfront[levels.purchase]
        self._fixed = float(market.usd @ levels.box.low) - measure.offsets
        self._budget = market.question.budget_upfront_usd - float(market.upfront @ levels.box.low)
        self._bounded = int(np.isfinite(self._budget) and self._upfront.any())
        self._entered: set[bytes] = set()
        self._highs = quiet_highs(_SETTINGS)
        self._highs.passModel(self._without_fleets())

    def _without_fleets(self) -> Any:
        """Rows: scenarios, links, cells, the budget. Columns: the measure's, levels, what is rented after all."""
        market, measure = self._market, self._measure
        cell, level = self._cell, self._level
        scenarios, links, between = self._scenarios, len(cell), len(self._usd)
        aux = len(measure.goal)
        rents = np.array([market.groups[c.group].rents for c in self._cells])
        draws = market.draws[self._levels.purchase[level]]
        with np.errstate(divide="ignore", invalid="ignore"):
            worth = np.where(draws > 0, rents[cell] / draws, 0.0).max(axis=1, initial=0.0)
        rows = scenarios + links + len(self._cells)
        blocks: list[tuple[Floats, NDArray[np.intp], NDArray[np.intp]]] = []
        s, a = np.nonzero(measure.shares)
        blocks.append((measure.shares[s, a], s, a))
        every = np.repeat(np.arange(scenarios), between)
        columns = aux + np.arange(between)
        blocks.append((-np.tile(self._usd, scenarios), every, np.tile(columns, scenarios)))
        link = scenarios + np.arange(links)
        blocks.append((np.ones(links), link, aux + level))
        rented = aux + between + np.arange(links)
        blocks.append((np.ones(links), link, rented))
        blocks.append((-self._hours[cell] * worth, self._scenario[cell], rented))
        if self._bounded:
            blocks.append((self._upfront, np.full(between, rows), columns))
        value, row, column = (np.concatenate(part) for part in zip(*blocks, strict=True))
        order = np.lexsort((row, column))
        count = aux + between + links
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = count, rows + self._bounded
        model.col_cost_ = np.concatenate((measure.goal, np.zeros(between + links)))
        model.col_lower_ = np.concatenate((measure.lower, np.zeros(between + links)))
        model.col_upper_ = np.concatenate(
            (np.full(aux, np.inf), self._levels.width, np.full(links, np.inf))
        )
        ones, budget = np.ones(len(self._cells)), [self._budget] * self._bounded
        model.row_lower_ = np.concatenate(
            (self._fixed, np.zeros(links), ones, [-np.inf] * self._bounded)
        )
        model.row_upper_ = np.concatenate((np.full(scenarios + links, np.inf), ones, budget))
        model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        starts = np.searchsorted(column[order], np.arange(count + 1))
        model.a_matrix_.start_ = starts.astype(np.int32)
        model.a_matrix_.index_ = row[order].astype(np.int32)
        model.a_matrix_.value_ = value[order]
        return model

    def enter(self, g: int, tariff: Tariff, bill: Bill) -> int:
        """Add fleets to a cell, paid as their bill says; return how many are new."""
        units = self._drawn(tariff, bill)
        rents = bill.rest @ tariff.full * self._hours[g]
        links = self._links[g]
        index: list[int] = []
        value: list[float] = []
        starts: list[int] = []
        for rent, drawn in zip(rents.tolist(), units, strict=True):
            key = g.to_bytes(4, "little") + np.round(np.append(drawn, rent), 9).tobytes()
            if key in self._entered:
                continue
            self._entered.add(key)
            starts.append(len(index))
            shared = np.flatnonzero((drawn > 0) & (links >= 0))
            index += [int(self._scenario[g]), *links[shared].tolist(), self._first + g]
            value += [-rent, *(-drawn[shared]).tolist(), 1.0]
        if starts:
            count = len(starts)
            self._highs.addCols(
                count,
                np.zeros(count),
                np.zeros(count),
                np.full(count, np.inf),
                len(index),
                np.array(starts, dtype=np.int32),
                np.array(index, dtype=np.int32),
                np.array(value),
            )
        return len(starts)

    def begin(self, units: Floats) -> None:
        """Let the first solve begin at a purchase within the box, with the fleet of every cell that entered first.

        For one column of the measure per scenario alone.
        """
        levels, status = self._levels, highspy.HighsBasisStatus
        aux, between, links = len(self._measure.goal), len(self._usd), len(self._cell)
        if aux != self._scenarios:
            return
        bought = (units[levels.purchase] >= levels.start + levels.width).tolist()
        rented = [status.kLower] * links
        fleets = self._highs.getNumCol() - aux - between - links - len(self._cells)
        basis = highspy.HighsBasis()
        basis.col_status = [
            *[status.kBasic] * aux,
            *(status.kUpper if all_of_it else status.kLower for all_of_it in bought),
            *rented,
            *[status.kBasic] * len(self._cells),
            *[status.kLower] * fleets,
        ]
        basis.row_status = [
            *[status.kLower] * self._scenarios,
            *[status.kBasic] * links,
            *[status.kLower] * len(self._cells),
            *[status.kBasic] * self._bounded,
        ]
        self._highs.setBasis(basis)

    def _drawn(self, tariff: Tariff, bill: Bill) -> Floats:
        """Return the units of each level that fleets use, (fleets × levels)."""
        units = np.zeros((len(bill.rest), len(self._usd)))
        for n, step in enumerate(tariff.steps):
            if step.level >= 0:
                units[:, step.level] = bill.steps[:, n]
        for pool, drawn in zip(tariff.pools, bill.pools, strict=True):
            between = pool.levels >= 0
            units[:, pool.levels[between]] = drawn[:, between]
        return units

    def solve(self) -> Relaxation:
        """Return the optimum over the fleets that entered; each cell needs one. Raises TimeUpError."""
        highs = self._highs
        solve_again(highs, self._deadline)
        solution = highs.getSolution()
        aux = len(self._measure.goal)
        duals = np.array(solution.row_dual)
        return Relaxation(
            value=float(highs.getInfo().objective_function_value),
            bought=np.array(solution.col_value)[aux : aux + len(self._usd)],
            shadows=self.shadows(duals),
        )

    def shadows(self, raw: Floats) -> Shadows:
        """Return the prices that duals of the rows make: those of a solve, or a mean of several."""
        matter = np.maximum(raw[: self._scenarios], 0.0)
        weights = matter[self._scenario] * self._hours
        matters = weights > _LEAST_WEIGHT
        per_hour = np.divide(1.0, weights, out=np.zeros(len(weights)), where=matters)
        links = np.maximum(raw[self._scenarios : self._first], 0.0)
        prices = np.zeros(self._links.shape)
        prices[self._cell, self._level] = links * per_hour[self._cell]
        given = np.bincount(self._level, weights=links, minlength=len(self._usd))
        upfront = min(float(raw[-1]), 0.0) if self._bounded else 0.0
        reduced = self._usd * matter.sum() - given - self._upfront * upfront
        fixed = float(matter @ self._fixed) + float(np.minimum(reduced, 0.0) @ self._levels.width)
        if self._bounded:
            fixed += upfront * self._budget
        return Shadows(
            prices=prices,
            weights=np.where(matters, weights, 0.0),
            fixed=fixed,
            reduced=reduced,
            raw=raw,
            duals=raw[self._first : self._first + len(self._cells)] * per_hour,
        )
