"""The demand in one run, as `schedule` would carry it out: fleets grow ahead, switch and shrink under the traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.planner.replay_loop.replay import NO_AFFINITY, engine_of, shared_stream
from melange_sky.planner.timetable import TICK_S, Timetable, cycle_of
from melange_sky.replay import (
    FleetStep,
    Traffic,
    plan_counts,
    replay_rollout,
    rollout_of,
    sample_stream,
)
from melange_sky.simulator import RequestStream
from melange_sky.slo import meets

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.plans import ModelPlan
    from melange_sky.replay import Rollout

    Floats = NDArray[np.float64]

ZERO = datetime(2000, 1, 3, tzinfo=timezone.utc)
LONGEST_S = 14 * 86_400.0
"""Of a longer demand the week with the most requests is replayed."""

MOST_REQUESTS = 1_500_000
MOST_SHARING = 150_000
"""Where prompts share: to sample what they share takes longer than the replay itself."""

MOST_AT_ALL = 2
"""So many times as many where the least that is to be replayed of every change takes as much."""

CHANGES_A_STEP = 3
"""In a step as a rule: the rate, what serves, the gateway's plan."""

SHORTEST_S, LEAST_S = 120.0, 30.0
"""After every change so long is replayed in full, and of the rest at least so long, as `MOST_REQUESTS` allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneRun:
    """Steps of the demand in one run, with replicas that take `startup_s` to start.

    It goes from step `first` over `steps` of them. Every change of the schedule is made `late_s` after its time:
    the latest that a schedule which is looked at so often can be. Of `span_s` seconds `replayed_s` were replayed: of
    long stretches in which nothing changes a part stands for the rest. `attainment` counts requests by how many
    they stand for; `by_step` is that of every step, None where it asks for nothing. `starts`: replicas that were
    started, `switches`: how often gateways took another plan.
    """

    first: int
    steps: int
    startup_s: float
    startup_origin: str
    ahead_s: float
    late_s: float
    span_s: float
    replayed_s: float
    requests: int
    starts: int
    switches: int
    attainment: float
    target: float
    by_step: tuple[float | None, ...]

    @property
    def holds(self) -> bool:
        """Whether the SLO's attainment is reached."""
        return self.attainment >= self.target

    @property
    def worst(self) -> int:
        """The step of the demand with the least attainment."""
        return self.first + min(
            range(self.steps), key=lambda k: 2.0 if (a := self.by_step[k]) is None else a
        )

    @property
    def worst_attainment(self) -> float:
        """Its attainment."""
        return min(a for a in self.by_step if a is not None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Demanded:
    """What is asked for: rates of every step, the plan of every step (None: nothing runs), and how it starts up."""

    rates_rps: Floats
    step_s: float
    plans: Sequence[ModelPlan | None]
    startup_s: float
    startup_origin: str
    burstiness: float = 1.0
    seed: int = 0


def in_one_run(asked: Demanded, late_s: float = TICK_S, ahead_s: float | None = None) -> OneRun:
    """Replay a demand as its schedule would serve it; `ahead_s` as the schedule reckons by default.

    Same arguments, same result. Raises InputError for plans that say nothing of their engines.
    """
    asked = _counting_whole_prompts(asked)
    ahead_s = asked.startup_s + TICK_S if ahead_s is None else ahead_s
    first, count = _window(asked)
    span_s = count * asked.step_s
    rollout = rollout_of(scheduled_steps(asked, (first, count), ahead_s, late_s), asked.startup_s)
    rates = asked.rates_rps[first : first + count]
    clock = Clock.of(_edges(rollout, rates, asked.step_s), span_s, _most(asked) / _mean(rates))
    stream, weight, step = _traffic(asked, first, rates, clock)
    plan = next(p for p in asked.plans if p is not None)
    affinity = plan.reuse is not None and plan.reuse.affinity != NO_AFFINITY
    stream = shared_stream(stream, plan, asked.seed)
    run = replay_rollout(
        rollout.on_clock(clock.short), engine_of, stream, asked.seed, affinity=affinity
    )
    good = meets(run.log, plan.slo)
    of_step = np.bincount(step, weights=weight, minlength=count)
    met = np.bincount(step, weights=weight * good, minlength=count)
    return OneRun(
        first=first,
        steps=count,
        startup_s=asked.startup_s,
        startup_origin=asked.startup_origin,
        ahead_s=ahead_s,
        late_s=late_s,
        span_s=span_s,
        replayed_s=clock.length_s,
        requests=len(stream),
        starts=rollout.starts,
        switches=len(rollout.handovers) - 1,
        attainment=float(met.sum() / of_step.sum()),
        target=plan.slo.attainment,
        by_step=tuple(
            float(m / n) if n else None for m, n in zip(met.tolist(), of_step.tolist(), strict=True)
        ),
    )


def _counting_whole_prompts(asked: Demanded) -> Demanded:
    """Return the same with images as tokens of their prompts; a plan of several steps stays one object."""
    seen = {
        id(plan): replace(plan, workload=plan.workload.as_prompts())
        for plan in asked.plans
        if plan is not None
    }
    return replace(asked, plans=[None if plan is None else seen[id(plan)] for plan in asked.plans])


def scheduled_steps(
    asked: Demanded, window: tuple[int, int], ahead_s: float, late_s: float
) -> list[FleetStep]:
    """Return what `schedule` orders over a window (first step, steps), from time 0 on, every change `late_s` late."""
    table, plans = _timetable(asked, ahead_s)
    start = ZERO + timedelta(seconds=window[0] * asked.step_s)
    end = start + timedelta(seconds=window[1] * asked.step_s)
    steps = [_step(table, plans, start, 0.0)]
    moment = start
    while moment < end:
        changes = [*table.changes(moment)]
        # The plan may change where the counts do not: both are looked at.
        times = sorted({at for at, _ in changes} | set(_begins(table, moment, asked.step_s)))
        steps += [
            _step(table, plans, at, (at - start).total_seconds() + late_s)
            for at in times
            if moment < at < end
        ]
        moment += timedelta(seconds=table.cycle * asked.step_s)
    return steps


def _begins(table: Timetable, moment: datetime, step_s: float) -> list[datetime]:
    return [moment + timedelta(seconds=k * step_s) for k in range(1, table.cycle + 1)]


def _step(
    table: Timetable, plans: Sequence[ModelPlan | None], at: datetime, at_s: float
) -> FleetStep:
    """Return what is wanted at a moment; gateways go by the plan that serves then, or else the next one."""
    told = [plans[n] for n in table.fleets_from(at)]
    plan = next((p for p in told if p is not None), None)
    return FleetStep(at_s=at_s, plan=plan, counts=table.running_at(at))


def _timetable(asked: Demanded, ahead_s: float) -> tuple[Timetable, list[ModelPlan | None]]:
    """Return the demand's timetable by options, and the plans by the numbers of its fleets."""
    numbers: dict[int, int] = {}
    plans: list[ModelPlan | None] = []
    fleets = []
    for plan in asked.plans:
        if id(plan) not in numbers:
            numbers[id(plan)] = len(plans)
            plans.append(plan)
        fleets.append(numbers[id(plan)])
    counts: list[Mapping[str, int]] = [{} if p is None else plan_counts(p) for p in plans]
    table = Timetable(
        start=ZERO,
        step_s=asked.step_s,
        fleets=fleets,
        cycle=cycle_of(len(fleets), asked.step_s) or len(fleets),
        counts=counts,
        ahead_s=ahead_s,
    )
    return table, plans


def _window(asked: Demanded) -> tuple[int, int]:
    """Return (first step, steps) of what is replayed: all of it, or of a long demand the busiest week.

    Of more requests than can be replayed, so many hours as can, the busiest ones in a row.
    """
    count, step_s = len(asked.rates_rps), asked.step_s
    first = 0
    if count * step_s > LONGEST_S:
        count = max(1, int(LONGEST_S / 2 / step_s))
        first = _busiest(asked.rates_rps, count)
    rates = asked.rates_rps[first : first + count]
    least_s = min(step_s, CHANGES_A_STEP * (SHORTEST_S + LEAST_S))
    share = MOST_AT_ALL * _most(asked) / max(float(rates.sum()) * least_s, 1e-9)
    if share >= 1:
        return first, count
    count = max(1, int(share * count))
    return first + _busiest(rates, count), count


def _busiest(rates: Floats, count: int) -> int:
    """Return the first of so many steps in a row that ask for most."""
    return int(np.convolve(rates, np.ones(count), "valid").argmax())


def _mean(rates: Floats) -> float:
    return max(float(rates.mean()), 1e-9)


def _most(asked: Demanded) -> int:
    shares = any(p is not None and p.workload.reuse is not None for p in asked.plans)
    return MOST_SHARING if shares else MOST_REQUESTS


def _edges(rollout: Rollout, rates: Floats, step_s: float) -> list[float]:
    """Return when something changes: what serves, the gateway's plan, or the rate."""
    return sorted({*rollout.moments(), *(np.arange(len(rates) + 1) * step_s).tolist()})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clock:
    """A time in which long stretches without a change are short: `starts_s` real, `shorts_s` on it, (pieces + 1)."""

    starts_s: Floats
    shorts_s: Floats

    @classmethod
    def of(cls, edges_s: Sequence[float], span_s: float, most_s: float) -> Clock:
        """Keep all of it where that is at most `most_s`; else what follows a change, and a part of the rest."""
        cuts = [edge for edge in edges_s if 0.0 <= edge < span_s]
        if span_s <= most_s:
            return cls(starts_s=np.array([0.0, span_s]), shorts_s=np.array([0.0, span_s]))
        heads = [
            cut + SHORTEST_S
            for cut, after in zip(cuts, [*cuts[1:], span_s], strict=True)
            if after - cut > SHORTEST_S + LEAST_S
        ]
        starts = np.array(sorted({0.0, *cuts, *heads, span_s}))
        lengths = np.diff(starts)
        is_rest = np.isin(starts[:-1], heads)
        in_full = float(lengths[~is_rest].sum())
        each_s = max((most_s - in_full) / max(int(is_rest.sum()), 1), LEAST_S)
        kept = np.where(is_rest, np.minimum(lengths, each_s), lengths)
        return cls(starts_s=starts, shorts_s=np.concatenate([[0.0], np.cumsum(kept)]))

    @property
    def length_s(self) -> float:
        """How long all of it is on this clock."""
        return float(self.shorts_s[-1])

    def short(self, real_s: float) -> float:
        """Return a real time on this clock; before the first and after the last piece it goes on as it is."""
        if real_s <= 0:
            return real_s
        if real_s >= self.starts_s[-1]:
            return float(real_s - self.starts_s[-1] + self.shorts_s[-1])
        return float(np.interp(real_s, self.starts_s, self.shorts_s))


def _traffic(
    asked: Demanded, first: int, rates: Floats, clock: Clock
) -> tuple[RequestStream, Floats, NDArray[np.intp]]:
    """Return the requests on the clock, how many each stands for, and its step of the window."""
    ends = np.append(np.arange(len(rates)) * asked.step_s, len(rates) * asked.step_s)
    shorts = [clock.short(end) for end in ends.tolist()]
    streams, steps = [], []
    for k, rate in enumerate(rates.tolist()):
        plan, length_s = asked.plans[first + k], shorts[k + 1] - shorts[k]
        if rate <= 0 or plan is None:
            continue
        traffic = Traffic(
            duration_s=length_s,
            rate_scale=rate / plan.workload.rate_rps,
            burstiness=asked.burstiness,
        )
        rng = np.random.default_rng([asked.seed, 3, first + k])
        stream = sample_stream(plan.workload, traffic, rng)
        streams.append(replace(stream, arrival_s=stream.arrival_s + shorts[k]))
        steps.append(np.full(len(stream), k, dtype=np.intp))
    whole = RequestStream(
        arrival_s=np.concatenate([s.arrival_s for s in streams]),
        input_tokens=np.concatenate([s.input_tokens for s in streams]),
        output_tokens=np.concatenate([s.output_tokens for s in streams]),
    )
    piece = np.searchsorted(clock.shorts_s, whole.arrival_s, side="right") - 1
    weights = np.diff(clock.starts_s) / np.diff(clock.shorts_s)
    return whole, weights[np.minimum(piece, len(weights) - 1)], np.concatenate(steps)
