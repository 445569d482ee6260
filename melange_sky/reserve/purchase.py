"""What to commit: the purchase whose cost, with the best fleet rented on top in every period, is least.

Branch and bound over boxes of purchases. A box's bound is a linear program over fleets (`master.py`) to which
fleets are added until none could lower it (`serving.py` finds the cheapest fleet at any prices); with one
purchase in the box that program is exact, so that the search ends with a proof. Where the time ends first, the
gap is told.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.deadline import NEVER, Deadline, TimeUpError
from melange_sky.reserve.covering import Tariff
from melange_sky.reserve.hours import Hours, spans
from melange_sky.reserve.master import Box, Master, Prices, Relaxation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.serving import Served

    Floats = NDArray[np.float64]

_SAME = 1e-9
"""Costs that differ by no more of the whole are the same."""

_AT_ONCE = 40
"""So many fleets are learnt at a time: those that could lower a bound most."""

_STEP = 1e-4
"""A bound that could rise by less of the cost, or of what smaller boxes have to close, is left for those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """What may be committed: `owned` instances are paid already and used first, at most `most` are held in all."""

    owned: Floats
    most: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The purchase: instances held of each option, owned ones with them, and each period's fleet.

    `fleets` is (periods × options), what runs: committed and rented, none where nothing is asked.
    `cost_usd` is over the demand; `gap` is how far, as a fraction of it, it may lie above the least.
    """

    held: Floats
    fleets: Floats
    cost_usd: float
    gap: float


@dataclass(slots=True, kw_only=True)
class Search:
    """The fleets found so far, and the search for a purchase."""

    mixes: Sequence[Served]
    hours: Hours
    prices: Prices
    offered: Offered
    deadline: Deadline = NEVER
    progress: Callable[[float, float], None] = field(default=lambda _cost, _bound: None)
    fleets: dict[bytes, Floats] = field(default_factory=dict)
    highest: dict[bytes, Floats] = field(default_factory=dict)
    entered: list[set[int]] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with no fleet in any period's program."""
        self.entered = [set() for _ in self.hours.rate_rps]

    def best(self, within: float = 0.0) -> Answer:
        """Return the best purchase, proven to `within` of its cost if time suffices.

        Raises TimeUpError where not even one purchase was priced in time.
        """
        root = Box(low=self.offered.owned, high=np.maximum(self.offered.most, self.offered.owned))
        held, cost = root.low, self._exact(root.low)
        bound = 0.0
        order = count()
        waiting: list[tuple[float, int, Box]] = [(0.0, next(order), root)]
        try:
            while waiting:
                bound = min(cost, waiting[0][0])
                if bound >= cost * (1 - max(within, _SAME)):
                    break
                _, _, box = heapq.heappop(waiting)
                relaxation, least = self._bounded(box, cost)
                for purchase in self._near(relaxation.bought, box):
                    if self._known(purchase) < cost * (1 - _SAME):
                        exact = self._exact(purchase)
                        if exact < cost:
                            held, cost = purchase, exact
                self.progress(cost, min(cost, least, *(w[0] for w in waiting[:1])))
                if least < cost * (1 - max(within, _SAME)):
                    for part in _parts(box, relaxation):
                        heapq.heappush(waiting, (least, next(order), part))
            else:
                bound = cost
        except TimeUpError:
            bound = min([cost, *(w[0] for w in waiting)])
        gap = max(0.0, 1 - bound / cost) if cost > 0 else 0.0
        gap = 0.0 if gap <= _SAME else gap
        return Answer(held=held, fleets=self.running(held), cost_usd=cost, gap=gap)

    def running(self, held: Floats) -> Floats:
        """Return each period's fleet, (periods × options): the cheapest known that serves, with what is held."""
        master = self._master()
        running = np.zeros((len(self.hours.rate_rps), len(held)))
        for span in master.spans:
            fleet = self._fleet(span.mix, span.price, span.most_rps, held)
            running[span.periods] = fleet
        return running

    def _fleet(self, mix: int, price: int, rate_rps: float, held: Floats) -> Floats:
        """Return the known fleet that is cheapest beside what is held and serves the rate."""
        able = [f for key, f in self.fleets.items() if self.highest[key][mix] >= rate_rps]
        rented = [float(np.maximum(f - held, 0.0) @ self.prices.rent[price]) for f in able]
        return able[int(np.argmin(rented))]

    def _master(self) -> Master:
        rates = np.array([self.highest[key] for key in self.fleets])
        return Master(
            prices=self.prices,
            spans=spans(self.hours, rates),
            fleets=np.array(list(self.fleets.values())),
            rates_rps=rates,
            deadline=self.deadline,
        )

    def _served(self, fleet: Floats, mix: int, rate_rps: float) -> float:
        """Return the highest rate of a mix that a fleet serves which serves this one."""
        rates = self.highest.get(fleet.tobytes())
        if rates is None:
            rates = np.array([one.highest_rate(fleet) for one in self.mixes])
            self.highest[fleet.tobytes()] = rates
        rates[mix] = max(rates[mix], rate_rps)
        return float(rates[mix])

    def _learn(self, fleet: Floats) -> None:
        """Let the program know a fleet whose rates are known."""
        self.fleets.setdefault(fleet.tobytes(), fleet)

    def _exact(self, held: Floats) -> float:
        """Return what a purchase costs with the cheapest fleet of all in every period; learn those."""
        nothing, hours, total = np.zeros(len(held)), self.hours, 0.0
        for mix, price in sorted(set(zip(hours.mix.tolist(), hours.price.tolist(), strict=True))):
            here = (hours.mix == mix) & (hours.price == price) & (hours.rate_rps > 0)
            rent = self.prices.rent[price]
            tariff = Tariff(free=held, width=nothing, price=nothing, full=rent)
            left = np.flatnonzero(here)
            for fleet, periods in self._steps(mix, left, tariff, np.inf):
                self._learn(fleet)
                total += float(tariff.cost(fleet)) * float(hours.weight[periods].sum())
                left = np.setdiff1d(left, periods)
            if len(left):
                raise InfeasibleError(f"no fleet serves {hours.rate_rps[left].min():g} req/s")
        return self.prices.hours * float(self.prices.commit @ held) + total

    def _known(self, held: Floats) -> float:
        return self._master().cost_of(held)

    def _bounded(self, box: Box, cost: float) -> tuple[Relaxation, float]:
        """Return the program of a box and a bound of all its purchases' costs; learn fleets.

        Fleets are sought until none could lower it, in a box of several purchases only while that pays.
        """
        least = 0.0
        while True:
            master = self._master()
            relaxation = master.solve(box, [self.entered[s.periods[0]] for s in master.spans])
            for span, entered in zip(master.spans, relaxation.entered, strict=True):
                for period in span.periods.tolist():
                    self.entered[period] = entered
            short = self._lowered(master, relaxation)
            least = max(least, relaxation.value + short)
            if short == 0 or least >= cost * (1 - _SAME):
                return relaxation, least
            enough = max(_STEP * cost, (cost - relaxation.value) / 2)
            if not box.is_point and relaxation.value - least < enough:
                return relaxation, least

    def _lowered(self, master: Master, relaxation: Relaxation) -> float:
        """Return what other fleets may lower the program's value by; learn those of the spans where most."""
        found: list[tuple[float, Floats]] = []
        total = 0.0
        for span, tariff, dual in zip(
            master.spans, relaxation.tariffs, relaxation.duals, strict=True
        ):
            price = float(dual) / span.weight
            below = price - _SAME * max(1.0, abs(price))
            for fleet, periods in self._steps(span.mix, span.periods, tariff, below):
                weight = float(self.hours.weight[periods].sum())
                found.append(((float(tariff.cost(fleet)) - price) * weight, fleet))
                total += found[-1][0]
        found.sort(key=itemgetter(0))
        for _, fleet in found[:_AT_ONCE]:
            self._learn(fleet)
        return total

    def _steps(
        self, mix: int, periods: NDArray[np.intp], tariff: Tariff, below: float
    ) -> Iterator[tuple[Floats, NDArray[np.intp]]]:
        """Yield the cheapest fleets for some periods and the periods that each is for, lowest rates first.

        The cheapest fleet at a rate is the cheapest at every higher one that it serves. Ends where it would
        not cost less than `below`.
        """
        order = periods[np.argsort(self.hours.rate_rps[periods], kind="stable")]
        rates, at = self.hours.rate_rps[order], 0
        while at < len(order):
            fleet = self.mixes[mix].cheapest(tariff, float(rates[at]), below)
            if fleet is None:
                return
            served = self._served(fleet, mix, float(rates[at]))
            then = int(np.searchsorted(rates, served, side="right"))
            yield fleet, order[at:then]
            at = then

    def _near(self, bought: Floats, box: Box) -> list[Floats]:
        """Return the purchases to try: what the program buys, rounded, and one more or less of each."""
        middle = np.clip(np.round(bought), box.low, box.high)
        found = {
            tuple(np.clip(way(bought), box.low, box.high)) for way in (np.floor, np.round, np.ceil)
        }
        for k in range(len(middle)):
            for step in (-1.0, 1.0):
                moved = middle.copy()
                moved[k] = min(max(moved[k] + step, box.low[k]), box.high[k])
                found.add(tuple(moved))
        return [np.array(one) for one in sorted(found)]


def _parts(box: Box, relaxation: Relaxation) -> list[Box]:
    """Return a box in two, cut where what the program buys is furthest from whole, else at its widest."""
    if box.is_point:
        return []
    wide = box.high > box.low
    off = np.where(wide, np.abs(relaxation.bought - np.round(relaxation.bought)), -1.0)
    k = int(off.argmax())
    if off[k] < 1e-6:
        k = int(np.where(wide, box.high - box.low, -1.0).argmax())
    cut = min(max(np.floor(relaxation.bought[k]), box.low[k]), box.high[k] - 1)
    below, above = box.high.copy(), box.low.copy()
    below[k], above[k] = cut, cut + 1
    return [Box(low=box.low, high=below), Box(low=above, high=box.high)]
