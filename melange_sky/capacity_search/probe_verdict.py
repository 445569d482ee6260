"""What one probe says of its rate: pass, fail or unresolved.

A probe passes or fails only where its confidence interval clears the wanted attainment; else it is
unresolved and is repeated with more requests up to a cap. Three rules keep short probes honest:

* warm-up and cool-down are left out: requests that arrive within one median end-to-end latency of
  the first or the last arrival ran in an emptier batch than steady state has (at least
  `warmup_fraction` of the requests is left out at the start, and half are always kept);
* a pass needs arrivals over `turnovers` median end-to-end latencies, so that the batch has been
  replaced several times and a queue has had time to grow;
* a pass needs served ≥ `served_fraction` × offered. Above capacity the end-to-end latency grows by
  d seconds per second of arrivals, and served ÷ offered = 1 ÷ (1 + d) (fluid limit: the k-th
  completion comes at t_k + e2e_k). d is the slope of end-to-end latency over arrival time.

Neighbouring requests share a queue and so their outcomes; the Wilson interval is therefore taken at
the effective sample size from batch means (Law and Kelton, Simulation Modeling and Analysis, §9.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.capacity_search.probe_statistics import (
    effective_size,
    fraction,
    latency_slope,
    median,
)
from melange_sky.slo import SLO, meets, wilson_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.slo import RequestLog


_EARLY_CONFIDENCE = 0.9973
_EARLY_REQUESTS = 16


class ProbeVerdict(str, Enum):
    """What one probe says of its rate. An aborted probe says nothing and never becomes a bound."""

    PASS = "pass"
    FAIL = "fail"
    UNRESOLVED = "unresolved"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How hard to search.

    The search ends where bounds lie within a factor 1 + `tolerance`. `start_rps` is the first rate
    tried, best an estimate; None starts with a saturating burst at `ceiling_rps`, whose served rate
    then hints at the capacity. Rates stay in [`floor_rps`, `ceiling_rps`]; `floor_rps` None means
    the rate at which hardly any requests overlap. A probe starts with `min_requests`, more as the
    bounds close in, and grows to at most `max_requests`. Both final bounds must have stood with
    `confirm_requests` (latency growing by less than `drift` seconds per second), and no probe lasts less than `min_seconds` unless `max_requests` end it (real
    machines have hiccups): a short probe can be lucky where a queue forgets slowly. At most `max_probes`
    probes are sent; `max_aborts` void ones in a row at one rate end the search. `crossing` reports the
    rate between the bounds at which attainment is seen to cross its limit; without, the lower bound.
    """

    start_rps: float | None = None
    floor_rps: float | None = None
    ceiling_rps: float = 10_000.0
    tolerance: float = 0.05
    confidence: float = 0.95
    min_requests: int = 80
    confirm_requests: int = 600
    max_requests: int = 4096
    min_seconds: float = 0.0
    max_probes: int = 40
    max_aborts: int = 2
    warmup_fraction: float = 0.1
    turnovers: float = 4.0
    served_fraction: float = 0.9
    drift: float = 0.04
    growth: float = 2.0
    crossing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.tolerance < 1 and 0 < self.confidence < 1 and self.growth > 1):
            raise ValueError("tolerance and confidence lie in (0, 1), growth above 1")
        if self.confirm_requests < self.min_requests:
            raise ValueError("need confirm_requests ≥ min_requests")
        if not 1 <= self.min_requests <= self.max_requests or self.max_probes < 1:
            raise ValueError("need 1 ≤ min_requests ≤ max_requests and max_probes ≥ 1")
        for rate in (self.start_rps, self.floor_rps, self.ceiling_rps):
            if rate is not None and not 0 < rate <= self.ceiling_rps < math.inf:
                raise ValueError("rates must be positive and at most a finite ceiling_rps")


REAL_SEARCH = SearchOptions(
    tolerance=0.2,
    confidence=0.9,
    min_requests=50,
    confirm_requests=200,
    max_requests=4000,
    max_probes=24,
    turnovers=10.0,
    ceiling_rps=1000.0,
    min_seconds=15.0,
    growth=1.3,
    drift=0.11,
    crossing=True,
)
"""A search whose probes cost GPU time: coarser bounds, fewer requests.

Ten turnovers and 200 requests before a pass counts: with 4 and 100 the cost of a plan was off by 3.5 to
8 % in the mean on simulated replicas, now by 2 to 3 %, for the same GPU time on fast accelerators and twice
as much on slow ones (`make bench`). `max_requests` leaves room for ten turnovers of 256 sequences.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One probe, judged. Fractions of the judged requests (warm-up and cool-down left out).

    `served_fraction` is served ÷ offered rate, `turnovers` how many median end-to-end latencies the
    arrivals lasted, `interval` the confidence interval of `attainment`. None where nothing completed.
    """

    rate_rps: float
    requests: int
    seed: int
    verdict: ProbeVerdict
    reason: str
    judged: int = 0
    attainment: float | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    served_fraction: float | None = None
    served_rps: float | None = None
    turnovers: float | None = None
    median_e2e_s: float | None = None

    def leans_to_pass(self, slo: SLO, options: SearchOptions) -> bool:
        """Return which way an unresolved probe points: its point estimates alone."""
        return (
            self.attainment is not None
            and self.attainment >= slo.attainment
            and self.served_fraction is not None
            and self.served_fraction >= 1 / (1 + options.drift)
            and self.turnovers is not None
            and self.turnovers >= options.turnovers
        )


def judge(
    log: RequestLog, slo: SLO, options: SearchOptions, *, rate_rps: float, seed: int
) -> Probe:
    """Judge what one probe saw against an SLO. Pure: stored probes can be judged anew."""
    done = log.ok & np.isfinite(log.last_token_s)
    completed = int(np.count_nonzero(done))
    if not completed:
        return _without_answers(len(log), rate_rps, seed)
    e2e_all_s = log.e2e_s
    e2e_s = median(e2e_all_s if completed == len(log) else e2e_all_s[done])
    span_s = float(log.arrival_s[-1] - log.arrival_s[0])
    window = _steady_window(log.arrival_s, e2e_s, options)
    good = meets(log, slo)[window]
    z = _z(options.confidence)
    effective = effective_size(good)
    attainment = fraction(good)
    rows = done[window]
    slope, error = latency_slope(log.arrival_s[window][rows], e2e_all_s[window][rows])
    last_s = np.fmax.reduce(log.last_token_s, where=done, initial=-math.inf)
    busy_s = float(last_s - log.arrival_s[0])
    seen = _Seen(
        judged=len(good),
        attainment=attainment,
        interval=wilson_interval(attainment * effective, effective, z),
        served_fraction=1 / (1 + max(0.0, slope)),
        turnovers=span_s / e2e_s if e2e_s > 0 else math.inf,
        slope_low=slope - z * error,
        slope_high=slope + z * error,
    )
    verdict, reason = _decide(seen, slo, options)
    return Probe(
        rate_rps=rate_rps,
        requests=len(log),
        seed=seed,
        verdict=verdict,
        reason=reason,
        judged=seen.judged,
        attainment=attainment,
        interval=seen.interval,
        served_fraction=seen.served_fraction,
        served_rps=float(completed) / busy_s if busy_s > 0 else None,
        turnovers=seen.turnovers,
        median_e2e_s=e2e_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What decides on a probe: as of `Probe`, and the ends of the slope's confidence interval."""

    judged: int
    attainment: float
    interval: tuple[float, float]
    served_fraction: float
    turnovers: float
    slope_low: float
    slope_high: float


@cache
def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _without_answers(requests: int, rate_rps: float, seed: int) -> Probe:
    """Return what a probe says of which no request completed, nothing where none was sent."""
    probe = Probe(
        rate_rps=rate_rps,
        requests=requests,
        seed=seed,
        verdict=ProbeVerdict.UNRESOLVED,
        reason="empty",
    )
    if not requests:
        return probe
    return replace(
        probe,
        verdict=ProbeVerdict.FAIL,
        reason="no request completed",
        attainment=0.0,
        interval=(0.0, 0.0),
        judged=requests,
        served_fraction=0.0,
        served_rps=0.0,
    )


def crossing_rps(low: Probe, high: Probe, slo: SLO) -> float:
    """Return where attainment crosses its limit between a rate that passes and one that fails.

    Linear in the normal quantile of attainment over the logarithm of the rate; half way where the
    higher rate fails for another reason than attainment.
    """
    ends = [_quantile(p.attainment, p.judged) for p in (low, high)]
    limit = NormalDist().inv_cdf(min(max(slo.attainment, 1e-6), 1 - 1e-6))
    part = 0.5
    if ends[0] > limit > ends[1]:
        part = (ends[0] - limit) / (ends[0] - ends[1])
    elif ends[0] <= limit:
        part = 0.0
    return low.rate_rps * math.exp(part * math.log(high.rate_rps / low.rate_rps))


def _quantile(fraction: float | None, count: int) -> float:
    edge = 0.5 / max(count, 1)
    return NormalDist().inv_cdf(min(max(fraction or 0.0, edge), 1 - edge))


def surely_fails(slo: SLO, options: SearchOptions) -> Callable[[RequestLog], bool]:
    """Return a test of a probe under way: whether it may end now because it fails.

    It looks many times, so it asks for three standard deviations (Haybittle 1971; Peto et al. 1976);
    a probe that is not ended so is judged as ever. Only failing ends a probe early: a pass needs its
    full length.
    """
    strict = replace(options, confidence=_EARLY_CONFIDENCE)

    def fails(log: RequestLog) -> bool:
        if len(log) < _EARLY_REQUESTS:
            return False
        probe = judge(log, slo, strict, rate_rps=1.0, seed=0)
        # Latency grows while the batch fills up: only attainment may end a probe early.
        return (
            probe.turnovers is not None
            and probe.turnovers >= 1
            and probe.interval[1] < slo.attainment
        )

    return fails


def _decide(seen: _Seen, slo: SLO, options: SearchOptions) -> tuple[ProbeVerdict, str]:
    """Give the verdict and why: fail on any sure breach, pass only where every rule surely holds."""
    low, high = seen.interval
    limit = 1 / options.served_fraction - 1
    sure = low >= slo.attainment or (
        seen.attainment == 1.0 and seen.judged >= options.max_requests // 2
    )
    if high < slo.attainment:
        reason = f"attainment {seen.attainment:.3f} below {slo.attainment:g}"
        return ProbeVerdict.FAIL, reason
    if seen.slope_low > limit:
        return ProbeVerdict.FAIL, f"served {seen.served_fraction:.2f} of offered"
    unresolved = ProbeVerdict.UNRESOLVED
    if seen.turnovers < options.turnovers:
        return unresolved, f"lasted only {seen.turnovers:.1f} end-to-end latencies"
    if seen.slope_high > limit or 1 / max(seen.served_fraction, 1e-9) - 1 > options.drift:
        return unresolved, "latency still growing"
    if not sure:
        return unresolved, f"attainment {low:.3f} to {high:.3f} straddles the limit"
    return ProbeVerdict.PASS, "meets the SLO"


def _steady_window(arrival_s: NDArray[np.float64], e2e_s: float, options: SearchOptions) -> slice:
    """Return which requests are judged; see the module's first rule."""
    count = arrival_s.shape[0]
    head = int(arrival_s.searchsorted(arrival_s[0] + e2e_s))
    tail = count - int(arrival_s.searchsorted(arrival_s[-1] - e2e_s, side="right"))
    head = max(head, math.ceil(options.warmup_fraction * count)) if count > 1 else 0
    head = min(head, count // 3)
    tail = min(tail, count // 2 - head)
    return slice(head, count - tail)
