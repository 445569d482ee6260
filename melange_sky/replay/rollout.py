"""From steps to lives: which replica is started when, serves from when on, and stops when. Pure.

A step makes before it breaks, as `apply` and `schedule` do: what is more than before is started at once; once the
plan's own replicas serve the gateway takes it, and once all that is wanted does, what is too many ends its requests
and stops. A step that comes before the one before is through takes its place; what was started and is still wanted goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from melange_sky.plans import ModelPlan

REST_S = 600.0
"""A replica that stopped is simulated as another one again only after so long: by then its requests have ended."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FleetStep:
    """From `at_s` on `counts` replicas of each option are wanted, for a gateway that goes by `plan`.

    `counts` default to the plan's own. `plan` None with no counts: nothing is wanted. What the plan has and
    `counts` have not, or the other way round, is not routed to.
    """

    at_s: float
    plan: ModelPlan | None
    counts: Mapping[str, int] | None = None

    @property
    def wanted(self) -> dict[str, int]:
        """Replicas by option, none that is 0."""
        counts = self.counts
        if counts is None:
            counts = {} if self.plan is None else plan_counts(self.plan)
        return {option: count for option, count in counts.items() if count > 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One replica: started at `ordered_s`, serving from `serves_s` to `stops_s`, infinite where it goes on.

    One that stops before it serves was started in vain. It is billed from its start to its stop.
    """

    option: str
    ordered_s: float
    serves_s: float
    stops_s: float = math.inf

    @property
    def served(self) -> bool:
        """Whether it ever serves."""
        return self.stops_s > self.serves_s


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Handover:
    """From `at_s` on the gateway goes by `plan`."""

    at_s: float
    plan: ModelPlan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rollout:
    """All lives in the order of their starts, and which plan gateways go by from when on, the first from 0."""

    lives: tuple[Life, ...]
    handovers: tuple[Handover, ...]

    @property
    def starts(self) -> int:
        """How many replicas were started, those left out that run from the beginning."""
        return sum(life.serves_s > 0 or life.ordered_s > 0 for life in self.lives)

    def billed_s(self, until_s: float) -> dict[str, float]:
        """Return the replica-seconds of each option from 0 to `until_s`, starting up included."""
        billed: dict[str, float] = {}
        for life in self.lives:
            first, last = max(life.ordered_s, 0.0), min(life.stops_s, until_s)
            billed[life.option] = billed.get(life.option, 0.0) + max(last - first, 0.0)
        return billed

    def moments(self) -> list[float]:
        """Return the times at which a replica begins or ends to serve or the gateway takes a plan, rising."""
        times = {handover.at_s for handover in self.handovers}
        for life in self.lives:
            if life.served:
                times |= {life.serves_s, life.stops_s}
        return sorted(time for time in times if time < math.inf)

    def on_clock(self, clock: Callable[[float], float]) -> Rollout:
        """Return the same with every time put through `clock`, which must not fall."""
        lives = tuple(
            replace(
                life,
                ordered_s=clock(life.ordered_s),
                serves_s=clock(life.serves_s),
                stops_s=life.stops_s if life.stops_s == math.inf else clock(life.stops_s),
            )
            for life in self.lives
        )
        handovers = tuple(replace(one, at_s=clock(one.at_s)) for one in self.handovers)
        return Rollout(lives=lives, handovers=handovers)


def plan_counts(plan: ModelPlan) -> dict[str, int]:
    """Return a plan's replicas by option."""
    return {a.candidate.option.name: a.instances for a in plan.allocations}


def rollout_of(steps: Sequence[FleetStep], startup_s: float | Mapping[str, float]) -> Rollout:
    """Return what becomes of steps in the order of their times; what the first wants serves from the beginning.

    `startup_s`: seconds from starting a replica until it serves, of all options or by option. Raises ValueError
    where no step has a plan or times fall.
    """
    plans = [step.plan for step in steps if step.plan is not None]
    if not plans:
        raise ValueError("no step has a plan")
    moving = _Moving(startup_s=startup_s, lives=[], handovers=[Handover(at_s=0.0, plan=plans[0])])
    last_s = -math.inf
    for number, step in enumerate(steps):
        if step.at_s < last_s:
            raise ValueError("steps must not go back in time")
        last_s = step.at_s
        moving.take(step, serves_at_once=number == 0)
    return moving.ended()


@dataclass(slots=True, kw_only=True)
class _Moving:
    """What has been started so far. Of the `pending` step the gateway takes the plan once the plan's own replicas
    serve (`taken_s`), and what is too many stops once all that the step wants do (`ready_s`).
    """

    startup_s: float | Mapping[str, float]
    lives: list[Life]
    handovers: list[Handover]
    pending: FleetStep | None = None
    taken_s: float = 0.0
    ready_s: float = 0.0
    alive: dict[str, list[int]] = field(default_factory=dict)

    def take(self, step: FleetStep, *, serves_at_once: bool) -> None:
        """Begin a step; the one before is finished as far as it got."""
        self._finish(step.at_s)
        for option, count in step.wanted.items():
            alive = self.alive.setdefault(option, [])
            start_s = 0.0 if serves_at_once else self._startup_s(option)
            for _ in range(count - len(alive)):
                alive.append(len(self.lives))
                self.lives.append(
                    Life(option=option, ordered_s=step.at_s, serves_s=step.at_s + start_s)
                )
        own = {} if step.plan is None else plan_counts(step.plan)
        self.pending = step
        self.ready_s = self._all_serve_s(step.at_s, step.wanted)
        self.taken_s = self._all_serve_s(step.at_s, own)

    def ended(self) -> Rollout:
        """Finish the last step and return all."""
        self._finish(math.inf)
        return Rollout(lives=tuple(self.lives), handovers=tuple(self.handovers))

    def _startup_s(self, option: str) -> float:
        return self.startup_s if isinstance(self.startup_s, int | float) else self.startup_s[option]

    def _all_serve_s(self, at_s: float, counts: Mapping[str, int]) -> float:
        """Return when so many replicas of each option serve, as far as they were started."""
        numbers = [
            n for option, count in counts.items() for n in self.alive.get(option, [])[:count]
        ]
        return max([at_s, *(self.lives[n].serves_s for n in numbers)])

    def _finish(self, until_s: float) -> None:
        """Do what of the pending step is due by a time: give the gateway its plan, stop what is too many."""
        step = self.pending
        if step is None:
            return
        if self.taken_s <= until_s:
            self._hand_over(step)
        if self.ready_s > until_s:
            return
        for option, alive in self.alive.items():
            count = step.wanted.get(option, 0)
            for number in alive[count:]:
                self.lives[number] = replace(self.lives[number], stops_s=self.ready_s)
            del alive[count:]

    def _hand_over(self, step: FleetStep) -> None:
        """Give the gateway a step's plan; one that it had for no time at all is left out."""
        if step.plan is None or step.plan is self.handovers[-1].plan:
            return
        if self.taken_s <= self.handovers[-1].at_s:
            self.handovers.pop()
        self.handovers.append(Handover(at_s=max(self.taken_s, 0.0), plan=step.plan))
