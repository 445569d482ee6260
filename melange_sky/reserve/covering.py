"""The cheapest whole instances that keep to a few inequalities: a small integer covering program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import highspy
import numpy as np

from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.program.highs import quiet_highs
from melange_sky.reserve.depth_first import GAVE_UP, Cover, cheapest_cover_fast

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.reserve.tariff import Tariff

    Floats = NDArray[np.float64]

_MOST_NODES = 200_000
"""Beyond so many nodes the search gives up for HiGHS: some tens of milliseconds."""

_SAME = 1e-9
"""Costs that differ by no more of the whole are the same."""

_MOST_CUTS = 30
"""So many shadow prices of pools are tried at most; beyond, the bound is what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cheapest:
    """A fleet, its cost, and what no fleet costs less than."""

    fleet: Floats
    cost: float
    bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Covering:
    """Whole instances with worths @ instances ≥ 1 in every row, enough where `most` of each are rented.

    `worths` is (rows × options), `most` (options).
    """

    worths: Floats
    most: Floats

    def cheapest(self, tariff: Tariff, below: float, deadline: Deadline) -> Cheapest | None:
        """Return the cheapest fleet, with all that is free, None where none costs less than `below`.

        Raises TimeUpError.
        """
        base = tariff.base
        needed = 1.0 - self.worths @ base
        rows = needed > 0
        program = _Whole(
            options=np.array(
                [s.option for s in tariff.steps if s.price > 0] + list(range(len(base))),
                dtype=np.intp,
            ),
            prices=np.array([s.price for s in tariff.steps if s.price > 0]),
            most=np.concatenate(
                ([s.width for s in tariff.steps if s.price > 0], np.maximum(self.most - base, 0.0))
            ),
            worths=self.worths[rows] / needed[rows, None],
        )
        lines = [tariff.cut(np.array([pool.price for pool in tariff.pools]))]
        best: Cheapest | None = None
        while True:
            found = program.solve(lines, below, deadline)
            if found is None:  # nothing costs less than the best, by lines that lie below all costs
                if best is None or best.cost > below:
                    return None
                return Cheapest(fleet=best.fleet, cost=best.cost, bound=best.cost)
            bound, counts = found
            fleet = base + np.bincount(program.options, weights=counts, minlength=len(base))
            cost = float(tariff.cost(fleet[None])[0])
            if best is None or cost < best.cost:
                best = Cheapest(fleet=fleet, cost=cost, bound=bound)
                below = min(below, cost)
            if bound >= best.cost - _SAME * max(1.0, abs(best.cost)) or len(lines) > _MOST_CUTS:
                return Cheapest(fleet=best.fleet, cost=best.cost, bound=min(bound, best.cost))
            lines.append(tariff.cut(tariff.bill(fleet[None])[2][0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    """min max over lines of (constant + Σ price × x) with worths @ x ≥ 1 in every row, 0 ≤ x ≤ most whole.

    Columns are instances at the steps' `prices`, then rented ones at those of the lines; `options` says of which
    option each is, `worths`, (rows × options), what an instance of it does.
    """

    options: NDArray[np.intp]
    prices: Floats
    most: Floats
    worths: Floats

    def solve(
        self, lines: list[tuple[float, Floats]], below: float, deadline: Deadline
    ) -> tuple[float, Floats] | None:
        """Return the least cost under `below` and x, None where there is none. Raises TimeUpError."""
        deadline.check()
        price = np.array([np.concatenate((self.prices, line)) for _, line in lines])
        constant = np.array([constant for constant, _ in lines])
        if not len(self.worths):
            least = float(constant.max())
            return (least, np.zeros(len(self.most))) if least < below else None
        worth = self.worths[:, self.options]
        used = np.flatnonzero((self.most > 0) & worth.any(axis=0))
        if (worth[:, used] @ self.most[used] < 1).any():
            return None
        order = used[np.argsort(-price[0, used], kind="stable")]
        price, worth = price[:, order], worth[:, order]
        found = self._searched(constant, price, worth, self.most[order], below)
        if found is None:
            found = _branched(constant, price, worth, self.most[order], deadline)
        cost, counts = found
        if cost >= below:
            return None
        whole = np.zeros(len(self.most))
        whole[order] = counts
        return cost, whole

    @staticmethod
    def _searched(
        constant: Floats, price: Floats, worth: Floats, most: Floats, below: float
    ) -> tuple[float, Floats] | None:
        """Return the least cost and the counts by searching depth first, None: too long a search."""
        worth = np.ascontiguousarray(worth.T)
        columns, rows = worth.shape
        cheap = np.full((len(price), columns + 1, rows), np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            own = np.where(worth > 0, price[:, :, None] / worth, np.inf)
        cheap[:, :-1] = np.minimum.accumulate(own[:, ::-1], axis=1)[:, ::-1]
        spent = np.zeros((len(price), columns + 1))
        spent[:, 0] = constant
        cover = Cover(
            price=np.ascontiguousarray(price),
            most=most.astype(np.int64),
            worth=worth,
            cheap=np.ascontiguousarray(cheap.reshape(-1, rows)),
            left=np.ones((columns + 1, rows)),
            spent=spent,
            counts=np.zeros(columns, dtype=np.int64),
            best=np.zeros(columns, dtype=np.int64),
        )
        cost = cheapest_cover_fast(cover, below, rows, _MOST_NODES)
        return None if cost == GAVE_UP else (cost, cover.best.astype(np.float64))


def _branched(
    constant: Floats, price: Floats, worth: Floats, most: Floats, deadline: Deadline
) -> tuple[float, Floats]:
    """Return the least cost and the counts by HiGHS; inf where there are none."""
    rows, columns = worth.shape
    lines = len(price)
    matrix = np.zeros((rows + lines, columns + 1))
    matrix[:rows, :-1], matrix[rows:, :-1], matrix[rows:, -1] = worth, -price, 1.0
    model: Any = highspy.HighsLp()
    model.num_col_, model.num_row_ = columns + 1, rows + lines
    model.col_cost_ = np.append(np.zeros(columns), 1.0)
    model.col_lower_ = np.append(np.zeros(columns), -np.inf)
    model.col_upper_ = np.append(most, np.inf)
    model.row_lower_ = np.concatenate((np.ones(rows), constant))
    model.row_upper_ = np.full(rows + lines, np.inf)
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.num_col_, model.a_matrix_.num_row_ = columns + 1, rows + lines
    model.a_matrix_.start_ = np.arange(rows + lines + 1, dtype=np.int32) * (columns + 1)
    model.a_matrix_.index_ = np.tile(np.arange(columns + 1, dtype=np.int32), rows + lines)
    model.a_matrix_.value_ = matrix.ravel()
    whole = highspy.HighsVarType
    model.integrality_ = [whole.kInteger] * columns + [whole.kContinuous]
    settings = {"time_limit": deadline.left_s, "mip_rel_gap": 1e-9, "mip_abs_gap": 0.0}
    highs = quiet_highs(settings | {"mip_feasibility_tolerance": 1e-7})
    highs.passModel(model)
    highs.run()
    status = highs.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return np.inf, np.zeros(columns)
    if status != highspy.HighsModelStatus.kOptimal:
        raise TimeUpError
    counts = np.round(np.array(highs.getSolution().col_value)[:-1])
    return float((constant + price @ counts).max()), counts
