"""The cheapest whole instances that keep to a few inequalities: a small integer covering program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import highspy
import numpy as np

from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.program.highs import quiet_highs
from melange_sky.reserve.depth_first import GAVE_UP, Cover, cheapest_cover_fast

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.reserve.tariff import Bill, Tariff

    Floats = NDArray[np.float64]

_MOST_NODES = 10_000_000
"""Beyond so many nodes the search gives up for HiGHS: some tenths of a second."""

_SAME = 1e-9
"""Costs that differ by no more of the whole are the same."""

_MOST_CUTS = 30
"""So many shadow prices of pools are tried at most; beyond, the bound is what it is."""


class LongSearchError(Exception):
    """The search took more nodes than there is patience for. Never leaves this package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cheapest:
    """A fleet, its cost, what no fleet costs less than, and how it is paid, None: as its tariff bills it."""

    fleet: Floats
    cost: float
    bound: float
    bill: Bill | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Covering:
    """Whole instances with worths @ instances ≥ 1 in every row, enough where `most` of each are rented.

    `worths` is (rows × options), `most` (options). `along` makes one more row that holds for all fleets, near the
    cheapest at prices, (options). A search that takes more nodes than `patience` raises LongSearchError, None:
    never.
    """

    worths: Floats
    most: Floats
    along: Callable[[Floats], Floats] | None = None
    patience: int | None = None

    def cheapest(self, tariff: Tariff, below: float, deadline: Deadline) -> Cheapest | None:
        """Return the cheapest fleet, with all that is free, None where none costs less than `below`.


        Raises TimeUpError.
        """
        base = tariff.base
        kinds = _kinds(tariff)
        options = np.array([k.option for k in kinds] + list(range(len(base))), dtype=np.intp)
        widths = [kind.width for kind in kinds]
        program = _Whole(
            options=options,
            prices=np.array([kind.price for kind in kinds]),
            most=np.concatenate((widths, np.maximum(self.most - base, 0.0))),
            rented_last=not tariff.pools,
            patience=self.patience,
        )
        lines = [tariff.cut(np.array([float(pool.prices[0]) for pool in tariff.pools]))]
        best: Cheapest | None = None
        while True:
            found = program.solve(lines, self._rows(base, lines[1:]), below, deadline)
            if found is None:  # nothing costs less than the best, by lines that lie below all costs
                if best is None or best.cost > below:
                    return None
                return replace(best, bound=best.cost)
            bound, counts = found
            fleet = base + np.bincount(options, weights=counts, minlength=len(base))
            bill = tariff.bill(fleet[None], _steps(tariff, kinds, counts)[None])
            cost = float(tariff.total(bill)[0])
            if best is None or cost < best.cost:
                best = Cheapest(fleet=fleet, bill=bill, cost=cost, bound=bound)
                below = min(below, cost)
            if bound >= best.cost - _SAME * max(1.0, abs(best.cost)) or len(lines) > _MOST_CUTS:
                return replace(best, bound=min(bound, best.cost))
            lines.append(tariff.cut(bill.margins[0]))

    def _rows(self, base: Floats, lines: list[tuple[float, Floats]]) -> Floats:
        """Return the rows that are not satisfied by what is free, along lines too, for what is not free."""
        worths = self.worths
        if self.along is not None:
            worths = np.vstack((worths, *(self.along(price) for _, price in lines if price.any())))
        needed = 1.0 - worths @ base
        rows = needed > 0
        wanting: Floats = worths[rows] / needed[rows, None]
        return wanting


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """Steps of one option at one price above 0: their places in the tariff, and how many instances in all."""

    option: int
    price: float
    width: float
    places: tuple[int, ...]


def _kinds(tariff: Tariff) -> list[_Kind]:
    """Return the steps that cost something, those alike as one, by option and price."""
    alike: dict[tuple[int, float], list[int]] = {}
    for n, step in enumerate(tariff.steps):
        if 0 < step.price < tariff.full[step.option]:
            alike.setdefault((step.option, step.price), []).append(n)
    return [
        _Kind(
            option=option,
            price=price,
            width=sum(tariff.steps[n].width for n in places),
            places=tuple(places),
        )
        for (option, price), places in sorted(alike.items())
    ]


def _steps(tariff: Tariff, kinds: list[_Kind], counts: Floats) -> Floats:
    """Return what each step of a tariff covers, (steps), where so many of each kind are used."""
    taken = np.array([s.width if s.price <= 0 else 0.0 for s in tariff.steps])
    for kind, count in zip(kinds, counts.tolist(), strict=False):
        left = count
        for place in kind.places:
            taken[place] = min(left, tariff.steps[place].width)
            left -= taken[place]
    return taken


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    """min max over lines of (constant + Σ price × x) with worths @ x ≥ 1 in every row, 0 ≤ x ≤ most whole.

    Columns are instances at the steps' `prices`, in order of option and price, then rented ones at those of the
    lines; `options` says of which option each is.  With
    `rented_last` an instance is rented only where all steps of its option are used up.
    """

    options: NDArray[np.intp]
    prices: Floats
    most: Floats
    rented_last: bool
    patience: int | None = None

    def solve(
        self, lines: list[tuple[float, Floats]], worths: Floats, below: float, deadline: Deadline
    ) -> tuple[float, Floats] | None:
        """Return the least cost under `below` and x, None where there is none. Raises TimeUpError."""
        deadline.check()
        pairs = pairwise(lines)  # a mean of lines lies below the costs too
        lines = [*lines, *(((a + b) / 2, (p + q) / 2) for (a, p), (b, q) in pairs)]
        price = np.array([np.concatenate((self.prices, line)) for _, line in lines])
        constant = np.array([constant for constant, _ in lines])
        if not len(worths):
            least = float(constant.max())
            return (least, np.zeros(len(self.most))) if least < below else None
        worth = worths[:, self.options]
        used = np.flatnonzero((self.most > 0) & worth.any(axis=0))
        if (worth[:, used] @ self.most[used] < 1).any():
            return None
        order, follows = self._order(price.max(axis=0), used)
        price, worth = price[:, order], worth[:, order]
        found = self._searched(constant, price, worth, (self.most[order], follows), below)
        if found is None:
            if self.patience is not None:
                raise LongSearchError
            found = _branched(constant, price, worth, self.most[order], deadline)
        cost, counts = found
        if cost >= below:
            return None
        whole = np.zeros(len(self.most))
        whole[order] = counts
        return cost, whole

    def _order(self, price: Floats, used: NDArray[np.intp]) -> tuple[NDArray[np.intp], Floats]:
        """Return columns in the order in which they are tried, and which need the one before all used up.

        Options of the dearest instances first; of one option the cheapest.
        """
        rented = used >= len(self.prices)
        option = self.options[used]
        dearest = np.zeros(int(option.max(initial=0)) + 1)
        np.maximum.at(dearest, option, price[used])
        order = np.lexsort((price[used], rented, option, -dearest[option]))
        follows = np.zeros(len(used))
        same = option[order][1:] == option[order][:-1]
        follows[1:] = same & (self.rented_last | ~rented[order][1:])
        return used[order], follows

    def _searched(
        self,
        constant: Floats,
        price: Floats,
        worth: Floats,
        bounds: tuple[Floats, Floats],
        below: float,
    ) -> tuple[float, Floats] | None:
        """Return the least cost and the counts by searching depth first, None: too long a search."""
        most, follows = bounds
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
            follows=follows.astype(np.int64),
            worth=worth,
            cheap=np.ascontiguousarray(cheap.reshape(-1, rows)),
            left=np.ones((columns + 1, rows)),
            spent=spent,
            counts=np.zeros(columns, dtype=np.int64),
            best=np.zeros(columns, dtype=np.int64),
        )
        cost = cheapest_cover_fast(cover, below, rows, self.patience or _MOST_NODES)
        return None if cost == GAVE_UP else (cost, cover.best.astype(np.float64))


def _branched(
    constant: Floats,
    price: Floats,
    worth: Floats,
    most: Floats,
    deadline: Deadline,
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
