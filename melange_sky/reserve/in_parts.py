"""What no purchase comes below, soon: instances and units in parts, periods in spans at their mean.

What fleets pay and draw is linear in their instances, so that the mean fleet of a span pays the mean, and keeps to the
mean of every line that holds for each period's fleet:

    min  measure over scenarios s of   usd · y + Σ_g∈s hours_g rents_g · m_g
    y_k ≥ Σ_j draws_kj x_gkj                        for every span g and purchase k that counts there
    p · (m_g + o_g + Σ_k x_gk) ≥ v_g(p)             for lines found where fleets miss them (Kelley 1960)

Fleets are rented (m), owned (o) or drawn from what is bought (x). A line's v is what serving costs at prices p per
instance: first with instances in parts, then with whole ones, which closes most of what whole fleets cost more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import highspy
import numpy as np

from melange_sky.optimizer.program.highs import quiet_highs, solve_again
from melange_sky.reserve.rate_cone import SLACK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.reserve.known import Known
    from melange_sky.reserve.market import Group, Market
    from melange_sky.reserve.objective import Measure

    Floats = NDArray[np.float64]

_MOST_SPANS = 168
"""So many spans of periods of like rates at most."""

_GAIN = 3e-4
"""Lines are sought for as long as a round of them raises the bound by this part."""

_IDLE = 2
"""So many rounds in turn that raise it by less end the search."""

_SAME = 1e-9
MISSED = 1e-6
"""A line missed by no more of its right-hand side is kept to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Periods of a group, from the `first` of its order to before the `last`, and how many hours they are."""

    group: int
    first: int
    last: int
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """The program's optimum: USD, units in parts, what fleets run, (spans × options), and prices.

    `prices`, (spans × purchases), are what a unit is worth in an hour of a span, where its scenario matters
    (`weights`, (spans), are its hours times how much, `matter`, (scenarios)).
    """

    value: float
    units: Floats
    fleets: Floats
    prices: Floats
    weights: Floats
    matter: Floats


def spans_of(groups: list[Group], hours_each: float, most: int = _MOST_SPANS) -> list[Span]:
    """Return the periods of all groups in about so many spans at most, each group's in proportion to its number."""
    total = sum(len(group.rates_rps) for group in groups)
    spans = []
    for n, group in enumerate(groups):
        periods = len(group.rates_rps)
        count = min(periods, max(1, round(most * periods / total)))
        edges = np.unique(np.linspace(0, periods, count + 1).astype(int)).tolist()
        spans += [
            Span(group=n, first=a, last=b, hours=hours_each * (b - a)) for a, b in pairwise(edges)
        ]
    return spans


class InParts:
    """The program over all purchases; each solve begins where the last one ended."""

    most_spans = _MOST_SPANS

    def __init__(self, market: Market, known: Known, measure: Measure, deadline: Deadline) -> None:
        """Build the program without lines."""
        self._market, self._known = market, known
        self._measure, self._deadline = measure, deadline
        self.spans = spans_of(market.groups, market.question.hours_each, self.most_spans)
        self._groups = [market.groups[span.group] for span in self.spans]
        self._mixes = [market.question.mixes[group.mix] for group in self._groups]
        self._means = np.array(
            [
                g.rates_rps[s.first : s.last].mean()
                for g, s in zip(self._groups, self.spans, strict=True)
            ]
        )
        self._hours = np.array([span.hours for span in self.spans])
        self._scenario = np.array([group.scenario for group in self._groups], dtype=np.intp)
        self._rents = np.array([group.rents for group in self._groups])
        self._active = np.array([group.active for group in self._groups])
        self._links = np.full(self._active.shape, -1, dtype=np.intp)
        span, purchase = np.nonzero(self._active)
        self._links[span, purchase] = len(measure.weights) + np.arange(len(span))
        self._highs = quiet_highs({"presolve": "off"})
        self._rows = len(measure.weights) + len(span)
        budget = market.question.budget_upfront_usd
        self._bounded = int(np.isfinite(budget) and market.upfront.any())
        self._highs.passModel(self._without_lines())

    @cached_property
    def _owned(self) -> Floats:
        """The instances that are paid already, (spans × options)."""
        return np.array([group.owned for group in self._groups])

    @cached_property
    def _first(self) -> int:
        """The first column of instances."""
        return len(self._measure.goal) + len(self._market.usd)

    @cached_property
    def _drawn(self) -> tuple[NDArray[np.intp], ...]:
        """The span, purchase and option of what is drawn."""
        return np.nonzero(self._active[:, :, None] & (self._market.draws > 0))

    @cached_property
    def _instances(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The span and option of each column of instances: rented, owned, then drawn."""
        g, j = (place.ravel() for place in np.indices(self._rents.shape))
        og, oj = np.nonzero(self._owned > 0)
        xg, _, xj = self._drawn
        return np.concatenate((g, og, xg)), np.concatenate((j, oj, xj))

    def _entries(self) -> Iterator[tuple[Floats, NDArray[np.intp], NDArray[np.intp]]]:
        """Yield the matrix without lines in parts: values, rows, columns."""
        market, measure = self._market, self._measure
        scenarios, bought = len(measure.weights), len(market.usd)
        units = len(measure.goal) + np.arange(bought)
        s, a = np.nonzero(measure.shares)
        yield measure.shares[s, a], s, a
        every = np.repeat(np.arange(scenarios), bought)
        yield -np.tile(market.usd, scenarios), every, np.tile(units, scenarios)
        rented = self._first + np.arange(self._rents.size)
        paid = (-self._hours[:, None] * self._rents).ravel()
        yield paid, np.repeat(self._scenario, self._rents.shape[1]), rented
        g, k = np.nonzero(self._active)
        yield np.ones(len(g)), self._links[g, k], units[k]
        g, k, j = self._drawn
        last = self._first + len(self._instances[0])
        yield -market.draws[k, j], self._links[g, k], np.arange(last - len(g), last)
        if self._bounded:
            yield market.upfront, np.full(bought, self._rows), units

    def _without_lines(self) -> Any:
        """Rows: scenarios, links, the budget. Columns: the measure's, purchases, then instances."""
        market, measure = self._market, self._measure
        entries = (np.concatenate(part) for part in zip(*self._entries(), strict=True))
        value, row, column = entries
        count = self._first + len(self._instances[0])
        aux, rented = len(measure.goal), self._rents.size
        owned, drawn = self._owned[self._owned > 0], len(self._drawn[0])
        links = self._rows - len(measure.weights)
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = count, self._rows + self._bounded
        model.col_cost_ = np.concatenate((measure.goal, np.zeros(count - aux)))
        model.col_lower_ = np.concatenate((measure.lower, np.zeros(count - aux)))
        unlimited = np.full(max(aux, rented, drawn), np.inf)
        limits = (unlimited[:aux], market.root.high, unlimited[:rented], owned, unlimited[:drawn])
        model.col_upper_ = np.concatenate(limits)
        budget = [market.question.budget_upfront_usd] * self._bounded
        best = np.zeros(len(measure.weights)) - measure.offsets
        model.row_lower_ = np.concatenate((best, np.zeros(links), [-np.inf] * self._bounded))
        model.row_upper_ = np.concatenate((np.full(self._rows, np.inf), budget))
        order = np.lexsort((row, column))
        starts = np.searchsorted(column[order], np.arange(count + 1))
        model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        model.a_matrix_.start_ = starts.astype(np.int32)
        model.a_matrix_.index_ = row[order].astype(np.int32)
        model.a_matrix_.value_ = value[order]
        return model

    def solve(self) -> Mean:
        """Return the optimum with the lines so far. Raises TimeUpError."""
        highs, market = self._highs, self._market
        solve_again(highs, self._deadline)
        solution = highs.getSolution()
        values, duals = np.array(solution.col_value), np.array(solution.row_dual)
        aux = len(self._measure.goal)
        fleets = np.zeros(self._rents.shape)
        np.add.at(fleets, self._instances, np.maximum(values[self._first :], 0.0))
        matter = np.maximum(duals[: len(self._measure.weights)], 0.0)
        weights = matter[self._scenario] * self._hours
        given = np.where(self._links >= 0, np.maximum(duals[self._links], 0.0), 0.0)
        per_hour = np.divide(1.0, weights, out=np.zeros(len(weights)), where=weights > _SAME)
        return Mean(
            value=float(highs.getInfo().objective_function_value),
            units=values[aux : aux + len(market.usd)],
            fleets=fleets,
            prices=given * per_hour[:, None],
            weights=np.where(weights > _SAME, weights, 0.0),
            matter=matter,
        )

    def bound(
        self, told: Callable[[Mean], None], enough: Callable[[], bool], *, whole: bool = False
    ) -> Mean:
        """Return the optimum with lines of fleets in parts, or of whole ones, sought as long as that pays.

        `told` hears of each optimum, `enough` may end the search. Raises TimeUpError.
        """
        lines = self._whole if whole else self._in_parts
        mean, idle = self.solve(), 0
        told(mean)
        while idle < _IDLE and not enough():
            found = list(lines(mean))
            if not found:
                break
            for line in found:
                self._add(*line)
            before, mean = mean.value, self.solve()
            told(mean)
            idle = idle + 1 if mean.value - before < _GAIN * abs(mean.value) else 0
        return mean

    def _add(self, g: int, line: Floats, least: float) -> None:
        """Add a line to a span: line · (instances) ≥ least."""
        index, options = self._of_span[g]
        self._highs.addRow(least, np.inf, len(index), index, line[options])

    @cached_property
    def _of_span(self) -> list[tuple[NDArray[np.int32], NDArray[np.intp]]]:
        """The columns of instances of each span, and which option each is."""
        span, option = self._instances
        order = np.argsort(span, kind="stable")
        ends = np.searchsorted(span[order], np.arange(len(self.spans) + 1))
        return [
            ((self._first + order[a:b]).astype(np.int32), option[order[a:b]])
            for a, b in pairwise(ends.tolist())
        ]

    def _paid(self, mean: Mean) -> Floats:
        """Return what an instance costs in each span, the cheapest way it is paid, (spans × options)."""
        paid: Floats = self._rents.copy()
        for k, draws in enumerate(self._market.draws):
            drawn = np.where(draws > 0, mean.prices[:, k, None] * draws, np.inf)
            paid = np.where(self._active[:, k, None], np.minimum(paid, drawn), paid)
        return paid

    def _in_parts(self, mean: Mean) -> Iterator[tuple[int, Floats, float]]:
        """Yield lines that spans' mean fleets miss where instances are had in parts."""
        paid = self._paid(mean)
        paid = np.where(paid.any(axis=1, keepdims=True), paid, self._rents)  # all is free at first
        for g in np.flatnonzero(mean.weights).tolist():
            rate, fleet = float(self._means[g]), mean.fleets[g]
            for worth in self._mixes[g].missed(fleet, rate * (1 - MISSED), paid[g]):
                yield g, worth, rate * (1 - SLACK)

    def _whole(self, mean: Mean) -> Iterator[tuple[int, Floats, float]]:
        """Yield lines that spans' mean fleets miss where each period's fleet is whole and soon found."""
        for g, prices in enumerate(self._paid(mean)):
            if mean.weights[g] and prices.any():
                least = self._least(g, prices)
                if prices @ mean.fleets[g] < least * (1 - MISSED):
                    yield g, prices, least

    def _least(self, g: int, prices: Floats) -> float:
        """Return what the mean over a span of its periods' cheapest whole fleets at prices is not below."""
        group, span, mix = self._groups[g], self.spans[g], self._mixes[g]
        rates, total, at, bound = group.rates_rps, 0.0, span.first, 0.0
        while at < span.last:
            found = mix.least(prices, float(rates[at]))
            if found is None:  # the rest costs no less than those before
                return (total + bound * (span.last - at)) / (span.last - span.first)
            bound = max(bound, found.bound)
            served = self._known.rate(self._known.learn(found.fleet), group.mix)
            then = min(span.last, max(at + 1, int(np.searchsorted(rates, served, side="right"))))
            total += bound * (then - at)
            at = then
        return total / (span.last - span.first)
