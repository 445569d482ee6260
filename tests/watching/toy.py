"""Fleets whose answers can be reckoned by hand, and a watcher over rates that are made up."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from melange_sky.planner.watching.ticking import Tick, Watcher
from melange_sky.watching.decide import Rules
from melange_sky.watching.fleets import NOTHING, Counts
from melange_sky.watching.provisioning import StartUps
from melange_sky.watching.seen import Seen


class ToyFleets:
    """Options by name with (USD per hour, requests per second); what any fleet serves adds up.

    Of each option so many replicas as `paid` has cost nothing.
    """

    def __init__(
        self, most: int = 12, paid: Counts | None = None, **options: tuple[float, float]
    ) -> None:
        self.options = tuple(options)
        self.prices = tuple(price for price, _ in options.values())
        self._rates = tuple(rate for _, rate in options.values())
        self._most = most
        self._paid = paid or tuple(0 for _ in options)
        self._known: dict[Any, Counts | None] = {}

    def rate(self, fleet: Counts) -> float:
        return sum(n * rate for n, rate in zip(fleet, self._rates, strict=True))

    @property
    def shares(self) -> Any:
        return np.ones((1, 1))

    def loads(self) -> dict[str, Any]:
        return {n: np.full((1, 1), 1 / r) for n, r in zip(self.options, self._rates, strict=True)}

    def of_mix(self, _shares: Any) -> ToyFleets:
        return self

    def origin(self, fleet: Counts) -> str:
        return "planned"

    def cost(self, fleet: Counts) -> float:
        rows = zip(fleet, self.kept(fleet), self.prices, strict=True)
        return sum((n - kept) * price for n, kept, price in rows)

    def kept(self, fleet: Counts) -> Counts:
        return tuple(min(n, paid) for n, paid in zip(fleet, self._paid, strict=True))

    def cheapest(self, rate_rps: float, without: frozenset[str] = NOTHING) -> Counts | None:
        return self.grown(tuple(0 for _ in self.options), rate_rps, without)

    def grown(
        self, fleet: Counts, rate_rps: float, without: frozenset[str] = NOTHING
    ) -> Counts | None:
        key = fleet, math.ceil(rate_rps * 4) / 4, without
        if key not in self._known:
            self._known[key] = self._grown(*key)
        return self._known[key]

    def _grown(self, fleet: Counts, rate_rps: float, without: frozenset[str]) -> Counts | None:
        most = [0 if name in without else self._most for name in self.options]
        added = itertools.product(*(range(n + 1) for n in most))
        ways = (tuple(a + b for a, b in zip(fleet, more, strict=True)) for more in added)
        able = [way for way in ways if self.rate(way) >= rate_rps]
        return min(able, key=lambda way: (self.cost(way), sum(way), way), default=None)

    def shrunk(self, fleet: Counts, rate_rps: float) -> Counts | None:
        key = fleet, math.ceil(rate_rps * 4) / 4
        if key not in self._known:
            self._known[key] = self._shrunk(*key)
        return self._known[key]

    def _shrunk(self, fleet: Counts, rate_rps: float) -> Counts | None:
        kept = self.kept(fleet)
        ways = itertools.product(*(range(k, n + 1) for n, k in zip(fleet, kept, strict=True)))
        able = [way for way in ways if self.rate(way) >= rate_rps]
        return min(able, key=lambda way: (self.cost(way), way), default=None)


FLEETS = ToyFleets(small=(1.0, 5.0), large=(1.7, 10.0))


def watcher(
    rules: Rules, startup_s: float = 600.0, every_s: float = 60.0, **over: Any
) -> Watcher[Any]:
    fleets: Any = over.get("fleets", FLEETS)
    return Watcher(fleets, StartUps(given_s=startup_s), rules, every_s)


def followed(
    one: Watcher[Any], rates: Iterable[float], first: dict[str, int], startup_s: float = 600.0
) -> Iterator[Tick]:
    """Look at each rate, a minute apart; what is decided starts at once, and stops what it replaces once all serves."""
    live, starts, target = dict(first), list[tuple[float, str]](), dict(first)
    for number, rate in enumerate(rates):
        now = 1_790_000_000.0 + 60 * number
        for _, name in [start for start in starts if start[0] <= now]:
            live[name] = live.get(name, 0) + 1
        starts = [start for start in starts if start[0] > now]
        if not starts:
            live = {name: min(n, target.get(name, 0)) for name, n in live.items()}
            live = {name: n for name, n in live.items() if n}
        starting = dict(Counter(name for _, name in starts))
        tick = one.tick(Seen(time=now, rate_rps=rate, live=dict(live), starting=starting))
        if tick.decision.verb == "apply" and tick.decision.target is not None:
            target = dict(tick.decision.target)
            for name in {*target, *starting}:
                more = target.get(name, 0) - live.get(name, 0) - starting.get(name, 0)
                starts += [(now + startup_s, name)] * more
                of_name = [start for start in starts if start[1] == name]
                for start in of_name[len(of_name) + min(more, 0) :]:
                    starts.remove(start)
        yield tick


def actions(ticks: Iterable[Tick]) -> list[tuple[int, str]]:
    return [(n, t.decision.reason) for n, t in enumerate(ticks) if t.decision.verb == "apply"]


def poisson_like(mean: float, noise: float, count: int, rng: Any) -> list[float]:
    return [max(0.0, mean * (1 + noise * rng.uniform(-1, 1))) for _ in range(count)]
