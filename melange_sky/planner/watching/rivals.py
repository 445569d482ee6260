"""What a watched fleet is compared with: the peak's fleet all the time, SkyServe's own rule, perfect foresight."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.planner.watching.judging import Judged, judged
from melange_sky.planner.watching.playing import Fleet
from melange_sky.planner.watching.traffic import BASE_S
from melange_sky.reserve.chronology import cheapest_path
from melange_sky.watching.forecast import STEP_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from melange_sky.planner.watching.plan_fleets import PlanFleets
    from melange_sky.planner.watching.traffic import PlayedTraffic
    from melange_sky.watching.fleets import Counts

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

WINDOW_S, LOOK_S, UP_S, DOWN_S = 60.0, 20.0, 300.0, 1200.0
"""SkyServe's window of requests, its time between decisions, and how long it waits up and down by default
(`sky/serve/constants.py` of SkyPilot 0.14)."""

LEAST_FACTOR, HIGHEST_FACTOR, ROUNDS, BEST_ALONE = 0.4, 1.8, 7, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyRule:
    """SkyServe's request-rate autoscaler on one option, at one target of requests per second and replica.

    `usd_at_goal` is what it costs at just the attainment that was asked for, None where no target reaches it.
    """

    option: str
    target_rps: float
    usd: float
    judged: Judged
    changes: int
    usd_at_goal: float | None = None


def static_peak(
    fleets: PlanFleets, traffic: PlayedTraffic, startup_s: Sequence[float]
) -> Fleet | None:
    """Return the cheapest fleet for the highest five minutes, running all the time."""
    fleet = fleets.cheapest(float(five_minutes(traffic).max()))
    return None if fleet is None else Fleet(fleets, startup_s, fleet)


def five_minutes(traffic: PlayedTraffic) -> Floats:
    """Return the mean rate of every five minutes; what is left at the end counts to the last."""
    parts = round(STEP_S / BASE_S)
    whole = len(traffic.rates_rps) // parts * parts
    return np.asarray(traffic.rates_rps[:whole].reshape(-1, parts).mean(axis=1))


def perfect_usd(
    reckoned: Sequence[tuple[float, PlanFleets]],
    traffic: PlayedTraffic,
    startup_s: Sequence[float],
    known: Iterable[Counts | None] = (),
) -> float:
    """Return what a fleet costs that knows all five minutes beforehand, starts paid before they serve.

    The cheapest path through the cheapest fleets of all these rates, and `known` ones, as `bound --startup-s` has it.
    `reckoned`: from when on (seconds, rising from 0) which fleets hold for the sizes that came.
    """
    rates = five_minutes(traffic)
    begins = np.searchsorted(
        [at_s for at_s, _ in reckoned], np.arange(len(rates)) * STEP_S, "right"
    )
    fleets = reckoned[0][1]
    found = set(known)
    for number, (_, of_sizes) in enumerate(reckoned, 1):
        found |= {of_sizes.cheapest(rate) for rate in set(rates[begins == number].tolist())}
    frontier = sorted(fleet for fleet in found if fleet is not None and any(fleet))
    counts = np.array([[0] * len(fleets.options), *frontier], dtype=np.float64)
    able = np.array([[0.0, *map(of_sizes.rate, frontier)] for _, of_sizes in reckoned])
    usd = np.array([0.0, *(fleets.cost(fleet) for fleet in frontier)])
    costs = np.where(able[begins - 1] >= rates[:, None], usd[None] * STEP_S / 3600, np.inf)
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
    """Return SkyServe's rule on one option, at two targets of requests per replica.

    The first is on the option that serves the traffic alone for least, at the planned capacity of a replica, headroom
    kept: what anybody can set beforehand. The second is found afterwards, by halving on each of the best few options:
    the cheapest that reaches `goal`, None where none that was tried does. `replayed`: most requests and seed of a
    replay. Both None where no option serves all sizes alone.
    """
    tried = _Tried(fleets, traffic, startup_s, goal, replayed)
    options = _best_alone(fleets, five_minutes(traffic))[:BEST_ALONE]
    for option in options:
        tried.search(option)
    planned = tried.rule(options[0], 1.0) if options else None
    return planned, tried.best_at_goal()


class _Tried:
    """Targets that were tried, and the cheapest that reached the goal."""

    def __init__(
        self,
        fleets: PlanFleets,
        traffic: PlayedTraffic,
        startup_s: Sequence[float],
        goal: float,
        replayed: tuple[int, int],
    ) -> None:
        self._fleets, self._traffic, self._startup_s = fleets, traffic, startup_s
        self._goal, self._replayed = goal, replayed
        self._known: dict[tuple[int, float], SkyRule] = {}
        self._fleet_of: dict[tuple[int, float], tuple[float, Fleet]] = {}
        self.best: SkyRule | None = None

    def rule(self, option: int, factor: float) -> SkyRule:
        """Return how the rule does at so many times the planned capacity of an option's replica."""
        if (option, factor) not in self._known:
            target, fleet = self._played(option, factor)
            self._known[option, factor] = SkyRule(
                option=self._fleets.options[option],
                target_rps=target,
                usd=fleet.usd(self._traffic.seconds),
                judged=judged(fleet, self._traffic, *self._replayed),
                changes=fleet.changes,
            )
        return self._known[option, factor]

    def search(self, option: int) -> None:
        """Look for the highest factor that reaches the goal; what costs more than the best is not replayed."""
        low, high = LEAST_FACTOR, HIGHEST_FACTOR
        for turn in range(ROUNDS):
            factor = (low + high) / 2 if turn else 1.0
            if self._is_dearer(option, factor):
                low = factor
                continue
            found = self.rule(option, factor)
            if found.judged.attainment < self._goal:
                high = factor
                continue
            low = factor
            if self.best is None or found.usd < self.best.usd:
                self.best = found

    def best_at_goal(self) -> SkyRule | None:
        """Return the best with what it costs at just the goal: between it and what comes nearest below the goal."""
        best, goal = self.best, self._goal
        if best is None:
            return None
        short = [
            rule
            for rule in self._known.values()
            if rule.option == best.option and rule.judged.attainment < goal and rule.usd < best.usd
        ]
        if not short:
            return replace(best, usd_at_goal=best.usd)
        below = max(short, key=lambda rule: rule.judged.attainment)
        more, less = best.judged.attainment, below.judged.attainment
        part = (goal - less) / (more - less)
        return replace(best, usd_at_goal=below.usd + part * (best.usd - below.usd))

    def _is_dearer(self, option: int, factor: float) -> bool:
        if self.best is None:
            return False
        _, fleet = self._played(option, factor)
        return fleet.usd(self._traffic.seconds) >= self.best.usd

    def _played(self, option: int, factor: float) -> tuple[float, Fleet]:
        """Return the target in requests per second, and the fleet that the rule has at it."""
        if (option, factor) not in self._fleet_of:
            target = factor * _alone_rps(self._fleets, option)
            fleet = _by_rule(self._fleets, self._traffic, self._startup_s, option, target)
            self._fleet_of[option, factor] = target, fleet
        return self._fleet_of[option, factor]


def _best_alone(fleets: PlanFleets, rates_rps: Floats) -> list[int]:
    """Return the options that serve all sizes alone, those first of which as many as serve each rate cost least.

    Of several offers of one accelerator and count the cheapest stands for all.
    """
    found: dict[str, tuple[float, int]] = {}
    (model,) = fleets.plan.models
    shapes = {c.option.name: c.option.shape for c in model.candidates}
    for k, price in enumerate(fleets.prices):
        rate = _alone_rps(fleets, k)
        if rate > 0:
            usd = float(_at_least(fleets, np.ceil(rates_rps / rate)).sum()) * price
            shape = shapes[fleets.options[k]]
            found[shape] = min(found.get(shape, (math.inf, k)), (usd, k))
    return [k for _, k in sorted(found.values())]


def _alone_rps(fleets: PlanFleets, option: int) -> float:
    """Return what a replica of an option is planned for, in requests per second, beside any spare ones."""
    count = 1 + fleets.plan.constraints.spare
    return fleets.planned_rate(tuple(count * (k == option) for k in range(len(fleets.options))))


def _at_least(fleets: PlanFleets, wanted: Floats) -> Whole:
    """Return numbers of replicas as the plan's rules have them: the fewest that it allows, and spare ones."""
    rules = fleets.plan.constraints
    return np.maximum(wanted + rules.spare, max(rules.min_replicas, 1)).astype(np.int64)


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
    wanted = _at_least(fleets, np.maximum(np.ceil(sums / WINDOW_S / target_rps - 1e-9), 1))
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
