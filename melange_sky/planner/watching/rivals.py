"""What a watched fleet is compared with: the peak's fleet all the time, SkyServe's own rule, perfect foresight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.planner.watching.playing import Fleet, Judged, judged
from melange_sky.planner.watching.traffic import BASE_S
from melange_sky.reserve.chronology import cheapest_path
from melange_sky.watching.forecast import STEP_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from melange_sky.planner.watching.plan_fleets import PlanFleets
    from melange_sky.planner.watching.traffic import PlayedTraffic
    from melange_sky.watching.fleets import Counts

WINDOW_S, LOOK_S, UP_S, DOWN_S = 60.0, 20.0, 300.0, 1200.0
"""SkyServe's window of requests, its time between decisions, and how long it waits up and down by default
(`sky/serve/constants.py` of SkyPilot 0.14)."""

LEAST_FACTOR, HIGHEST_FACTOR, ROUNDS = 0.4, 1.5, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyRule:
    """SkyServe's request-rate autoscaler on one option, at one target of requests per second and replica."""

    option: str
    target_rps: float
    usd: float
    judged: Judged
    changes: int


def static_peak(
    fleets: PlanFleets, traffic: PlayedTraffic, startup_s: Sequence[float]
) -> Fleet | None:
    """Return the cheapest fleet for the highest five minutes, running all the time."""
    fleet = fleets.cheapest(float(five_minutes(traffic).max()))
    return None if fleet is None else Fleet(fleets, startup_s, fleet)


def five_minutes(traffic: PlayedTraffic) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the mean rate of every five minutes; what is left at the end counts to the last."""
    parts = round(STEP_S / BASE_S)
    whole = len(traffic.rates_rps) // parts * parts
    return np.asarray(traffic.rates_rps[:whole].reshape(-1, parts).mean(axis=1))


def perfect_usd(
    fleets: PlanFleets,
    traffic: PlayedTraffic,
    startup_s: Sequence[float],
    known: Iterable[Counts] = (),
) -> float:
    """Return what a fleet costs that knows all five minutes beforehand, starts paid before they serve.

    The cheapest path through the cheapest fleets of all these rates, and `known` ones, as `bound --startup-s` has it.
    """
    rates = five_minutes(traffic)
    found = {fleets.cheapest(rate) for rate in rates.tolist()} | set(known)
    frontier = sorted(fleet for fleet in found if fleet is not None and any(fleet))
    counts = np.array([[0] * len(fleets.options), *frontier], dtype=np.float64)
    able = np.array([0.0, *(fleets.rate(fleet) for fleet in frontier)])
    usd = np.array([0.0, *(fleets.cost(fleet) for fleet in frontier)])
    costs = np.where(able[None] >= rates[:, None], usd[None] * STEP_S / 3600, np.inf)
    prices = np.array(fleets.prices) * np.array(startup_s) / 3600
    starts = np.maximum(counts[None] - counts[:, None], 0.0) @ prices
    first = np.zeros_like(starts)  # what runs at the beginning serves at once
    moved = iter([first])
    path = cheapest_path(counts, costs, lambda _period: next(moved, starts), 0)
    return float(path.cost_usd)


def sky_rules(
    fleets: PlanFleets,
    traffic: PlayedTraffic,
    startup_s: Sequence[float],
    goal: float,
    replayed: tuple[int, int],
) -> tuple[SkyRule | None, SkyRule | None]:
    """Return SkyServe's rule on the option that serves the traffic alone for least, at two targets per replica.

    The first is the planned capacity, headroom kept: what anybody can set beforehand, and what a watcher goes by.
    The second is found afterwards, by halving: the highest that reaches `goal`, None where none that was tried
    does. `replayed`: most requests and seed of a replay. Both None where no option serves all sizes alone.
    """
    option = _best_alone(fleets, five_minutes(traffic))
    if option is None:
        return None, None
    one = tuple(int(k == option) for k in range(len(fleets.options)))
    alone = fleets.rate(one)

    def played(factor: float) -> SkyRule:
        fleet = _by_rule(fleets, traffic, startup_s, option, alone * factor)
        return SkyRule(
            option=fleets.options[option],
            target_rps=alone * factor,
            usd=fleet.usd(traffic.seconds),
            judged=judged(fleet, traffic, *replayed),
            changes=fleet.changes,
        )

    planned = played(1.0)
    best: SkyRule | None = planned if planned.judged.attainment >= goal else None
    low, high = (1.0, HIGHEST_FACTOR) if best else (LEAST_FACTOR, 1.0)
    for _ in range(ROUNDS):
        factor = (low + high) / 2
        found = played(factor)
        if found.judged.attainment < goal:
            high = factor
            continue
        low = factor
        if best is None or found.usd < best.usd:
            best = found
    return planned, best


def _best_alone(
    fleets: PlanFleets, rates_rps: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> int | None:
    """Return the option of which as many as serve each rate cost least, None where none serves all sizes."""
    best, least = None, math.inf
    for k, price in enumerate(fleets.prices):
        rate = fleets.rate(tuple(int(j == k) for j in range(len(fleets.options))))
        if rate <= 0:
            continue
        usd = float(np.maximum(np.ceil(rates_rps / rate), 1).sum()) * price
        if usd < least:
            best, least = k, usd
    return best


def _by_rule(
    fleets: PlanFleets,
    traffic: PlayedTraffic,
    startup_s: Sequence[float],
    option: int,
    target_rps: float,
) -> Fleet:
    """Return the fleet that SkyServe's `RequestRateAutoscaler` makes of the traffic.

    The wanted number is requests of the last minute ÷ 60 ÷ target, rounded up; it is taken once it stood above
    the last one, or below, at as many looks in a row as fill the delay (`sky/serve/autoscalers.py`).
    """

    def of(count: int) -> Counts:
        return tuple(count if k == option else 0 for k in range(len(fleets.options)))

    counts = traffic.counts
    window = round(WINDOW_S / BASE_S)
    sums = np.convolve(counts, np.ones(window), "full")[: len(counts)]
    wanted = np.maximum(np.ceil(sums / WINDOW_S / target_rps - 1e-9), 1).astype(int)
    now = int(wanted[window])
    fleet = Fleet(fleets, startup_s, of(now))
    up = down = 0
    for look, number in enumerate(wanted.tolist()):
        if look < window:
            continue
        up, down = (up + 1 if number > now else 0), (down + 1 if number < now else 0)
        if up >= UP_S / LOOK_S or down >= DOWN_S / LOOK_S:
            now, up, down = number, 0, 0
            fleet.change((look + 1) * BASE_S, of(now))
    return fleet
