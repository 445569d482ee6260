"""How well a fleet did in a backtest: all of it replayed, or the stretches of it that tell most."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.planner.replay_loop.replay import engine_of
from melange_sky.planner.watching.traffic import BASE_S
from melange_sky.replay import Life, Rollout, replay_rollout
from melange_sky.slo import meets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.planner.watching.playing import Fleet
    from melange_sky.planner.watching.traffic import PlayedTraffic

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Whole = NDArray[np.int64]

STRETCH_S = 300.0
WARM_S, LONGEST_WARM_S = 120.0, 1200.0
"""Before a stretch that counts so much is replayed that does not: from when no queue was left, within these limits."""

FULL, OF_FULL = 0.97, 0.6
"""Where more than such a part of what serves is asked for, nearly all misses lie: so many of the stretches go there."""
_SURE = 1.96

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """One day of the traffic, the first being 0: its attainment, by so many requests that were replayed of it."""

    number: int
    attainment: float
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """How a fleet did: the fraction of requests within the SLO, of so many that were replayed in so many stretches.

    It lies within `half_width` of that of all requests in 95 of 100 cases; 0 where all were replayed.
    """

    attainment: float
    half_width: float
    requests: int
    stretches: int
    whole: bool
    days: tuple[Day, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Parts of `BASE_S` to replay, of which those from `counts_from` on count; each request stands for `weight`."""

    begin: int
    counts_from: int
    end: int
    weight: float
    is_full: bool


def judged(fleet: Fleet, traffic: PlayedTraffic, most_requests: int, seed: int) -> Judged:
    """Replay the traffic through a fleet's changes: all of it, or so many requests of it in stretches."""
    whole = traffic.requests <= most_requests
    every = len(traffic.counts)
    stretches: Sequence[Stretch] = (
        [Stretch(begin=0, counts_from=0, end=every, weight=1.0, is_full=True)]
        if whole
        else stretches_of(fleet, traffic, most_requests)
    )
    days = math.ceil(traffic.seconds / DAY_S)
    asked = np.zeros((len(stretches), days))
    met = np.zeros_like(asked)
    for row, one in enumerate(stretches):
        at_s, good = _replayed(fleet, traffic, one, seed)
        day = (at_s // DAY_S).astype(np.int64)
        met[row] = np.bincount(day, weights=good, minlength=days)
        asked[row] = np.bincount(day, minlength=days)
    weights = np.array([one.weight for one in stretches])
    counted = asked.sum(axis=0)
    of_day = weights @ met / np.maximum(weights @ asked, 1.0)
    attainment = float((weights @ met).sum() / max((weights @ asked).sum(), 1.0))
    return Judged(
        attainment=attainment,
        half_width=0.0
        if whole
        else _half_width(stretches, met.sum(axis=1), asked.sum(axis=1), attainment),
        requests=int(counted.sum()),
        stretches=len(stretches),
        whole=whole,
        days=tuple(
            Day(number=n, attainment=float(of_day[n]), requests=int(counted[n]))
            for n in np.flatnonzero(counted).tolist()
        ),
    )


def _replayed(
    fleet: Fleet, traffic: PlayedTraffic, stretch: Stretch, seed: int
) -> tuple[Floats, Flags]:
    """Return when the requests that count came, and which were within the SLO, (requests) each."""
    stream = traffic.between(stretch.begin, stretch.end)
    begin_s = stretch.begin * BASE_S
    rollout = shifted(fleet.rollout, begin_s) if stretch.begin else fleet.rollout
    log = replay_rollout(rollout, engine_of, stream, seed).log
    at_s = log.arrival_s + begin_s
    counts = at_s >= stretch.counts_from * BASE_S
    good: Flags = meets(log, fleet.fleets.plan.models[0].slo)[counts]
    return at_s[counts], good


def _half_width(
    stretches: Sequence[Stretch], met: Floats, asked: Floats, attainment: float
) -> float:
    """Return how far the attainment may be off by which stretches were taken, in 95 of 100 cases.

    As if they were drawn, apart where the fleet is full and where not; taken evenly they are nearer.
    """
    variance = 0.0
    weights = np.array([one.weight for one in stretches])
    total = float(weights @ asked)
    for full in (True, False):
        places = np.array([one.is_full is full for one in stretches])
        number = int(places.sum())
        if number < 2:
            continue
        off = (met - asked * (met[places].sum() / max(asked[places].sum(), 1.0)))[places]
        left = 1 - 1 / max(float(weights[places].mean()), 1.0)
        variance += left * float((weights[places] ** 2).sum()) * float(off.var(ddof=1))
    return min(_SURE * math.sqrt(variance) / max(total, 1.0), max(attainment, 1 - attainment))


def stretches_of(fleet: Fleet, traffic: PlayedTraffic, most_requests: int) -> list[Stretch]:
    """Return stretches of five minutes, most of them from when the fleet is full, rising with the time.

    The time is put in the order of what is asked for and waits ÷ what serves then. Of where that is above `FULL`, and of
    the rest, every so many-th is taken, so that no hour of the day is left out or taken too often; a request
    stands for as many as there are of its part.
    """
    parts, warm = round(STRETCH_S / BASE_S), round(WARM_S / BASE_S)
    steps = len(traffic.counts) // parts
    requests = traffic.counts[: steps * parts].reshape(-1, parts).sum(axis=1)
    able = _able(fleet, steps) * STRETCH_S
    queue = _queued(requests, able)
    fullness = (requests + queue) / np.maximum(able, 1e-9)
    order = np.argsort(fullness, kind="stable")
    full = int((fullness > FULL).sum())
    number = min(steps, max(2, round(most_requests / traffic.requests * steps)))
    of_full = min(full, math.ceil(OF_FULL * number))
    of_rest = min(steps - full, number - of_full)
    found = []
    for among, count in ((order[steps - full :], of_full), (order[: steps - full], of_rest)):
        places = among[((np.arange(count) + 0.5) / max(count, 1) * len(among)).astype(int)]
        weight = float(requests[among].sum() / max(requests[places].sum(), 1))
        for step in places.tolist():
            last = int(np.flatnonzero(queue[: step + 1] <= 0)[-1])
            begin = max(
                min(last * parts, step * parts - warm),
                step * parts - round(LONGEST_WARM_S / BASE_S),
                0,
            )
            found.append(
                Stretch(
                    begin=begin,
                    counts_from=step * parts,
                    end=(step + 1) * parts,
                    weight=weight,
                    is_full=bool(fullness[step] > FULL),
                )
            )
    return sorted(found, key=lambda one: one.counts_from)


def _able(fleet: Fleet, steps: int) -> Floats:
    """Return what serves in each stretch, in requests per second: the least at its two ends, (steps)."""
    ends = np.array([fleet.able_rps(n * STRETCH_S) for n in range(steps + 1)])
    able: Floats = np.minimum(ends[:-1], ends[1:])
    return able


def _queued(requests: Whole, able: Floats) -> Floats:
    """Return how many requests wait as each stretch begins, (steps): what was too much before and is not served yet."""
    queue = np.zeros(len(requests))
    for n, over in enumerate((requests - able).tolist()[:-1], 1):
        queue[n] = max(0.0, queue[n - 1] + over)
    return queue


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
