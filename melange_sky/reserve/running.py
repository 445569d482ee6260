"""The fleets that run beside a purchase, period by period, and what they and their starts cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.reserve.chronology import cheapest_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.reserve.search import Search
    from melange_sky.reserve.tariff import Tariff

    Floats = NDArray[np.float64]

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One scenario beside a purchase. `fleets` is (periods × options), `cost_usd` all, the purchase with it."""

    fleets: Floats
    cost_usd: float


def run_beside(search: Search, units: Floats, scenario: int) -> Running:
    """Return the cheapest fleets of a scenario's periods beside a purchase, start-up and minimum run kept.

    Where the search's time is up, the cheapest found so far. Raises InfeasibleError.
    """
    free = search.settled(units)[scenario]  # and the cheapest fleets are known
    question = search.market.question
    fleets = np.zeros((question.periods, len(question.options)))
    for group in search.market.groups:
        if group.scenario == scenario:
            fleets[group.periods] = search.known.running(search.market, units, group)
    bought = float(search.market.usd @ units)
    if question.startup_hours <= 0 and question.min_run_hours <= question.hours_each:
        return Running(fleets=fleets, cost_usd=float(free))
    frontier = np.unique(np.vstack((np.zeros((1, fleets.shape[1])), fleets)), axis=0)
    tariffs = search.market.tariffs_by_period(units, scenario)
    costs = _costs(search, scenario, frontier, tariffs)
    starts = _Starts(frontier, tariffs, question.startup_hours)
    least = math.ceil(question.min_run_hours / question.hours_each - _ROUNDING)
    path = cheapest_path(frontier, costs, starts.at, least)
    return Running(fleets=frontier[path.places], cost_usd=bought + path.cost_usd)


def _costs(search: Search, scenario: int, frontier: Floats, tariffs: list[Tariff]) -> Floats:
    """Return what fleets cost in every period, (periods × fleets), inf where one does not serve."""
    question = search.market.question
    known_rates = [search.known.rates_of(search.known.learn(fleet)) for fleet in frontier[1:]]
    rates = np.vstack((np.zeros(len(question.mixes)), *known_rates)).T  # the first is no fleet
    asked = question.scenarios[scenario].rate_rps
    costs = np.empty((question.periods, len(frontier)))
    known: dict[int, Floats] = {}
    for t, tariff in enumerate(tariffs):
        if id(tariff) not in known:
            known[id(tariff)] = tariff.cost(frontier) * question.hours_each
        costs[t] = np.where(rates[question.mix[t]] >= asked[t], known[id(tariff)], np.inf)
    return costs


class _Starts:
    """What it costs to come from one fleet to another: the start-up of what is rented and did not run before."""

    def __init__(self, frontier: Floats, tariffs: list[Tariff], hours: float) -> None:
        self._frontier, self._tariffs, self._hours = frontier, tariffs, hours
        self._known: dict[int, Floats] = {}

    def at(self, period: int) -> Floats:
        """Return the costs in a period, (from × to)."""
        tariff = self._tariffs[period]
        if id(tariff) not in self._known:
            rented = tariff.bill(self._frontier).rest
            cost = np.zeros((len(rented), len(rented)))
            for k, price in enumerate(tariff.full.tolist()):
                counts = self._frontier[:, k]
                started = np.maximum(counts[None] - counts[:, None], 0.0)
                cost += np.minimum(started, rented[:, k][None]) * price
            self._known[id(tariff)] = cost * self._hours
        return self._known[id(tariff)]


def covered(search: Search, units: Floats, running: Running) -> Floats:
    """Return what of the base case's fleets owned and bought units pay for, (periods × options)."""
    tariffs = search.market.tariffs_by_period(units, 0)
    paid = np.zeros_like(running.fleets)
    for t, tariff in enumerate(tariffs):
        paid[t] = running.fleets[t] - tariff.bill(running.fleets[t][None]).rest[0]
    return paid


def used_fractions(search: Search, units: Floats, runs: list[Running]) -> Floats:
    """Return how far each purchase's units are needed while they count, (purchases), nan without units.

    By the scenarios' weights. Free units that a period could do without are not needed there. Raises TimeUpError.
    """
    market, question = search.market, search.market.question
    used = np.zeros(len(units))
    for s, running in enumerate(runs):
        lean: dict[tuple[bytes, int], _Lean] = {}
        tariffs = market.tariffs_by_period(units, s)
        for t in np.flatnonzero(question.scenarios[s].rate_rps > 0).tolist():
            fleet, mix = running.fleets[t], int(question.mix[t])
            key = (fleet.tobytes(), id(tariffs[t]))
            if key not in lean:
                lean[key] = _Lean(search, mix, tariffs[t], fleet)
            needed = lean[key].at(float(question.scenarios[s].rate_rps[t]))
            for k, amount in tariffs[t].used(needed).items():
                used[k] += amount * market.weights[s]
    hours = units * market.active.sum(axis=1)
    fractions: Floats = np.full(len(used), np.nan)
    np.divide(used, hours, out=fractions, where=hours > 0)
    return fractions


class _Lean:
    """A fleet without free units, one at a time, each time that which leaves the highest rate."""

    def __init__(self, search: Search, mix: int, tariff: Tariff, fleet: Floats) -> None:
        served = search.market.question.mixes[mix]
        free = np.minimum(tariff.base, fleet)
        self._fleets, self._rates = [fleet], [np.inf]
        while free.any():
            ways = []
            for k in np.flatnonzero(free).tolist():
                fewer = self._fleets[-1].copy()
                fewer[k] -= 1
                ways.append((served.rate(fewer), k, fewer))
            rate, k, fewer = max(ways, key=lambda way: way[:2])
            free[k] -= 1
            self._fleets.append(fewer)
            self._rates.append(rate)

    def at(self, rate_rps: float) -> Floats:
        """Return the least of them that serves a rate."""
        able = [n for n, rate in enumerate(self._rates) if rate >= rate_rps]
        return self._fleets[able[-1]]
