"""A fleet over time in a backtest: which replicas were started and stopped when, and what they cost."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from melange_sky.planner.watching.target import target_plan
from melange_sky.replay import FleetStep, rollout_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.planner.watching.plan_fleets import PlanFleets
    from melange_sky.plans import ModelPlan
    from melange_sky.watching.fleets import Counts

_ROUNDING = 1e-12
"""Sums of what is billed and of what of it is paid for differ by so much though they are the same."""


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

    def able_rps(self, at_s: float) -> float:
        """Return the highest rate that what serves at a time holds."""
        live, _ = self.counts(at_s)
        return self.fleets.rate(tuple(live.get(name, 0) for name in self.fleets.options))

    def usd(self, until_s: float) -> float:
        """Return what it is billed until a time, starts included; what is paid for anyway is not counted."""
        prices = dict(zip(self.fleets.options, self.fleets.prices, strict=True))
        billed = self.rollout.billed_s(until_s)
        paid = self._paid_usd(until_s)
        usd = sum(s / 3600 * prices[name] for name, s in billed.items())
        return usd - paid if usd - paid > _ROUNDING * usd else 0.0

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
