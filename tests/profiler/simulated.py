"""Profiling a simulated replica whose engine is not the one that the estimate believes in.

Shared by the quick test and the benchmark: time is simulated, no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from melange_sky.capacity_search import (
    REAL_SEARCH,
    MeasuredRate,
    NextSize,
    SearchOptions,
    SizeDemand,
    choose_size,
    find_max_rate,
    predicted_rates,
    search_near,
    surely_fails,
)
from melange_sky.models import load_model
from melange_sky.profiler.prompts import poisson_offsets
from melange_sky.profiles import ReplicaShape, engine_replica
from melange_sky.simulator import RequestStream, simulate_replica
from melange_sky.slo import SLO, RequestLog
from melange_sky.steps import ReplicaModel, RequestSizes, capacity_estimate

INPUTS = (25, 100, 250, 500, 1000, 1250, 1500, 1750, 2000, 2500)
OUTPUTS = (25, 100, 250, 500, 1000, 1500)
SIZES = tuple((i, o) for i in INPUTS for o in OUTPUTS)
LAUNCHER = (25, 100, 250, 500, 1000, 2000)
LAUNCHER_RATES = (1, 2, 4, 8, 16, 32)
LIMITS = SLO(tpot_s=0.12, ttft_s=2.0, attainment=0.95)
_LOOK_EVERY_S = 1.0


@dataclass
class Timed:
    """A target that adds up how long its probes held the replica, in simulated seconds.

    `stop` ends a probe early as it does on a real endpoint: looked at once a second, with the answers
    that are complete by then, and what is in flight is given up.
    """

    replica: ReplicaModel
    size: tuple[int, int]
    stop: Callable[[RequestLog], bool] | None = None
    seconds: float = 0.0

    def probe(self, rate_rps: float, requests: int, seed: int) -> RequestLog:
        arrivals = poisson_offsets(rate_rps, requests, seed)
        log = simulate_replica(self.replica, RequestStream.of(arrivals, *self.size))
        end = float(np.nanmax(log.last_token_s))
        if self.stop is not None:
            # The prefix whose answers are all complete grows with the latest end so far.
            ends = np.maximum.accumulate(log.last_token_s)
            looks = np.arange(_LOOK_EVERY_S, end, max(_LOOK_EVERY_S, end / 400))
            for now in looks:
                part = log.select(np.arange(len(log)) < np.searchsorted(ends, now))
                if self.stop(part):
                    self.seconds += float(now)
                    return part
        self.seconds += end
        return log


def target(replica: ReplicaModel, size: tuple[int, int]) -> Timed:
    return Timed(replica=replica, size=size)


def guesses(believed: ReplicaModel) -> np.ndarray:
    """Return the analytic estimates of an engine for all sizes."""
    inputs, outputs = np.array(SIZES, float).T
    load = RequestSizes(input_tokens=inputs, output_tokens=outputs)
    return capacity_estimate(believed, load, LIMITS).rate_rps


def replica_of(accelerator: str) -> ReplicaModel:
    """Return Llama-2-7b on one GPU."""
    replica = engine_replica(
        load_model("meta-llama/Llama-2-7b-hf"),
        ReplicaShape(accelerator=accelerator, tensor_parallel=1),
    )
    assert isinstance(replica, ReplicaModel)
    return replica


def tilt(scale: float = 2.0, by_input: float = 0.1, by_output: float = -0.1) -> np.ndarray:
    """Return what an estimate is off by: a factor that changes with size as engines' errors do."""
    inputs, outputs = np.array(SIZES, float).T
    return scale * (inputs / INPUTS[-1]) ** by_input * (outputs / OUTPUTS[-1]) ** by_output


def launcher_seconds(replica: ReplicaModel, requests: int) -> float:
    """Return the simulated seconds of Mélange's launcher grid, every point charged from its first
    arrival to its last answer: 6 × 6 sizes at 6 rates, so many requests each."""
    seconds = 0.0
    for size_in in LAUNCHER:
        for size_out in LAUNCHER:
            timed = target(replica, (size_in, size_out))
            for seed, rate in enumerate(LAUNCHER_RATES):
                timed.probe(rate, requests, seed)
            seconds += timed.seconds
    return seconds


def truth(replica: ReplicaModel, sizes: Sequence[tuple[int, int]] = SIZES) -> np.ndarray:
    """Return the rates of sizes by a fine search."""
    fine = SearchOptions(tolerance=0.03, confirm_requests=1500, max_requests=3000, crossing=True)
    starts = guesses(replica)
    rates = np.full(len(sizes), np.nan)
    for k, size in enumerate(sizes):
        start = float(starts[SIZES.index(size)]) or None
        options = replace(fine, start_rps=start, growth=1.3)
        rates[k] = find_max_rate(target(replica, size), LIMITS, options).max_rate_rps or np.nan
    return rates


def weights() -> np.ndarray:
    """Log-normal sizes about a conversation's means (1155 in, 211 out)."""
    x, y = np.log(np.array(SIZES, float) / (800, 150)).T
    mix = np.exp(-(x**2 + y**2) / 2)
    return mix / mix.sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a profile found and what it cost."""

    rates: np.ndarray
    measured: dict[tuple[int, int], MeasuredRate]
    seconds: float
    expected_error: float


def profile(
    replica: ReplicaModel,
    believed: np.ndarray,
    bound: float = 0.05,
    search: SearchOptions = REAL_SEARCH,
    on_choice: Callable[[NextSize], None] | None = None,
) -> Profile:
    """Measure sizes of `replica` until the cost is known within `bound`, as a job does."""
    known = believed > 0
    demand = SizeDemand(
        sizes=tuple(s for s, k in zip(SIZES, known, strict=True) if k),
        weights=tuple(weights()[known]),
        guesses_rps=tuple(believed[known]),
        error_bound=bound,
    )
    measured: dict[tuple[int, int], MeasuredRate] = {}
    seconds = 0.0
    while True:
        choice = choose_size(demand, measured, LIMITS)
        if on_choice is not None:
            on_choice(choice)
        if choice.size is None:
            break
        options = replace(search_near(search, choice), seed=search.seed + 1000 * len(measured))
        timed = target(replica, choice.size)
        timed.stop = surely_fails(LIMITS, options)
        found = find_max_rate(timed, LIMITS, options)
        seconds += timed.seconds
        measured[choice.size] = MeasuredRate(
            rate_rps=found.max_rate_rps,
            low_rps=found.low_rps,
            high_rps=found.high_rps,
            turnovers=max(p.turnovers or 0.0 for p in found.probes),
        )
    rates = np.full(len(SIZES), np.nan)
    rates[known] = [np.nan if r is None else r for r in predicted_rates(demand, measured)]
    return Profile(
        rates=rates, measured=measured, seconds=seconds, expected_error=choice.expected_error
    )


def cost_error(real: np.ndarray, found: np.ndarray) -> float:
    """Return the signed error of what the mix costs on this GPU alone."""
    served = np.isfinite(real) & np.isfinite(found)
    mix = weights()[served]
    return float((mix / found[served]).sum() / (mix / real[served]).sum() - 1)
