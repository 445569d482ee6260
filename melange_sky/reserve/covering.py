"""The cheapest whole instances that keep to a few inequalities: a small integer covering program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import highspy
import numpy as np

from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.reserve.depth_first import GAVE_UP, Cover, cheapest_cover_fast

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """What instances cost, by option: the first `free` nothing, the next `width` each `price`, all beyond `full`.

    0 ≤ price ≤ full, so that nobody pays the dearer ones first. Arrays of one place per option.
    """

    free: Floats
    width: Floats
    price: Floats
    full: Floats

    @classmethod
    def flat(cls, price: Floats) -> Tariff:
        """Return one price for every instance."""
        nothing = np.zeros(len(price))
        return cls(free=nothing, width=nothing, price=nothing, full=price)

    def cost(self, fleets: Floats) -> Floats:
        """Return the cost of fleets, (… × options)."""
        paid = np.maximum(fleets - self.free, 0.0)
        beyond = np.maximum(paid - self.width, 0.0)
        cost: Floats = (paid - beyond) @ self.price + beyond @ self.full
        return cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Covering:
    """min cost of whole instances with Σ worth × instances ≥ least for each row, at most `most` of each.

    `worths` is (rows × options), `leasts` (rows), `most` (options).
    """

    worths: Floats
    leasts: Floats
    most: Floats

    def cheapest(self, tariff: Tariff, below: float, deadline: Deadline) -> Floats | None:
        """Return the instances, with all that are free, None where none cost less than `below`.

        Raises TimeUpError.
        """
        base = tariff.free + np.where(tariff.price <= 0, tariff.width, 0.0)
        base = np.where(tariff.full <= 0, np.maximum(self.most, base), base)
        needed = self.leasts - self.worths @ base
        rows = needed > 0
        if not rows.any():
            return base if below > 0 else None
        most = np.maximum(self.most - base, 0.0)
        early = np.minimum(np.where(tariff.price > 0, tariff.width, 0.0), most)
        program = _Whole(
            prices=np.concatenate((tariff.price, tariff.full)),
            worths=np.tile(self.worths[rows] / needed[rows, None], 2),
            most=np.concatenate((early, most - early)),
        )
        paid = program.solve(below, deadline)
        if paid is None:
            return None
        fleet: Floats = base + paid[: len(most)] + paid[len(most) :]
        return fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    """min Σ price × x with Σ worth × x ≥ 1 in every row, 0 ≤ x ≤ most whole."""

    prices: Floats
    worths: Floats
    most: Floats

    def solve(self, below: float, deadline: Deadline) -> Floats | None:
        """Return x of least cost under `below`, None where there is none. Raises TimeUpError."""
        used = np.flatnonzero((self.most > 0) & self.worths.any(axis=0))
        if (self.worths[:, used] @ self.most[used] < 1).any():
            return None
        deadline.check()
        order = used[np.argsort(-self.prices[used], kind="stable")]
        found = np.zeros(len(self.prices))
        counts = self._searched(order, below)
        if counts is None:
            counts = self._branched(order, deadline)
            if counts is not None and float(self.prices[order] @ counts) >= below:
                counts = None
        elif not len(counts):
            return None
        if counts is None:
            return None
        found[order] = counts
        return found

    def _searched(self, order: NDArray[np.intp], below: float) -> Floats | None:
        """Return the counts by searching depth first; empty: none under `below`; None: too long a search."""
        worth = np.ascontiguousarray(self.worths[:, order].T)
        columns, rows = worth.shape
        price = self.prices[order]
        with np.errstate(divide="ignore"):
            own = np.where(worth > 0, price[:, None] / worth, np.inf)
        cheap = np.full((columns + 1, rows), np.inf)
        cheap[:-1] = np.minimum.accumulate(own[::-1], axis=0)[::-1]
        cover = Cover(
            price=price,
            most=self.most[order].astype(np.int64),
            worth=worth,
            cheap=cheap,
            left=np.ones((columns + 1, rows)),
            spent=np.zeros(columns + 1),
            counts=np.zeros(columns, dtype=np.int64),
            best=np.zeros(columns, dtype=np.int64),
        )
        cost = cheapest_cover_fast(cover, below, rows)
        if cost == GAVE_UP:
            return None
        return cover.best.astype(np.float64) if cost < below else np.empty(0)

    def _branched(self, order: NDArray[np.intp], deadline: Deadline) -> Floats | None:
        """Return the counts of least cost by HiGHS, None where there are none."""
        worths = self.worths[:, order]
        rows, columns = worths.shape
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = columns, rows
        model.col_cost_ = self.prices[order]
        model.col_lower_, model.col_upper_ = np.zeros(columns), self.most[order]
        model.row_lower_, model.row_upper_ = np.ones(rows), np.full(rows, np.inf)
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.num_col_, model.a_matrix_.num_row_ = columns, rows
        model.a_matrix_.start_ = np.arange(rows + 1, dtype=np.int32) * columns
        model.a_matrix_.index_ = np.tile(np.arange(columns, dtype=np.int32), rows)
        model.a_matrix_.value_ = worths.ravel()
        model.integrality_ = [highspy.HighsVarType.kInteger] * columns
        highs = highspy.Highs()
        for name, value in (
            ("output_flag", False),
            ("time_limit", deadline.left_s),
            ("mip_rel_gap", 0.0),
            ("mip_abs_gap", 0.0),
            ("threads", 1),
            ("mip_feasibility_tolerance", 1e-7),
        ):
            highs.setOptionValue(name, value)
        highs.passModel(model)
        highs.run()
        status = highs.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            return None
        if status != highspy.HighsModelStatus.kOptimal:
            raise TimeUpError
        return np.round(np.array(highs.getSolution().col_value))
