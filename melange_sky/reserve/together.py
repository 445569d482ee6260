"""The fleets that serve several models: each model's own fleets, and the rules and payments that tie them.

A fleet serves a rate where each model's part of it serves that model's part of the rate and the whole keeps to the
rules that span models. At given prices of what ties them (units that several may draw on, limits) each model's
cheapest fleet is its own affair, and their sum is a bound (Lagrange); such fleets together are answers. What that
leaves open one program of all models closes (`ruled_program.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from melange_sky.optimizer.deadline import NEVER, Deadline
from melange_sky.reserve.covering import Cheapest
from melange_sky.reserve.serving import Served
from melange_sky.reserve.shared import Shadow, Store, Ties, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.ruled import RuledServed
    from melange_sky.reserve.tariff import Bill, Tariff

    Floats = NDArray[np.float64]

_SAME = 1e-9
"""Costs that differ by no more of the whole are the same."""

_FEW = 4
"""So many known fleets of each model are tried together."""

_LOOKS, _ROUNDS = 4, 8
"""Prices of what ties models are moved so often, among known fleets and where each model's cheapest is sought anew."""

_GUESS = 0.05
"""Prices are moved as if the best fleet cost no more than this part above the bound."""


class Models:
    """The models whose fleets stand together, with what ties them and the fleets known for each.

    `whole` makes one program of all models at their parts of the rate, None where it would not hold all combinations
    of attainment levels.
    """

    def __init__(
        self,
        alone: Sequence[Served],
        ties: Ties,
        whole: Callable[[tuple[float, ...]], RuledServed] | None,
    ) -> None:
        """Take each model's fleets alone."""
        self.alone, self.ties = alone, ties
        self.stores = [Store(m, own) for m, own in zip(alone, ties.own, strict=True)]
        self._whole = whole
        self._made: dict[tuple[float, ...], RuledServed] = {}
        self._last: tuple[bytes, tuple[float, ...]] = (b"", ())

    def until(self, deadline: Deadline) -> None:
        """Hold all that is asked from now on to a deadline."""
        for model in (*self.alone, *self._made.values()):
            model.until(deadline)

    def rates(self, fleet: Floats) -> tuple[float, ...]:
        """Return the highest rate of each model that a fleet serves, 0 where it breaks a rule. Raises TimeUpError."""
        key = fleet.tobytes()
        if key != self._last[0]:
            rates = tuple(store.rate(fleet) for store in self.stores)
            if not self.ties.kept(np.round(fleet)[None])[0]:
                rates = (0.0,) * len(rates)
            self._last = (key, rates)
        return self._last[1]

    def whole(self, shares: tuple[float, ...], deadline: Deadline) -> RuledServed | None:
        """Return the program of all models at parts of the rate, made once; None where there is none."""
        if self._whole is None:
            return None
        if shares not in self._made:
            self._made[shares] = self._whole(shares)
        self._made[shares].until(deadline)
        return self._made[shares]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The best fleet so far, and what none costs less than."""

    best: Cheapest | None = None
    bound: float = -np.inf

    @property
    def cost(self) -> float:
        """What the best costs, inf for none."""
        return np.inf if self.best is None else self.best.cost

    @property
    def room(self) -> float:
        """How far the bound may still rise; a part of what is known where that is one of both."""
        if self.best is None:
            return _GUESS * abs(self.bound) if np.isfinite(self.bound) else 0.0
        return max(self.cost - max(self.bound, self.cost * (1 - _GUESS)), 0.0)

    def raised(self, bound: float, best: Cheapest | None) -> _Found:
        """Return what is known with another bound and another fleet."""
        kept = self.best if best is None or best.cost >= self.cost else best
        return _Found(best=kept, bound=max(self.bound, bound))


class Together(Served):
    """The fleets that serve several models, each its part of the rate. Arrays have one place per option."""

    def __init__(self, models: Models, shares: Sequence[float], deadline: Deadline = NEVER) -> None:
        """Take the models and the part of the rate of each."""
        self._models, self._shares = models, np.array(shares)
        self.deadline = deadline

    def in_shares(self, shares: Sequence[float]) -> Together:
        """Return the same models at other parts of the rate; what is known of their fleets is known to both."""
        return Together(self._models, shares, self.deadline)

    def until(self, deadline: Deadline) -> None:
        """Hold all that is asked from now on to a deadline."""
        self.deadline = deadline
        self._models.until(deadline)

    @property
    def parts(self) -> list[tuple[Served, float]]:
        """The models' own fleets and their parts of the rate."""
        return list(zip(self._models.alone, self._shares.tolist(), strict=True))

    @property
    def ties(self) -> Ties:
        """What ties the models."""
        return self._models.ties

    @property
    def most(self) -> Floats:
        """Instances of each option that any hour has use for, at 1 req/s of the highest rate, (options)."""
        most: Floats = np.sum([model.most * share for model, share in self.parts], axis=0)
        return most

    def rate(self, fleet: Floats) -> float:
        """Return the highest rate in req/s that a fleet serves by the rules. Raises TimeUpError."""
        pairs = zip(self._models.rates(fleet), self._shares.tolist(), strict=True)
        rate: float = min(own / share for own, share in pairs if share > 0)
        return rate

    def rate_alone(self, option: int, count: int) -> float:
        """Return the highest rate that so many instances of one option serve by the rules. Raises TimeUpError."""
        fleet = np.zeros(len(self.most))
        fleet[option] = count
        return self.rate(fleet)

    def with_idle(self, fleet: Floats, paid: Floats, rate_rps: float) -> Floats:
        """Return a fleet that serves a rate with what is paid for anyway standing by, where the rules let it."""
        rules, more = self.ties.rules, np.array(fleet)
        for k in np.flatnonzero(paid > fleet).tolist():
            more[k] += min(paid[k] - more[k], rules.room(more, k))
        return more

    @staticmethod
    def cheapest_for_all(
        mixes: Sequence[Served], rates_rps: Sequence[float], tariff: Tariff
    ) -> Cheapest | None:
        """Return the cheapest fleet that serves each mix at its rate by the rules, None where there is none.

        That is each model at its highest. Raises TimeUpError.
        """
        rates = np.array(
            [
                [rate * share for _, share in mix.parts]
                for mix, rate in zip(mixes, rates_rps, strict=True)
            ]
        ).max(axis=0)
        (first, *_) = mixes
        assert isinstance(first, Together)
        peak = Together(first._models, rates / rates.sum(), first.deadline)
        return peak.cheapest(tariff, float(rates.sum()))

    def store(self, part: int) -> Store:
        """Return what is known of one of the models' fleets."""
        return self._models.stores[part]

    def known(self, part: int, rate: float) -> Floats:
        """Return the fleets known for one of the models that serve its part of a rate, (fleets × options)."""
        return self._models.stores[part].able(rate * float(self._shares[part]))

    def near_prices(self, tariff: Tariff, rate: float) -> Floats:
        """Return known fleets that serve a rate by the rules, near the cheapest at prices alone, (fleets × options)."""
        own = [replace(tariff, full=tariff.full * mine) for mine in self.ties.own]
        lists, _ = _Known(self._models.stores).cheapest(own, rate * self._shares)
        if lists is None:
            return np.zeros((0, len(tariff.full)))
        fleets = joined(lists)
        kept: Floats = fleets[self.ties.kept(fleets)]
        return kept

    def near(self, tariff: Tariff, rate: float) -> Cheapest | None:
        """Return a cheap fleet among those known of each model, sought anew where there is none.

        None where none is found. Raises TimeUpError.
        """
        found = _Found()
        if tariff.pools:
            found = self._at_prices(tariff, rate, _Known(self._models.stores))
        if found.best is None:
            found = self._at_prices(tariff, rate, _Anew(self._models))
        return found.best or self.cheapest(tariff, rate)

    def cheapest(self, tariff: Tariff, rate: float, below: float = np.inf) -> Cheapest | None:
        """Return the fleet that serves the rate at least cost, None where none does for less than `below`.

        Raises TimeUpError.
        """
        found = self._at_prices(tariff, rate, _Anew(self._models), below)
        best, bound = found.best, found.bound
        if bound >= below:
            return None
        if best is not None and best.cost >= below:
            best = None
        if best is not None and bound >= best.cost - _SAME * max(1.0, abs(best.cost)):
            return replace(best, bound=best.cost)
        whole = self._models.whole(tuple(self._shares.tolist()), self.deadline)
        if whole is None:
            return best and replace(best, bound=bound)
        exact = whole.cheapest(tariff, rate, below if best is None else best.cost)
        return exact or (best and replace(best, bound=best.cost))

    def _at_prices(self, tariff: Tariff, rate: float, seek: _Seek, below: float = np.inf) -> _Found:
        """Return the best fleet of each model's cheapest at prices of what ties them, which are moved as these tell.

        With what no fleet costs less than: inf where some model has none. Raises TimeUpError.
        """
        ties, found = self.ties, _Found()
        shadow = Shadow.none(tariff, ties.rules)
        for _ in range(seek.rounds):
            constant, own = ties.line(tariff, shadow)
            lists, least = seek.cheapest(own, rate * self._shares)
            if lists is None:
                return replace(found, bound=np.inf) if seek.is_sure else found
            fleets = joined(lists)
            bill = tariff.bill(fleets)
            found = found.raised(constant + least, _best_of(tariff, fleets, bill, ties))
            if found.bound >= min(found.cost * (1 - _SAME), below):
                break
            shadow = ties.moved(shadow, fleets[0], bill.margins[0], found.room)
        return found


def _best_of(tariff: Tariff, fleets: Floats, bill: Bill, ties: Ties) -> Cheapest | None:
    """Return the cheapest of some fleets that keeps to the rules, None where none does."""
    costs = np.where(ties.kept(fleets), tariff.total(bill), np.inf)
    n = int(costs.argmin())
    if not np.isfinite(costs[n]):
        return None
    return Cheapest(fleet=fleets[n], cost=float(costs[n]), bound=-np.inf, bill=bill.of(n))


class _Seek(Protocol):
    """A way to find each model's cheapest fleets at its own tariff, at its rate in req/s."""

    rounds: int
    is_sure: bool

    def cheapest(
        self, own: Sequence[Tariff], rates_rps: Floats
    ) -> tuple[list[Floats] | None, float]:
        """Return lists of fleets, cheapest first, and what they cost at least in sum; None where a model has none."""


class _Known:
    """Among the fleets known of each model; what they cost is no bound."""

    rounds, is_sure = _LOOKS, False

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = stores

    def cheapest(
        self, own: Sequence[Tariff], rates_rps: Floats
    ) -> tuple[list[Floats] | None, float]:
        """Return a few of each model."""
        lists = []
        for store, tariff, rate in zip(self._stores, own, rates_rps.tolist(), strict=True):
            few = (
                store.cheapest(tariff, rate, _FEW) if rate > 0 else np.zeros((1, len(tariff.full)))
            )
            if not len(few):
                return None, -np.inf
            lists.append(few)
        return lists, -np.inf


class _Anew:
    """Each model's cheapest of all, kept among its known ones."""

    rounds, is_sure = _ROUNDS, True

    def __init__(self, models: Models) -> None:
        self._models, self._known = models, _Known(models.stores)

    def cheapest(
        self, own: Sequence[Tariff], rates_rps: Floats
    ) -> tuple[list[Floats] | None, float]:
        """Return the cheapest of each model with what is known beside it."""
        least = 0.0
        triples = zip(self._models.stores, own, rates_rps.tolist(), strict=True)
        for store, tariff, rate in triples:
            if rate <= 0:
                continue
            found = store.sought(tariff, rate)
            if found is None:
                return None, np.inf
            least += found.bound
        lists, _ = self._known.cheapest(own, rates_rps)
        return lists, least
