"""Which fleets serve one mix of request sizes, and the cheapest that do at any prices and rate.

A model may be planned at several attainment levels: each is a cone of its own, and a fleet serves where any of
them holds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.deadline import NEVER, Deadline
from melange_sky.reserve.covering import Cheapest, Covering, LongSearchError
from melange_sky.reserve.rate_cone import SLACK
from melange_sky.reserve.tariff import Tariff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.rate_cone import RateCone

    Floats = NDArray[np.float64]

_ROUNDING = 1e-9

_ROWS_AT_ONCE = 5
"""So many worths join a covering program at a time: those that a fleet misses most."""

_MISSED_AT_ONCE = 2
"""So many worths that a fleet in parts misses are told at a time."""

_PATIENCE = 500_000
"""A search of more nodes takes long."""


class Served:
    """The fleets that serve one mix. Fleets are arrays of instances, one place per option."""

    def __init__(self, levels: Sequence[RateCone], deadline: Deadline = NEVER) -> None:
        """Take the cones of the attainment levels."""
        self.levels, self.deadline = levels, deadline
        self._rates: list[dict[bytes, float]] = [{} for _ in levels]
        self._last: list[Floats | None] = [None for _ in levels]

    def until(self, deadline: Deadline) -> None:
        """Hold all that is asked from now on to a deadline."""
        self.deadline = deadline
        for level in self.levels:
            level.deadline = deadline

    @property
    def parts(self) -> list[tuple[Served, float]]:
        """The fleets of each model alone, and its part of the rate."""
        return [(self, 1.0)]

    @property
    def most(self) -> Floats:
        """Instances of each option that do all that it can at 1 req/s, (options)."""
        most: Floats = np.max([level.most for level in self.levels], axis=0)
        return most

    def rate(self, fleet: Floats) -> float:
        """Return the highest rate in req/s that a fleet serves. Raises TimeUpError."""
        ceilings = [level.at_most(fleet) for level in self.levels]
        best = 0.0
        for n in sorted(range(len(ceilings)), key=lambda n: -ceilings[n]):
            if ceilings[n] > best:
                best = max(best, self._of_level(n, fleet))
        return best * (1 + 2 * SLACK)

    def rate_alone(self, option: int, count: int) -> float:
        """Return the highest rate that so many instances of one option serve. Raises TimeUpError."""
        fleet = np.zeros(len(self.most))
        fleet[option] = 1.0
        return count * self.rate(fleet)

    def with_idle(self, fleet: Floats, paid: Floats, rate_rps: float) -> Floats:
        """Return a fleet that serves a rate with what is paid for anyway standing by."""
        more: Floats = np.maximum(fleet, paid)
        return more

    @staticmethod
    def cheapest_for_all(
        mixes: Sequence[Served], rates_rps: Sequence[float], tariff: Tariff
    ) -> Cheapest | None:
        """Return the cheapest fleet that serves each mix at its rate, None where there is none.

        It keeps to each mix's rows at the level that is cheapest for that mix alone. Raises TimeUpError.
        """
        fleets = []
        for mix, rate in zip(mixes, rates_rps, strict=True):
            found = mix.cheapest(tariff, rate)
            if found is None:
                return None
            fleets.append(found.fleet)
        pairs = list(zip(mixes, rates_rps, strict=True))
        most = np.max([np.ceil(mix.most * rate) for mix, rate in pairs], axis=0)
        levels = [mix.level_of(fleet) for mix, fleet in zip(mixes, fleets, strict=True)]
        while True:
            known = sum(len(level.worths) for level in levels)
            worths = np.vstack(
                [level.worths / rate for level, rate in zip(levels, rates_rps, strict=True)]
            )
            joint = Covering(worths=worths, most=most).cheapest(tariff, np.inf, mixes[0].deadline)
            if joint is None:
                return None
            able = [
                level.rate(joint.fleet) >= rate * (1 - SLACK)
                for level, rate in zip(levels, rates_rps, strict=True)
            ]
            if all(able) or known == sum(len(level.worths) for level in levels):
                return joint

    def missed(self, fleet: Floats, rate_rps: float, prices: Floats) -> Floats:
        """Return worths that fleets serving a rate keep to and one in parts does not, (rows × options).

        One of them is along prices ≥ 0 of an instance. Raises TimeUpError.
        """
        rows = np.zeros((0, len(prices)))
        if prices.any():  # along the same prices the longest worth asks least
            rows = np.max([self._along(n, prices) for n in range(len(self.levels))], axis=0)[None]
        if len(self.levels) == 1:
            (level,) = self.levels
            if level.at_most(fleet) >= rate_rps:
                level.rate(fleet)
            closest = np.argsort(level.worths @ fleet, kind="stable")[:_MISSED_AT_ONCE]
            rows = np.vstack((rows, level.worths[closest]))
        missed: Floats = rows[rows @ fleet < rate_rps]
        return missed

    def level_of(self, fleet: Floats) -> RateCone:
        """Return the level at which a fleet serves most. Raises TimeUpError."""
        best = max(range(len(self.levels)), key=lambda n: self._of_level(n, fleet))
        return self.levels[best]

    def _of_level(self, n: int, fleet: Floats) -> float:
        key = fleet.tobytes()
        if key not in self._rates[n]:
            self._rates[n][key] = self.levels[n].rate(fleet)
        return self._rates[n][key]

    def cheapest(self, tariff: Tariff, rate: float, below: float = np.inf) -> Cheapest | None:
        """Return the fleet that serves the rate at least cost, all that is free with it.

        None where none does for less than `below`.

        Raises TimeUpError.
        """
        best: Cheapest | None = None
        bound = below
        for n in range(len(self.levels)):
            found = self._at_level(n, tariff, rate, below)
            if found is not None:
                bound = min(bound, found.bound)
                if found.cost < below:
                    best, below = found, found.cost
        if best is None:
            return None
        return replace(best, bound=min(bound, best.cost))

    def near(self, tariff: Tariff, rate: float) -> Cheapest | None:
        """Return a cheap fleet that serves a rate, as `cheapest` does: where that takes long, by less work."""
        return self.cheapest(tariff, rate)

    def least(self, prices: Floats, rate: float) -> Cheapest | None:
        """Return the cheapest fleet for a rate at prices ≥ 0 of an instance, None where its proof takes long.

        It takes long by the work, not by the clock. Raises InfeasibleError, TimeUpError.
        """
        tariff = Tariff(free=np.zeros(len(prices)), full=prices)
        try:
            found = [self._patient(n, tariff, rate) for n in range(len(self.levels))]
        except LongSearchError:
            return None
        able = [one for one in found if one is not None]
        if not able:
            raise InfeasibleError(f"no fleet serves {rate:g} req/s")
        best = min(able, key=lambda one: one.cost)
        return replace(best, bound=min(one.bound for one in able))

    def _patient(self, n: int, tariff: Tariff, rate: float) -> Cheapest | None:
        return self._covered(n, tariff, rate, np.inf, _PATIENCE)

    def _at_level(self, n: int, tariff: Tariff, rate: float, below: float) -> Cheapest | None:
        return self._covered(n, tariff, rate, below)

    def _covered(
        self, n: int, tariff: Tariff, rate: float, below: float, patience: int | None = None
    ) -> Cheapest | None:
        level, asked = self.levels[n], rate * (1 - SLACK)
        along = self._along(n, tariff.full)
        rows = self._closest(n, self._last[n])
        while True:
            worths = np.vstack((along, level.worths[rows])) / asked
            most = np.ceil(level.most * rate)
            covering = Covering(
                worths=worths,
                most=most,
                along=lambda price: self._along(n, price) / asked,
                patience=patience,
            )
            found = covering.cheapest(tariff, below, self.deadline)
            if found is None:
                return None
            self._last[n] = found.fleet
            known = len(level.worths)
            if level.at_most(found.fleet) >= asked * (1 - _ROUNDING):
                if self._of_level(n, found.fleet) >= asked * (1 - _ROUNDING):
                    return found
                if len(level.worths) > known:
                    rows = np.append(rows, known)
                    continue
            fresh = np.setdiff1d(self._closest(n, found.fleet), rows)
            if not len(fresh):  # within the solvers' tolerance of a row that it keeps
                return found
            rows = np.append(rows, fresh)

    def _along(self, n: int, prices: Floats) -> Floats:
        """Return the worth of a level along prices ≥ 0."""
        return self.levels[n].along(np.maximum(prices, 1e-9 * float(prices.max())))

    def _closest(self, n: int, fleet: Floats | None) -> NDArray[np.intp]:
        """Return the known rows of a level that a fleet misses most."""
        worths = self.levels[n].worths
        if fleet is None or len(worths) <= _ROWS_AT_ONCE:
            return np.arange(len(worths))[-_ROWS_AT_ONCE:]
        return np.argpartition(worths @ fleet, _ROWS_AT_ONCE)[:_ROWS_AT_ONCE]
