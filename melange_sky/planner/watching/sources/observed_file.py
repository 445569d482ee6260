"""The file that a gateway writes with `--observed`: all that it finished since its start, by size."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InputError
from melange_sky.planner.observed import in_buckets_of
from melange_sky.planner.watching.sources.counting import Counting, Reading
from melange_sky.spec.demand import load_distribution
from melange_sky.spec.histogram import to_workload
from melange_sky.watching.seen import Fault, Seen

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.plans import ModelPlan
    from melange_sky.spec.histogram import Histogram
    from melange_sky.watching.seen import FaultCode

OLD_S = 300.0
"""Seconds after which a file is out of date: gateways write it every minute."""


@dataclass(slots=True, kw_only=True)
class ObservedSource:
    """The observed file of a plan of one model. It tells of finished requests alone, and of no replica."""

    path: Path
    plan: ModelPlan
    old_s: float = OLD_S
    clock: Callable[[], float] = time.time
    _counting: Counting = field(init=False)

    def __post_init__(self) -> None:
        """Begin without a reading."""
        self._counting = Counting(name=str(self.path))

    def see(self) -> Seen:
        """Return what came between the file that was seen before and this one, None where it is the same."""
        now_s = self.clock()
        try:
            written_s = self.path.stat().st_mtime
        except OSError as error:
            return self._fault("missing", f"cannot be read ({error.strerror})", now_s)
        if now_s - written_s > self.old_s:
            age = f"{(now_s - written_s) / 60:.0f} min"
            return self._fault("frozen", f"was written {age} ago; is the gateway running?", now_s)
        try:
            histogram = load_distribution(self.path)
        except InputError as error:
            return self._fault("missing", str(error).splitlines()[0][:200], now_s)
        before = self._counting.before
        if before is not None and before.time_s == written_s:
            return Seen(time=now_s)
        seen = self._counting.seen(self._read(histogram, written_s))
        rates = None
        if seen.bucket_rates is not None:
            own = to_workload(histogram, 1.0)
            rows = tuple(map(tuple, seen.bucket_rates.tolist()))
            rates = np.array(in_buckets_of(self.plan, replace(own, rates_rps=rows)))
        return replace(seen, time=now_s, bucket_rates=rates)

    def _fault(self, code: FaultCode, message: str, now_s: float) -> Seen:
        fault = Fault(code=code, message=f"{self.path}: {message}")
        return self._counting.seen(Reading(time_s=now_s, faults=(fault,)))

    def _read(self, histogram: Histogram, written_s: float) -> Reading:
        requests = None if histogram.coverage is None else histogram.coverage.requests
        if requests is None or not requests:
            message = f"{self.path}: does not say how many requests it is of (coverage.requests)"
            fault = Fault(code="renamed", message=message)
            return Reading(time_s=written_s, faults=(fault,))
        weights = np.array(histogram.weights)  # on the file's own grid, whose counts only grow
        finished = np.round(weights * (requests / weights.sum()))
        return Reading(time_s=written_s, finished=finished, touched=float(requests))
