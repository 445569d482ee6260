"""The linear program that bounds what any purchase within a box costs, over the fleets known so far.

For a box low ≤ y ≤ high of purchases, with fleet f drawing q_fk units between in cell g for a part x_gf of its
time, and z_gk of what it draws rented after all:

    min  measure over scenarios s of   usd · y + Σ_g∈s hours_g (Σ_f rent_gf x_gf + Σ_k worth_gk z_gk)
    Σ_f x_gf = 1,   y_k − low_k + z_gk ≥ Σ_f q_fk x_gf   for every cell g and every purchase k that counts there

Units up to `low` are there for sure and those beyond `high` are not; only what lies between is shared with the
other cells. So the program is exact where the box is a point (Dantzig & Wolfe, Operations Research 8, 1960). Its
duals are the prices at which a fleet outside of it would have to be cheaper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import highspy
import numpy as np

from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.program.highs import quiet_highs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.reserve.cells import Cell
    from melange_sky.reserve.market import Box, Market
    from melange_sky.reserve.objective import Measure
    from melange_sky.reserve.tariff import Tariff

    Floats = NDArray[np.float64]

_SETTINGS = {"presolve": "off", "dual_feasibility_tolerance": 1e-9}

_LEAST_WEIGHT = 1e-12
"""A cell of less weight, in a scenario that does not matter here, has no prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """The optimum over the fleets that entered: USD, units, and per cell shadow prices, a dual and a weight.

    A cell's fleets are no cheaper than `duals` per hour at its prices, (cells × purchases); `weights` are its hours
    times how much its scenario matters, 0: not at all. `reduced`, (purchases), is what a unit more or less of each
    costs at these prices, below 0 where more would be bought than the box allows.
    """

    value: float
    units: Floats
    reduced: Floats
    prices: Floats
    duals: Floats
    weights: Floats


class Master:
    """The program of one box, to which fleets are added; each solve begins where the last one ended."""

    def __init__(
        self, market: Market, cells: Sequence[Cell], box: Box, measure: Measure, deadline: Deadline
    ) -> None:
        """Build the program without fleets."""
        self._market, self._cells, self._box = market, cells, box
        self._measure, self._deadline = measure, deadline
        self._hours = np.array([cell.hours for cell in cells])
        self._scenario = np.array([market.groups[c.group].scenario for c in cells], dtype=np.intp)
        active = np.array([market.groups[c.group].active for c in cells])
        self._between = np.flatnonzero(box.high > box.low)
        cell, place = np.nonzero(active[:, self._between])
        self._links = np.full((len(cells), len(market.usd)), -1, dtype=np.intp)
        self._links[cell, self._between[place]] = len(measure.weights) + np.arange(len(cell))
        self._first = len(measure.weights) + len(cell)
        self._entered: set[bytes] = set()
        self._highs = quiet_highs(_SETTINGS)
        self._highs.passModel(self._without_fleets(cell, self._between[place]))

    def _without_fleets(self, cell: NDArray[np.intp], purchase: NDArray[np.intp]) -> Any:
        """Rows: scenarios, links, cells. Columns: the measure's, units between, what is rented after all."""
        market, box, measure = self._market, self._box, self._measure
        scenarios, links, between = len(measure.weights), len(cell), len(self._between)
        aux = len(measure.goal)
        rents = np.array([market.groups[c.group].rents for c in self._cells])
        draws = market.draws[purchase]
        with np.errstate(divide="ignore", invalid="ignore"):
            worth = np.where(draws > 0, rents[cell] / draws, 0.0).max(axis=1, initial=0.0)
        rows = scenarios + links + len(self._cells)
        blocks: list[tuple[Floats, NDArray[np.intp], NDArray[np.intp]]] = []
        s, a = np.nonzero(measure.shares)
        blocks.append((measure.shares[s, a], s, a))
        usd = market.usd[self._between]
        every = np.repeat(np.arange(scenarios), between)
        columns = aux + np.arange(between)
        blocks.append((-np.tile(usd, scenarios), every, np.tile(columns, scenarios)))
        place = np.searchsorted(self._between, purchase)
        link = scenarios + np.arange(links)
        blocks.append((np.ones(links), link, aux + place))
        rented = aux + between + np.arange(links)
        blocks.append((np.ones(links), link, rented))
        blocks.append((-self._hours[cell] * worth, self._scenario[cell], rented))
        upfront = market.upfront[self._between]
        budget = market.question.budget_upfront_usd - float(market.upfront @ box.low)
        bounded = int(np.isfinite(budget) and upfront.any())
        if bounded:
            blocks.append((upfront, np.full(between, rows), columns))
        value, row, column = (np.concatenate(part) for part in zip(*blocks, strict=True))
        order = np.lexsort((row, column))
        count = aux + between + links
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = count, rows + bounded
        model.col_cost_ = np.concatenate((measure.goal, np.zeros(between + links)))
        model.col_lower_ = np.concatenate((measure.lower, np.zeros(between + links)))
        wide = (box.high - box.low)[self._between]
        model.col_upper_ = np.concatenate((np.full(aux, np.inf), wide, np.full(links, np.inf)))
        fixed = float(market.usd @ box.low) - measure.offsets
        ones = np.ones(len(self._cells))
        model.row_lower_ = np.concatenate((fixed, np.zeros(links), ones, [-np.inf] * bounded))
        model.row_upper_ = np.concatenate(
            (np.full(scenarios + links, np.inf), ones, [budget] * bounded)
        )
        model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        starts = np.searchsorted(column[order], np.arange(count + 1))
        model.a_matrix_.start_ = starts.astype(np.int32)
        model.a_matrix_.index_ = row[order].astype(np.int32)
        model.a_matrix_.value_ = value[order]
        return model

    def enter(self, g: int, tariff: Tariff, fleets: Floats) -> int:
        """Add fleets, (fleets × options), to a cell, as they are used at a tariff; return how many are new."""
        rest, used, _ = tariff.bill(fleets)
        units = np.zeros((len(fleets), len(self._market.usd)))
        for k, amount in used.items():
            units[:, k] = np.maximum(amount - self._box.low[k], 0.0)
        rents = rest @ tariff.full * self._hours[g]
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

    def solve(self) -> Relaxation:
        """Return the optimum over the fleets that entered; each cell needs one. Raises TimeUpError."""
        highs = self._highs
        self._deadline.check()
        highs.setOptionValue("time_limit", highs.getRunTime() + self._deadline.left_s)
        highs.run()
        if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise TimeUpError
        solution = highs.getSolution()
        duals = np.array(solution.row_dual)
        units = self._box.low.copy()
        aux = len(self._measure.goal)
        columns = slice(aux, aux + len(self._between))
        units[self._between] += np.array(solution.col_value)[columns]
        reduced = np.zeros(len(units))
        reduced[self._between] = np.array(solution.col_dual)[columns]
        weights = np.maximum(duals[: len(self._measure.weights)], 0.0)[self._scenario] * self._hours
        matters = weights > _LEAST_WEIGHT
        per_hour = np.divide(1.0, weights, out=np.zeros(len(weights)), where=matters)
        prices = np.where(self._links >= 0, np.maximum(duals[self._links], 0.0), 0.0)
        cells = duals[self._first : self._first + len(self._cells)]
        return Relaxation(
            value=float(highs.getInfo().objective_function_value),
            units=units,
            reduced=reduced,
            prices=prices * per_hour[:, None],
            duals=cells * per_hour,
            weights=np.where(matters, weights, 0.0),
        )
