"""What several models share at prices: each model's own tariff, the fleets known for it, and what they come to together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.reserve.tariff import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.covering import Cheapest
    from melange_sky.reserve.linear_rules import LinearRules
    from melange_sky.reserve.serving import Served
    from melange_sky.reserve.tariff import Tariff

    Floats = NDArray[np.float64]

_MOST_JOINED = 64
"""So many fleets of one part per model at most."""

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """Prices of what ties models: of a unit of each pool (`margins`), and of what each limit counts (`limits`)."""

    margins: Floats
    limits: Floats

    @classmethod
    def none(cls, tariff: Tariff, rules: LinearRules) -> Shadow:
        """Return that limits cost nothing, and pools' units as much as renting does."""
        margins = np.array([float(pool.worths[0]) for pool in tariff.pools])
        return cls(margins=margins, limits=np.zeros(len(rules.upper)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ties:
    """The rules about instances of all models; `own`, (models × options), is 1 where an option is a model's.

    `counted` of the rules has one row per option.
    """

    rules: LinearRules
    own: Floats

    def line(self, tariff: Tariff, shadow: Shadow) -> tuple[float, list[Tariff]]:
        """Return a line below all costs at prices: a constant, and what each model's fleets cost by themselves."""
        rules = self.rules
        constant, price = tariff.cut(shadow.margins)
        bound = np.isfinite(rules.upper)
        constant -= float(shadow.limits[bound] @ rules.upper[bound])
        more = rules.counted @ shadow.limits
        free = [
            Step(purchase=-1, option=k, width=float(tariff.free[k]), price=float(more[k]))
            for k in np.flatnonzero((tariff.free > 0) & (more > 0)).tolist()
        ]
        steps = [
            *free,
            *(replace(s, price=max(s.price, 0.0) + more[s.option]) for s in tariff.steps),
        ]
        steps.sort(key=lambda step: step.price)
        left = np.where(more > 0, 0.0, tariff.free)
        apart = [
            replace(
                tariff,
                free=left * own,
                full=price + more,
                steps=tuple(step for step in steps if own[step.option]),
                pools=(),
            )
            for own in self.own
        ]
        return constant, apart

    def kept(self, fleets: Floats) -> NDArray[np.bool_]:
        """Return which of some fleets, (fleets × options), keep to the rows of the rules, (fleets)."""
        used, rules = fleets @ self.rules.counted, self.rules
        apart = (used > rules.upper + _ROUNDING) | (used < rules.lower - _ROUNDING)
        able: NDArray[np.bool_] = np.logical_not(np.any(apart, axis=1))
        return able

    def moved(self, shadow: Shadow, fleet: Floats, margins: Floats, room: float) -> Shadow:
        """Return prices nearer to those at which a fleet that was cheapest at the last keeps to what there is.

        Pools' go half way to its `margins`, what a unit is worth to it; limits' along what it counts beyond them, as
        far as raises the bound by `room` were it linear (Polyak 1969).
        """
        margins = (shadow.margins + margins) / 2
        beyond = self._beyond(fleet)
        square = float(beyond @ beyond)
        step = room / square if square > 0 else 0.0
        return Shadow(margins=margins, limits=np.maximum(shadow.limits + step * beyond, 0.0))

    def _beyond(self, fleet: Floats) -> Floats:
        """Return what a fleet counts beyond each upper end, below 0 where there is room, 0 without an end."""
        used = fleet @ self.rules.counted
        return np.where(np.isfinite(self.rules.upper), used - self.rules.upper, 0.0)


class Store:
    """The fleets known for one model, (fleets × options), the highest rates they serve, and where they are cheapest.

    The cheapest fleet at a rate is so at every higher one that it serves: `stairs` hold these rates for each tariff.
    """

    def __init__(self, model: Served, own: Floats) -> None:
        """Begin with none."""
        self._model, self._own = model, own
        self._at: dict[bytes, int] = {}
        self._fleets: list[Floats] = []
        self._rates: list[float] = []
        self._table: tuple[Floats, Floats] | None = None
        self._stairs: dict[tuple[object, ...], list[tuple[float, float, Cheapest]]] = {}

    def sought(self, tariff: Tariff, rate_rps: float) -> Cheapest | None:
        """Return the model's cheapest fleet at a tariff without pools, and keep it. Raises TimeUpError."""
        steps = tuple((s.option, s.width, s.price) for s in tariff.steps)
        key = (tariff.full.tobytes(), tariff.free.tobytes(), steps)
        return self._once(key, rate_rps, lambda: self._model.cheapest(tariff, rate_rps))

    def least(self, prices: Floats, rate_rps: float) -> Cheapest | None:
        """Return what `Served.least` does of the model, and keep the fleet. Raises TimeUpError."""
        return self._once(
            (prices.tobytes(),), rate_rps, lambda: self._model.least(prices, rate_rps)
        )

    def _once(
        self, key: tuple[object, ...], rate_rps: float, seek: Callable[[], Cheapest | None]
    ) -> Cheapest | None:
        stairs = self._stairs.setdefault(key, [])
        for low, high, found in stairs:
            if low <= rate_rps <= high:
                return found
        new = seek()
        if new is not None:
            self.learn(new.fleet)
            stairs.append((rate_rps, self.rate(new.fleet), new))
        return new

    def rate(self, fleet: Floats) -> float:
        """Return the highest rate of the model that its part of a fleet serves. Raises TimeUpError."""
        part = fleet * self._own
        key = part.tobytes()
        if key not in self._at:
            return self._model.rate(part)
        return self._rates[self._at[key]]

    def learn(self, fleet: Floats) -> None:
        """Keep the model's part of a fleet. Raises TimeUpError."""
        part = fleet * self._own
        key = part.tobytes()
        if key not in self._at:
            rate = self._model.rate(part)
            self._at[key] = len(self._fleets)
            self._fleets.append(part)
            self._rates.append(rate)
            self._table = None

    def able(self, rate_rps: float) -> Floats:
        """Return all that serve a rate, (fleets × options)."""
        if not self._fleets:
            return np.zeros((0, len(self._own)))
        if self._table is None:
            self._table = (np.array(self._fleets), np.array(self._rates))
        fleets, rates = self._table
        serving: Floats = fleets[rates >= rate_rps]
        return serving

    def cheapest(self, tariff: Tariff, rate_rps: float, few: int) -> Floats:
        """Return some fleets that serve a rate, the cheapest first, (fleets × options)."""
        able = self.able(rate_rps)
        order = np.argsort(tariff.cost(able), kind="stable")[:few]
        chosen: Floats = able[order]
        return chosen


def joined(parts: Sequence[Floats]) -> Floats:
    """Return fleets of one part per model, (fleets × options): that of the first parts before all others."""
    whole, *others = parts
    for part in others:
        whole = (whole[:, None] + part[None]).reshape(-1, whole.shape[1])[:_MOST_JOINED]
    return whole
