"""What came between two readings of a fleet's counters, and what of it cannot be believed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.watching.seen import Fault, Seen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CLOCK_SLACK_S, CLOCK_SLACK = 5.0, 0.1
"""Seconds, and the part of the time gone, by which two clocks may be apart."""

STILL_S = 120.0
"""Seconds after which counters that stand still while requests run are frozen: a long answer takes as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Counters and gauges of one moment, unknown ones None.

    `finished`, of shape (inputs, outputs) of the plan's grid, or their total alone in `finished_all`. `refused`
    were turned away, `failed` broke off or timed out: both are demand. `within` are requests in the fleet now,
    those that wait (`queue`) among them. `met` and `missed` the SLO. `touched` sums up every counter that moves
    with any request. `steady_s` is a clock that nobody sets; None where times come from the source's own.
    """

    time_s: float
    steady_s: float | None = None
    finished: Floats | None = None
    finished_all: float | None = None
    refused: float | None = None
    failed: float = 0.0
    within: float | None = None
    queue: float | None = None
    met: float | None = None
    missed: float | None = None
    touched: float = 0.0
    live: Mapping[str, int] | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def total(self) -> float | None:
        """How many requests finished."""
        return self.finished_all if self.finished is None else float(self.finished.sum())


@dataclass(slots=True, kw_only=True)
class Counting:
    """Readings of one source in the order in which they were taken; `name` is what messages call it."""

    name: str
    before: Reading | None = None
    still_since_s: float | None = field(default=None)

    def seen(self, now: Reading) -> Seen:
        """Return what came since the last reading that was sound; rates are None at the first, with any fault,
        and where a source that tells its own times says the same once more.
        """
        before, faults = self.before, list(now.faults)
        if not faults and before is not None and _is_same(before, now):
            return Seen(time=now.time_s, queue=now.queue, live=now.live)
        if not faults:
            self.before = now
            faults = [] if before is None else self._compared(before, now)
        rates = None if faults or before is None else _rates(before, now)
        return Seen(
            time=now.time_s,
            rate_rps=None if rates is None else rates.all_rps,
            bucket_rates=None if rates is None else rates.buckets,
            refused_rps=None if rates is None else rates.refused_rps,
            attainment=None if rates is None else rates.attainment,
            queue=now.queue,
            live=now.live,
            faults=tuple(faults),
        )

    def _compared(self, before: Reading, now: Reading) -> list[Fault]:
        fault = _of_clocks(self.name, before, now) or _of_counters(self.name, before, now)
        if fault is not None:
            self.still_since_s = None
            return [fault]
        moved = now.touched != before.touched
        busy = bool(now.within) and bool(before.within)
        if moved or not busy:
            self.still_since_s = None
            return []
        if self.still_since_s is None:
            self.still_since_s = before.time_s
        still_s = now.time_s - self.still_since_s
        if still_s < STILL_S:
            return []
        return [
            Fault(
                code="frozen",
                message=f"{self.name}: no figure has moved for {still_s:.0f} s though {now.within:.0f} requests run",
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    all_rps: float | None
    buckets: Floats | None
    refused_rps: float | None
    attainment: float | None


def _is_same(before: Reading, now: Reading) -> bool:
    """Return whether a source that tells its own times has nothing new."""
    return now.steady_s is None and now.time_s == before.time_s


def _of_clocks(name: str, before: Reading, now: Reading) -> Fault | None:
    passed_s = now.time_s - before.time_s
    if passed_s <= 0:
        return Fault(code="clock", message=f"{name}: the clock went back {-passed_s:.0f} s")
    if now.steady_s is None or before.steady_s is None:
        return None
    true_s = now.steady_s - before.steady_s
    if abs(passed_s - true_s) <= max(CLOCK_SLACK_S, CLOCK_SLACK * true_s):
        return None
    return Fault(
        code="clock",
        message=f"{name}: the clock leapt {passed_s - true_s:+.0f} s between two looks",
    )


def _of_counters(name: str, before: Reading, now: Reading) -> Fault | None:
    """Return that a counter fell; what came in between is not known then."""
    pairs = [
        (before.refused, now.refused),
        (before.failed, now.failed),
        (before.met, now.met),
        (before.missed, now.missed),
        (before.finished_all, now.finished_all),
        (before.touched, now.touched),
    ]
    fell = any(a is not None and b is not None and b < a for a, b in pairs)
    if before.finished is not None and now.finished is not None:
        same = before.finished.shape == now.finished.shape
        fell = fell or not same or bool((now.finished < before.finished).any())
    if not fell:
        return None
    return Fault(
        code="reset", message=f"{name}: its counters began anew, so what came before is not known"
    )


def _rates(before: Reading, now: Reading) -> _Rates:
    """Return rates of demand: what finished, was refused or failed, and by how much more is within."""
    seconds = now.time_s - before.time_s
    done = _grown(before.total, now.total)
    refused = _grown(before.refused, now.refused)
    failed = now.failed - before.failed
    piled = _grown(before.within, now.within) or 0.0
    demand = None if done is None else max(0.0, done + (refused or 0.0) + failed + piled)
    buckets = None
    if before.finished is not None and now.finished is not None and demand is not None:
        buckets = (now.finished - before.finished) / seconds
        if done:  # what was refused is of the same sizes, as far as anybody knows
            buckets = buckets * (demand / done)
    met, missed = _grown(before.met, now.met), _grown(before.missed, now.missed)
    judged = None if met is None or missed is None else met + missed
    return _Rates(
        all_rps=None if demand is None else demand / seconds,
        buckets=buckets,
        refused_rps=None if refused is None else refused / seconds,
        attainment=met / judged if met is not None and judged else None,
    )


def _grown(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else now - before
