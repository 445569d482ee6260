"""The verdict: does the SLO hold, how surely, and where does it break?

Warm-up rule: the fleet starts empty and ends empty, so requests that arrive within the 99th
percentile of end-to-end latency after the first arrival or before the last one are not judged, each
end at most a tenth of the span; so in every replication. All other figures are of the judged requests unless their name says
otherwise.

The interval of the attainment is Wilson's at the effective sample size from batch means:
neighbouring requests share a queue and so their fate (Law and Kelton, Simulation Modeling and
Analysis, §9.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.replay.replications import joined
from melange_sky.slo import SLO, RequestLog, meets, wilson_interval
from melange_sky.workload import bucket_places

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.plans import ModelPlan
    from melange_sky.simulator.fleet import FleetRun
    from melange_sky.workload import Workload

BATCHES = 32
WARMUP_AT_MOST = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Percentiles of a time in seconds, None where nothing completed."""

    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionVerdict:
    """One deployment option. `utilization` is its engines' time in steps ÷ time of the whole run.

    `ttft_missed`, `tpot_missed`: fractions of its requests that missed that limit. `prefix_hits`: fraction of its
    requests' prompt tokens that were found in prefix caches, None where nothing is shared or it got none.
    """

    option: str
    requests: int
    attainment: float | None
    interval: tuple[float, float]
    utilization: float
    ttft_missed: float | None
    tpot_missed: float | None
    preemptions: int
    queue_mean: float
    queue_peak: float
    kv_used_mean: float
    kv_used_peak: float
    prefix_hits: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketVerdict:
    """One bucket of the workload's grid, over all options."""

    bucket: tuple[int, int]
    requests: int
    attainment: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The whole fleet. `requests` were sent, `judged` of them count (see the warm-up rule).

    Several `replications` are independent runs from an empty fleet, judged together.

    `met` says whether the attainment reaches its target; `surely` whether its interval lies on one
    side of the target altogether.
    """

    replications: int
    requests: int
    judged: int
    completed: int
    refused: int
    span_s: float
    warmup_s: float
    attainment: float
    interval: tuple[float, float]
    target: float
    ttft_s: Percentiles
    tpot_s: Percentiles
    e2e_s: Percentiles
    goodput_rps: float
    output_tokens: int
    tokens: int
    cost_usd_per_million_tokens: float | None
    options: tuple[OptionVerdict, ...]
    buckets: tuple[BucketVerdict, ...]

    @property
    def met(self) -> bool:
        """Whether the attainment reaches its target."""
        return self.attainment >= self.target

    @property
    def surely(self) -> bool:
        """Whether the interval leaves no doubt about `met`."""
        return self.interval[0] >= self.target or self.interval[1] < self.target

    @property
    def warmup_capped(self) -> bool:
        """Whether the slowest requests take longer than what is left out at each end."""
        return self.warmup_s >= WARMUP_AT_MOST * self.span_s / self.replications * (1 - 1e-9) > 0

    @property
    def half_width(self) -> float:
        """Half the width of the attainment's interval."""
        return (self.interval[1] - self.interval[0]) / 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Simulation:
    """A plan's replay and its verdict. `traffic` says what was sent, `notes` what to keep in mind.

    `affinity`: whether requests of a session were kept together.
    """

    plan: ModelPlan
    verdict: Verdict
    run: FleetRun
    traffic: str
    notes: tuple[str, ...] = ()
    affinity: bool = False


def judge_runs(
    runs: Sequence[FleetRun], slo: SLO, workload: Workload, cost_usd_per_hour: float
) -> tuple[Verdict, FleetRun]:
    """Judge replications together; warm-up is left out of each. Returns them as one run too.

    Raises ValueError where no request was sent at all.
    """
    runs = [run for run in runs if len(run.log)]
    if not runs:
        raise ValueError("no request was sent")
    windows = [judged_window(run.log) for run in runs]
    spans_s = [_span_s(r.log.arrival_s[w]) for r, (w, _) in zip(runs, windows, strict=True)]
    whole = joined(runs)
    is_judged = np.concatenate([window for window, _ in windows])
    judged = whole.log.select(is_judged)
    found = None if whole.found_tokens is None else whole.found_tokens[is_judged]
    good, span_s, done = meets(judged, slo), sum(spans_s), judged.ok
    tokens = int((judged.input_tokens + judged.output_tokens)[done].sum())
    per_hour = tokens * 3600.0 / span_s if span_s > 0 else 0.0
    verdict = Verdict(
        replications=len(runs),
        requests=len(whole.log),
        judged=len(judged),
        completed=int(whole.log.ok.sum()),
        refused=int((~whole.log.ok).sum()),
        span_s=sum(_span_s(run.log.arrival_s) for run in runs),
        warmup_s=max(settle_s for _, settle_s in windows),
        attainment=float(good.mean()),
        interval=attainment_interval(good),
        target=slo.attainment,
        ttft_s=percentiles(judged.ttft_s[done]),
        tpot_s=percentiles(judged.tpot_s[done]),
        e2e_s=percentiles(judged.e2e_s[done]),
        goodput_rps=float(good.sum()) / span_s if span_s > 0 else 0.0,
        output_tokens=int(judged.output_tokens[done].sum()),
        tokens=tokens,
        cost_usd_per_million_tokens=cost_usd_per_hour / per_hour * 1e6 if per_hour > 0 else None,
        options=_with_hits(_options(whole, judged, good, slo), judged, found),
        buckets=_buckets(judged, good, workload),
    )
    return verdict, whole


def _span_s(arrival_s: NDArray[np.float64]) -> float:
    return float(arrival_s[-1] - arrival_s[0])


def judged_window(log: RequestLog) -> tuple[NDArray[np.bool_], float]:
    """Return which requests are judged, and how many seconds are left out at each end."""
    first, last = float(log.arrival_s[0]), float(log.arrival_s[-1])
    done = log.e2e_s[log.ok]
    settle_s = float(np.percentile(done, 99)) if len(done) else 0.0
    settle_s = min(settle_s, WARMUP_AT_MOST * (last - first))
    window = (log.arrival_s >= first + settle_s) & (log.arrival_s <= last - settle_s)
    if not window.any():
        return np.ones(len(log), dtype=np.bool_), 0.0
    return window, settle_s


def attainment_interval(good: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the 95 % interval of a fraction of neighbouring, so correlated, outcomes in order."""
    count = len(good)
    if not count:
        return 0.0, 1.0
    fraction = float(good.mean())
    batches = min(BATCHES, count // 8)
    effect = 1.0
    if batches >= 4 and 0.0 < fraction < 1.0:
        size = count // batches
        means = good[: batches * size].reshape(batches, size).mean(axis=1)
        effect = max(1.0, float(size * means.var(ddof=1) / (fraction * (1 - fraction))))
    effective = max(1, round(count / effect))
    return wilson_interval(round(fraction * effective), effective)


def percentiles(values: NDArray[np.float64]) -> Percentiles:
    """Return the percentiles of the values that are known."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Percentiles(p50=None, p90=None, p95=None, p99=None)
    p50, p90, p95, p99 = (float(v) for v in np.percentile(known, [50, 90, 95, 99]))
    return Percentiles(p50=p50, p90=p90, p95=p95, p99=p99)


def _options(
    run: FleetRun, judged: RequestLog, good: NDArray[np.bool_], slo: SLO
) -> tuple[OptionVerdict, ...]:
    late = _missed(judged, replace(slo, tpot_s=None))
    slow = _missed(judged, replace(slo, ttft_s=None))
    verdicts = []
    for k, name in enumerate(judged.options):
        of_option = judged.option == k
        count = int(of_option.sum())
        verdicts.append(
            OptionVerdict(
                option=name,
                requests=int((run.log.option == k).sum()),
                attainment=float(good[of_option].mean()) if count else None,
                interval=attainment_interval(good[of_option]),
                utilization=float(run.busy_fraction[k]),
                ttft_missed=float(late[of_option].mean()) if count else None,
                tpot_missed=float(slow[of_option].mean()) if count else None,
                preemptions=int(run.preemptions[k]),
                queue_mean=_mean(run.waiting[:, k]),
                queue_peak=_peak(run.waiting[:, k]),
                kv_used_mean=_mean(run.kv_used[:, k]),
                kv_used_peak=_peak(run.kv_used[:, k]),
            )
        )
    return tuple(verdicts)


def _with_hits(
    options: tuple[OptionVerdict, ...], judged: RequestLog, found: NDArray[np.int64] | None
) -> tuple[OptionVerdict, ...]:
    """Return the verdicts with what each option found of the judged prompts' tokens."""
    if found is None:
        return options
    hits = []
    for k in range(len(options)):
        of_option = judged.option == k
        asked = int(judged.input_tokens[of_option].sum())
        hits.append(int(found[of_option].sum()) / asked if asked else None)
    return tuple(replace(o, prefix_hits=h) for o, h in zip(options, hits, strict=True))


def _missed(log: RequestLog, slo: SLO) -> NDArray[np.bool_]:
    return ~meets(log, slo)


def _mean(samples: NDArray[np.float64]) -> float:
    return float(samples.mean()) if len(samples) else 0.0


def _peak(samples: NDArray[np.float64]) -> float:
    return float(samples.max()) if len(samples) else 0.0


def _buckets(
    judged: RequestLog, good: NDArray[np.bool_], workload: Workload
) -> tuple[BucketVerdict, ...]:
    """Attainment per bucket; requests beyond the grid count in the outermost one."""
    verdicts = []
    width = len(workload.output_edges) - 1
    keys = _keys(judged, workload)
    for key in np.unique(keys):
        in_bucket = good[keys == key]
        verdicts.append(
            BucketVerdict(
                bucket=(int(key) // width, int(key) % width),
                requests=len(in_bucket),
                attainment=float(in_bucket.mean()),
                interval=attainment_interval(in_bucket),
            )
        )
    return tuple(verdicts)


def _keys(judged: RequestLog, workload: Workload) -> NDArray[np.int64]:
    """Return each request's bucket as one number, row by row."""
    rows = bucket_places(workload.input_edges, judged.input_tokens)
    columns = bucket_places(workload.output_edges, judged.output_tokens)
    return rows * (len(workload.output_edges) - 1) + columns


def ttft_of_bucket(simulation: Simulation, bucket: tuple[int, int]) -> Percentiles:
    """Return how long the requests of one bucket that were completed waited for their first token."""
    workload = simulation.plan.workload.as_prompts()
    log = simulation.run.log
    key = bucket[0] * (len(workload.output_edges) - 1) + bucket[1]
    return percentiles(log.ttft_s[log.ok & (_keys(log, workload) == key)])
