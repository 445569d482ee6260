"""The linear program that bounds what any purchase within a box costs, over the fleets known so far.

For a box low ≤ y ≤ high of committed instances y, with fleet f in span g for a part x_gf of its time:

    min  hours × commit · y + Σ_g weight_g Σ_k rent_k r_gk + Σ_gf weight_g rent · (n_f − high)⁺ x_gf
    Σ_f x_gf = 1,   r_gk ≥ Σ_f min((n_fk − low_k)⁺, high_k − low_k) x_gf − (y_k − low_k),   low ≤ y ≤ high

Instances up to `low` are committed for sure and those beyond `high` rented for sure; only what lies between is
shared with the other spans. So the program is exact where the box is a point (Dantzig & Wolfe, Operations
Research 8, 1960). Its duals are the prices at which a fleet outside of it would have to be cheaper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import highspy
import numpy as np

from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.reserve.covering import Tariff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.reserve.hours import Span

    Floats = NDArray[np.float64]

_CHEAPER = 1e-9
"""A fleet enters where it is cheaper than its span's price by so much of the whole."""

_AT_ONCE = 4
"""So many fleets of a span enter at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """USD per hour: `rent`, (price rows × options); `commit`, (options), for every hour of the demand, used or not.

    `hours` is the demand's weight in all.
    """

    rent: Floats
    commit: Floats
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The purchases with low ≤ y ≤ high: arrays of whole instances, one place per option."""

    low: Floats
    high: Floats

    @property
    def is_point(self) -> bool:
        """Whether it holds one purchase."""
        return bool((self.low == self.high).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """The optimum of the linear program: USD over the demand, y, and the tariff of each span with its dual.

    `entered` are, per span, the fleets that its program came to hold.
    """

    value: float
    bought: Floats
    tariffs: list[Tariff]
    duals: Floats
    entered: list[set[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Master:
    """Spans, and fleets with the highest rate of each mix: (fleets × options), (fleets × mixes)."""

    prices: Prices
    spans: Sequence[Span]
    fleets: Floats
    rates_rps: Floats
    deadline: Deadline

    def solve(self, box: Box, first: Sequence[set[int]]) -> Relaxation:
        """Return the optimum over all known fleets; each span must know one that serves.

        Fleets that may matter, by span, enter `first`. Raises TimeUpError.
        """
        program = _Program(self, box)
        able = [self._able(span) for span in self.spans]
        for g, (span, fleets) in enumerate(zip(self.spans, able, strict=True)):
            for bought in (box.low, box.high):
                program.enter(g, fleets[[int(self._rented(span, bought, fleets).argmin())]])
            program.enter(g, np.intersect1d(fleets, np.array(sorted(first[g]), dtype=np.intp)))
        while True:
            relaxation = program.solve()
            if not self._enter(program, relaxation, able):
                return relaxation

    def _enter(
        self, program: _Program, relaxation: Relaxation, able: Sequence[NDArray[np.intp]]
    ) -> bool:
        """Let fleets enter that are cheapest at each span's tariff, where they beat its price; False: none."""
        room = _CHEAPER * max(1.0, abs(relaxation.value))
        grew = False
        for g, (span, tariff, dual) in enumerate(
            zip(self.spans, relaxation.tariffs, relaxation.duals, strict=True)
        ):
            costs = tariff.cost(self.fleets[able[g]]) * span.weight
            cheaper = np.flatnonzero(costs < dual - room)
            if len(cheaper):
                best = cheaper[np.argsort(costs[cheaper], kind="stable")[:_AT_ONCE]]
                grew |= program.enter(g, able[g][best])
        return grew

    def cost_of(self, bought: Floats) -> float:
        """Return what a purchase costs with the best of the known fleets in every span."""
        box = Box(low=bought, high=bought)
        total = self.prices.hours * float(self.prices.commit @ bought)
        for span in self.spans:
            total += span.weight * float(self._rented(span, box.high, self._able(span)).min())
        return total

    def _able(self, span: Span) -> NDArray[np.intp]:
        return np.flatnonzero(self.rates_rps[:, span.mix] >= span.most_rps)

    def _rented(self, span: Span, bought: Floats, able: NDArray[np.intp]) -> Floats:
        rented: Floats = np.maximum(self.fleets[able] - bought, 0.0) @ self.prices.rent[span.price]
        return rented


class _Program:
    """The linear program of one box, to which fleets are added; each solve begins where the last one ended."""

    def __init__(self, master: Master, box: Box) -> None:
        self._master, self._box = master, box
        self._between = np.flatnonzero(box.high > box.low)
        self._entered: list[set[int]] = [set() for _ in master.spans]
        self._weights = np.array([span.weight for span in master.spans])
        self._rents = master.prices.rent[[span.price for span in master.spans]]
        self._highs = highspy.Highs()
        for name, value in (("output_flag", False), ("threads", 1), ("presolve", "off")):
            self._highs.setOptionValue(name, value)
        self._highs.passModel(self._without_fleets())

    @property
    def _links(self) -> int:
        """How many rows tie what runs to what is bought; those of the spans follow."""
        return len(self._between) * len(self._master.spans)

    def _without_fleets(self) -> Any:
        spans, options, links = len(self._master.spans), len(self._between), self._links
        columns, every = options + links, np.arange(links)
        width = (self._box.high - self._box.low)[self._between]
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = columns, links + spans
        commit = self._master.prices.hours * self._master.prices.commit[self._between]
        rent = (self._weights[:, None] * self._rents[:, self._between]).ravel()
        model.col_cost_ = np.concatenate((commit, rent))
        model.col_lower_ = np.zeros(columns)
        model.col_upper_ = np.concatenate((width, np.full(links, np.inf)))
        model.row_lower_ = np.concatenate((np.zeros(links), np.ones(spans)))
        model.row_upper_ = np.concatenate((np.full(links, np.inf), np.ones(spans)))
        bought = every.reshape(spans, options).T.ravel()  # row g × options + k, by k
        model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        model.a_matrix_.start_ = np.concatenate(
            (np.arange(options) * spans, links + np.arange(links + 1))
        ).astype(np.int32)
        model.a_matrix_.index_ = np.concatenate((bought, every)).astype(np.int32)
        model.a_matrix_.value_ = np.ones(2 * links)
        return model

    def enter(self, span: int, fleets: NDArray[np.intp]) -> bool:
        """Add fleets to a span; return whether any is new there."""
        fresh = [f for f in fleets.tolist() if f not in self._entered[span]]
        for f in fresh:
            self._entered[span].add(f)
            fleet, box = self._master.fleets[f], self._box
            beyond = np.maximum(fleet - box.high, 0.0)
            shared = np.minimum(np.maximum(fleet - box.low, 0.0), box.high - box.low)
            amounts = shared[self._between]
            used = np.flatnonzero(amounts)
            rows = [*(span * len(self._between) + used).tolist(), self._links + span]
            self._highs.addCol(
                float(self._weights[span] * (beyond @ self._rents[span])),
                0.0,
                highspy.kHighsInf,
                len(rows),
                np.array(rows, dtype=np.int32),
                np.array([*(-amounts[used]).tolist(), 1.0]),
            )
        return bool(fresh)

    def solve(self) -> Relaxation:
        """Return the optimum over the fleets that entered. Raises TimeUpError."""
        master, box, highs = self._master, self._box, self._highs
        highs.setOptionValue("time_limit", highs.getRunTime() + master.deadline.left_s)
        highs.run()
        if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise TimeUpError
        solution = highs.getSolution()
        duals = np.array(solution.row_dual)
        bought = box.low.copy()
        bought[self._between] += np.array(solution.col_value)[: len(self._between)]
        own = np.zeros(self._rents.shape)
        own[:, self._between] = (
            np.maximum(duals[: self._links], 0.0).reshape(len(own), -1) / self._weights[:, None]
        )
        tariffs = [
            Tariff(free=box.low, width=box.high - box.low, price=np.minimum(price, full), full=full)
            for price, full in zip(own, self._rents, strict=True)
        ]
        fixed = master.prices.hours * float(master.prices.commit @ box.low)
        value = fixed + float(highs.getInfo().objective_function_value)
        return Relaxation(
            value=value,
            bought=bought,
            tariffs=tariffs,
            duals=duals[self._links :],
            entered=self._entered,
        )
