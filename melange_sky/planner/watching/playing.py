"""A fleet over time in a backtest: which replicas were started and stopped when, what they cost, how they did."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.planner.replay_loop.replay import engine_of
from melange_sky.planner.watching.target import target_plan
from melange_sky.planner.watching.traffic import BASE_S
from melange_sky.replay import FleetStep, Life, Rollout, replay_rollout, rollout_of
from melange_sky.slo import meets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.planner.watching.plan_fleets import PlanFleets
    from melange_sky.planner.watching.traffic import PlayedTraffic
    from melange_sky.plans import ModelPlan
    from melange_sky.watching.fleets import Counts

WARM_S = 120.0
STRETCH_S = 300.0
"""Stretches of so long are replayed, after `WARM_S` that do not count."""


class Fleet:
    """The changes of a fleet from time 0 on, with what becomes of each; `startup_s` by the order of the options."""

    def __init__(self, fleets: PlanFleets, startup_s: Sequence[float], first: Counts) -> None:
        """Begin with a fleet that serves at once."""
        self.fleets = fleets
        self.startup_s = dict(zip(fleets.options, startup_s, strict=True))
        self._plans: dict[Counts, ModelPlan] = {}
        self._steps: list[FleetStep] = []
        self.changes = -1
        self.change(0.0, first)

    def reckon(self, fleets: PlanFleets) -> None:
        """Share out what comes by other sizes, from the next change on."""
        if fleets is not self.fleets:
            self.fleets = fleets
            self._plans.clear()

    def change(self, at_s: float, fleet: Counts) -> None:
        """Begin a change: what is more starts, then what is too many stops."""
        self._steps.append(FleetStep(at_s=at_s, plan=self._plan(fleet), counts=self._named(fleet)))
        self.rollout = rollout_of(self._steps, self.startup_s)
        self.changes += 1

    def counts(self, at_s: float) -> tuple[dict[str, int], dict[str, int]]:
        """Return the replicas that serve and those that start at a time, by option."""
        live: dict[str, int] = {}
        starting: dict[str, int] = {}
        for life in self.rollout.lives:
            if life.ordered_s <= at_s < life.stops_s:
                kind = live if life.serves_s <= at_s else starting
                kind[life.option] = kind.get(life.option, 0) + 1
        return live, starting

    def usd(self, until_s: float) -> float:
        """Return what it is billed until a time, starts included; what is paid for anyway is not counted."""
        prices = dict(zip(self.fleets.options, self.fleets.prices, strict=True))
        billed = self.rollout.billed_s(until_s)
        paid = self._paid_usd(until_s)
        return sum(s / 3600 * prices[name] for name, s in billed.items()) - paid

    def _paid_usd(self, until_s: float) -> float:
        if not self.fleets.plan.constraints.fixed:
            return 0.0
        moments = sorted(
            {0.0, until_s}
            | {
                time
                for life in self.rollout.lives
                for time in (life.ordered_s, life.stops_s)
                if 0.0 < time < until_s
            }
        )
        prices = dict(zip(self.fleets.options, self.fleets.prices, strict=True))
        total = 0.0
        for begin, end in pairwise(moments):
            live, starting = self.counts(begin)
            fleet = tuple(live.get(n, 0) + starting.get(n, 0) for n in self.fleets.options)
            paid = self.fleets.paid(fleet)
            total += sum(n * prices[name] for name, n in paid.items()) * (end - begin) / 3600
        return total

    def _named(self, fleet: Counts) -> dict[str, int]:
        return {name: n for name, n in zip(self.fleets.options, fleet, strict=True) if n}

    def _plan(self, fleet: Counts) -> ModelPlan:
        if fleet not in self._plans:
            plan = target_plan(self.fleets, self._named(fleet), math.inf)
            (self._plans[fleet],) = plan.models
        return self._plans[fleet]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """How a fleet did: the fraction of requests within the SLO, of so many that were replayed in so many stretches."""

    attainment: float
    requests: int
    stretches: int
    whole: bool


def judged(fleet: Fleet, traffic: PlayedTraffic, most_requests: int, seed: int) -> Judged:
    """Replay the traffic through a fleet's changes: all of it, or evenly spread stretches of it."""
    slo = fleet.fleets.plan.models[0].slo
    if traffic.requests <= most_requests:
        run = replay_rollout(
            fleet.rollout, engine_of, traffic.between(0, len(traffic.counts)), seed
        )
        good = meets(run.log, slo)
        return Judged(attainment=float(good.mean()), requests=len(good), stretches=1, whole=True)
    parts, warm = round(STRETCH_S / BASE_S), round(WARM_S / BASE_S)
    wanted = most_requests / traffic.requests * len(traffic.counts) / parts
    number = max(1, round(wanted))
    starts = np.linspace(warm, len(traffic.counts) - parts, number + 2)[1:-1].astype(int)
    met = asked = 0.0
    for start in sorted(set(starts.tolist())):
        stream = traffic.between(start - warm, start + parts)
        begin_s = (start - warm) * BASE_S
        run = replay_rollout(shifted(fleet.rollout, begin_s), engine_of, stream, seed)
        counted = run.log.arrival_s >= WARM_S
        met += float(meets(run.log, slo)[counted].sum())
        asked += float(counted.sum())
    return Judged(
        attainment=met / max(asked, 1.0),
        requests=int(asked),
        stretches=len(set(starts.tolist())),
        whole=False,
    )


def shifted(rollout: Rollout, by_s: float) -> Rollout:
    """Return what is left of a rollout from a time on, times from there."""
    lives = tuple(
        Life(
            option=life.option,
            ordered_s=life.ordered_s - by_s,
            serves_s=max(life.serves_s - by_s, 0.0),
            stops_s=life.stops_s - by_s,
        )
        for life in rollout.lives
        if life.stops_s > by_s
    )
    times = [one.at_s for one in rollout.handovers]
    first = max(bisect_left(times, by_s + 1e-9) - 1, 0)
    handovers = tuple(
        replace(one, at_s=max(one.at_s - by_s, 0.0)) for one in rollout.handovers[first:]
    )
    return Rollout(lives=lives, handovers=handovers)
