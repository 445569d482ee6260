"""`in_parts.py` of several models: lines of each model by itself, and rows for what rules ask of all in every span.

What a mean fleet costs at prices that hold the limits' own is the sum over models, so that the program comes to the
bound of Lagrange over all shares and limits at once. The fleets found for a model stay known for it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.program.highs import as_highs, quiet_highs
from melange_sky.optimizer.program.linear import GE, LE, Linear
from melange_sky.reserve.in_parts import MISSED, InParts, Mean
from melange_sky.reserve.tariff import Tariff
from melange_sky.reserve.together import Together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.reserve.known import Known
    from melange_sky.reserve.market import Market
    from melange_sky.reserve.objective import Measure

    Floats = NDArray[np.float64]

_SAME = 1e-9

_LITTLE = 0.02
"""So much of known fleets is added to a fleet in parts where prices are sought: without instances any price would do."""

_DEAR = 1e6
"""USD an hour of a unit that nothing draws on."""

_LEAST = 1e-5
"""No instance counts as less of its rent in a line's prices."""


def program_of(market: Market, known: Known, measure: Measure, deadline: Deadline) -> InParts:
    """Return the program of fleets in parts, of several models with each model's lines."""
    mixes = market.question.mixes
    together = {n: mix for n, mix in enumerate(mixes) if isinstance(mix, Together)}
    if together:
        return TiedInParts(market, known, measure, deadline, together)
    return InParts(market, known, measure, deadline)


class TiedInParts(InParts):
    """The program over all purchases with each model's lines."""

    most_spans = 40

    def __init__(
        self,
        market: Market,
        known: Known,
        measure: Measure,
        deadline: Deadline,
        together: dict[int, Together],
    ) -> None:
        """Build the program without lines; `together` are the mixes by their places."""
        super().__init__(market, known, measure, deadline)
        self._together = [together[group.mix] for group in self._groups]
        self._ties = [one.ties for one in self._together]
        self._first_tie = int(self._highs.getNumRow())
        for g, ties in enumerate(self._ties):
            index, options = self._of_span[g]
            rules = ties.rules
            for counted, lower, upper in zip(
                rules.counted[options].T, rules.lower.tolist(), rules.upper.tolist(), strict=True
            ):
                self._highs.addRow(lower, upper, len(index), index, counted)
        self._more = np.zeros(self._rents.shape)

    def solve(self) -> Mean:
        """Return the optimum with the lines so far, and keep what limits are worth in it. Raises TimeUpError."""
        mean = super().solve()
        duals = np.array(self._highs.getSolution().row_dual)
        row = self._first_tie
        for g, ties in enumerate(self._ties):
            last = row + len(ties.rules.upper)
            if mean.weights[g]:
                self._more[g] = ties.rules.counted @ -duals[row:last] / mean.weights[g]
            row = last
        return mean

    def bound(
        self, told: Callable[[Mean], None], enough: Callable[[], bool], *, whole: bool = False
    ) -> Mean:
        """Return what `InParts` does: of whole fleets alone, which are soon found of one model.

        First along what instances cost where each hour pays its even part of every purchase; `whole`: then where mean
        fleets lie off all that are known.
        """
        if whole:
            return self._seeded(super().bound(told, enough, whole=True))
        self.solve()
        even = self._even()
        dear = replace(even, prices=np.where(self._market.shared, _DEAR, even.prices))
        for prices in (even, dear) if self._market.shared.any() else (even,):
            for line in list(self._along(prices)):
                self._add(*line)
        mean = self.solve()
        told(mean)
        self._seeded(even)
        return mean

    def _even(self) -> Mean:
        """Return prices at which every hour in which a purchase counts pays its even part of it."""
        market, hours = self._market, self._market.question.hours_each
        each = market.usd / np.maximum(market.active.sum(axis=1) * hours, _SAME)
        return Mean(
            value=0.0,
            units=np.zeros(len(market.usd)),
            fleets=np.zeros(self._rents.shape),
            prices=np.where(self._active, each, 0.0),
            weights=self._hours,
            matter=market.weights,
        )

    def _paid(self, mean: Mean) -> Floats:
        """Return what an instance costs in each span with what it takes of limits, (spans × options).

        Never nothing: a line along any prices holds, and what is nearly free is hard to reckon with.
        """
        paid = super()._paid(mean) + self._more
        return np.maximum(paid, _LEAST * self._rents)

    def _along(self, mean: Mean) -> Iterator[tuple[int, Floats, float]]:
        """Yield the line of each model and span along what instances cost there."""
        for g, paid in enumerate(self._paid(mean)):
            for n, own in enumerate(self._ties[g].own):
                if (paid * own).any():
                    yield g, paid * own, self._least_of(g, n, paid * own)

    def _whole(self, mean: Mean) -> Iterator[tuple[int, Floats, float]]:
        """Yield lines that models' mean fleets miss, along prices at which these lie farthest off all that are known."""
        for g in np.flatnonzero(mean.weights).tolist():
            together = self._together[g]
            for n, own in enumerate(self._ties[g].own):
                fleet = mean.fleets[g] * own
                known = together.known(n, float(self._means[g]))
                prices = farthest(known, fleet) * own
                if not prices.any():
                    continue
                prices = np.maximum(prices, _LEAST * float(prices.max())) * own
                least = self._least_of(g, n, prices)
                if prices @ fleet < least * (1 - MISSED):
                    yield g, prices, least

    def _least_of(self, g: int, n: int, prices: Floats) -> float:
        """Return what the mean over a span of a model's cheapest whole fleets at prices is not below."""
        together, span = self._together[g], self.spans[g]
        store, share = together.store(n), together.parts[n][1]
        rates, total, at, bound = self._groups[g].rates_rps * share, 0.0, span.first, 0.0
        while share > 0 and at < span.last:
            found = store.least(prices, float(rates[at]))
            if found is None:  # the rest costs no less than those before
                return (total + bound * (span.last - at)) / (span.last - span.first)
            bound = max(bound, found.bound)
            served = store.rate(found.fleet)
            then = min(span.last, max(at + 1, int(np.searchsorted(rates, served, side="right"))))
            total += bound * (then - at)
            at = then
        return total / (span.last - span.first)

    def _seeded(self, mean: Mean) -> Mean:
        """Make known what the models' fleets near the cheapest at a mean's prices come to together; return the mean."""
        free = np.zeros(self._rents.shape[1])
        for g, paid in enumerate(self._paid(mean)):
            together, rate = (
                self._together[g],
                float(self._groups[g].rates_rps[self.spans[g].last - 1]),
            )
            for fleet in together.near_prices(Tariff(free=free, full=paid), rate):
                self._known.learn(fleet)
        return mean


def farthest(known: Floats, fleet: Floats) -> Floats:
    """Return prices, (options), at which known fleets, (fleets × options), cost most beside a fleet in parts.

    None of them, all 0, where they cost no more than it, or where none is known.
    """
    used = np.flatnonzero((known > 0).any(axis=0) | (fleet > _SAME))
    prices = np.zeros(len(fleet))
    if not len(known) or not len(used):
        return prices
    rows, mine = known[:, used], fleet[used]
    program = Linear()
    columns = [program.add(f"p_{k}") for k in range(len(used))]
    least = program.add("least")
    for n, row in enumerate(rows):
        terms = [(columns[k], float(row[k])) for k in np.flatnonzero(row).tolist()]
        program.row([*terms, (least, -1.0)], GE, 0.0, f"known_{n}")
    little = _LITTLE * rows.mean(axis=0) + _LITTLE**2
    cost = (mine + little).tolist()
    program.row([(c, x) for c, x in zip(columns, cost, strict=True)], LE, 1.0, "cost")
    program.goal = [(least, -1.0)]
    highs = quiet_highs({})
    highs.passModel(as_highs(program))
    highs.run()
    values = np.array(highs.getSolution().col_value)
    if values[least] > 1 + MISSED:
        prices[used] = np.maximum(values[:-1], 0.0)
    return prices
