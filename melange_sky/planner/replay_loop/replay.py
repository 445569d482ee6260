"""Replay one model of a plan: which traffic, through which engines, for how long."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from melange_sky.engines import engine_named
from melange_sky.errors import InputError
from melange_sky.prefixes import sampled_paths
from melange_sky.profiles import ReplicaShape, engine_replica
from melange_sky.replay import (
    LONG_REQUESTS,
    STAGES,
    Replay,
    Simulation,
    Traffic,
    interruptions_per_hour,
    interval_of_another,
    interval_over_windows,
    judge_runs,
    replay,
    sample_stream,
    scaled_rows,
    trace_rows,
    windows_of,
)
from melange_sky.replay.traffic import MAX_REQUESTS
from melange_sky.replay.verdict import WARMUP_AT_MOST
from melange_sky.spec import blocks_of, files_of, options_of, trace_name
from melange_sky.spec.trace_reuse import shared_trace
from melange_sky.steps import Misfit
from melange_sky.workload import TraceFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from melange_sky.plans import Allocation, ModelPlan
    from melange_sky.simulator import RequestStream
    from melange_sky.simulator.fleet import FleetRun
    from melange_sky.spec.intake import Intake
    from melange_sky.steps import ReplicaModel
    from melange_sky.workload import Trace

NO_AFFINITY: Literal["off"] = "off"

FIRST_REPLICATIONS = 2
FIRST_REQUESTS = 20_000
QUICK_REQUESTS = 8_000
MOST_REQUESTS = 1_280_000
ENOUGH_REQUESTS = 60_000
"""Requests of one replication above which it is looked at before another is begun, where that may do."""

SHORTEST_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayProgress:
    """How far a replay is: requests judged so far, how well the attainment is known, and the aim."""

    requests: int
    half_width: float
    aim: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationRequest:
    """What to replay. `trace` None samples the plan's workload.

    `ci` is the half width of the attainment's interval to reach: sampled traffic is replayed again
    with other random numbers until it is reached, a trace is as long as it is; with `until_sure` also
    no more than it takes the interval to lie on one side of the target, and a long trace by windows. `duration_s` fixes the length
    of sampled traffic, one replication then, and cuts a trace. `rate_scale` multiplies the rate.
    `burstiness`: see `replay.Traffic`. `jobs` replications run side by side, which changes no result.
    `on_progress` gets how far a replay is after each judgement.
    """

    trace: Trace | None = None
    rate_scale: float = 1.0
    duration_s: float | None = None
    ci: float = 0.01
    until_sure: bool = False
    burstiness: float = 1.0
    how: Replay = field(default_factory=Replay)
    jobs: int = 1
    on_progress: Callable[[ReplayProgress], None] | None = None

    @property
    def is_long(self) -> bool:
        """Whether the traffic is a trace that is judged by windows before it is replayed whole."""
        return self.trace is not None and len(rows_of(self.trace)) > LONG_REQUESTS


def simulate_plan(plan: ModelPlan, request: SimulationRequest) -> Simulation:
    """Replay one model of a plan and judge it. Same arguments, same result, whatever the `jobs`.

    Where the plan's workload says that prompts share, they do in replay, and requests go as its gateway will send
    them: with session affinity if the plan counts on that.
    Images add their tokens to every prompt; requests are routed and judged by their text, as planned.
    Raises InputError for an unreadable trace or a plan that says nothing of its engines.
    """
    images = plan.workload.images
    if plan.reuse is not None and plan.reuse.affinity != NO_AFFINITY:
        request = replace(request, how=replace(request.how, affinity=True))
    if images is None:
        return _simulated(plan, request)
    seen = replace(plan, workload=plan.workload.as_prompts())
    return replace(_simulated(seen, request, images.prompt_tokens), plan=plan)


def _simulated(plan: ModelPlan, request: SimulationRequest, image_tokens: int = 0) -> Simulation:
    """Replay a plan whose workload counts whole prompts; a trace's requests gain their images."""
    if request.trace is not None:
        return _traced(plan, request, request.trace, image_tokens)
    rate_rps = plan.workload.rate_rps * request.rate_scale
    first = QUICK_REQUESTS if request.until_sure else FIRST_REQUESTS
    duration_s = request.duration_s or max(
        SHORTEST_S, first / FIRST_REPLICATIONS / rate_rps, _settling_s(plan, rate_rps)
    )
    if rate_rps * duration_s > MAX_REQUESTS:
        raise InputError(
            f"{rate_rps * duration_s:.3g} requests are more than {MAX_REQUESTS}: shorten --duration"
        )
    runs: list[FleetRun] = []
    is_one = request.duration_s is not None or (
        request.until_sure and rate_rps * duration_s > ENOUGH_REQUESTS
    )
    count = 1 if is_one else FIRST_REPLICATIONS
    while True:
        runs += _replications(plan, request, duration_s, range(len(runs), count))
        traffic = _traffic_text(plan, request, duration_s, count)
        simulation = _judged(plan, request, runs, traffic)
        enough = simulation.verdict.half_width <= request.ci
        enough |= request.until_sure and simulation.verdict.surely
        longest = simulation.verdict.requests * 2 > MOST_REQUESTS
        if enough or longest or request.duration_s is not None:
            return simulation
        count *= 2


def _settling_s(plan: ModelPlan, rate_rps: float) -> float:
    """Return how long to replay for the longest answers at their limits to be but warm-up of it."""
    workload, slo = plan.workload, plan.slo
    longest = max(workload.output_sizes[i][j] for i, j in workload.buckets())
    slowest_s = (slo.ttft_s or 0.0) + longest * (slo.tpot_s or 0.0)
    return min(slowest_s / WARMUP_AT_MOST, MOST_REQUESTS / FIRST_REPLICATIONS / rate_rps)


def _replications(
    plan: ModelPlan, request: SimulationRequest, duration_s: float, numbers: Iterable[int]
) -> list[FleetRun]:
    """Replay so many samples of the traffic, each from an empty fleet, in the order of `numbers`."""
    traffic = Traffic(
        duration_s=duration_s, rate_scale=request.rate_scale, burstiness=request.burstiness
    )

    def one(number: int) -> FleetRun:
        rng = np.random.default_rng([request.how.seed, 0, number])
        stream = sample_stream(plan.workload, traffic, rng)
        if shares_prefixes(plan):
            stream = _sharing(stream, plan, np.random.default_rng([request.how.seed, 2, number]))
        return replay(plan, engine_of, stream, replace(request.how, replication=number))

    with ThreadPoolExecutor(max_workers=max(request.jobs, 1)) as pool:
        return list(pool.map(one, numbers))


def shares_prefixes(plan: ModelPlan) -> bool:
    """Return whether prompts are replayed with what they share: it is told, and the engine keeps it."""
    engine = engine_named(plan.engine.name)
    return plan.workload.reuse is not None and engine.caches_prefixes(plan.engine.args)


def sharing_stream(plan: ModelPlan, requests: int, seed: int) -> RequestStream:
    """Return requests of a plan's workload with what they share: its trace, or so many that are sampled."""
    arrivals, rate_rps = plan.workload.arrivals, plan.workload.rate_rps
    if arrivals is not None and arrivals.trace is not None:
        paths = shared_trace(arrivals.trace).paths
        return scaled_rows(rows_of(arrivals.trace), prefixes=paths)[0]
    traffic = Traffic(duration_s=requests / rate_rps)
    stream = sample_stream(plan.workload, traffic, np.random.default_rng([seed, 0, 0]))
    return _sharing(stream, plan, np.random.default_rng([seed, 2, 0]))


def shared_stream(stream: RequestStream, plan: ModelPlan, seed: int) -> RequestStream:
    """Return requests with what they share by a plan's workload, as they are where that is nothing."""
    if not shares_prefixes(plan):
        return stream
    return _sharing(stream, plan, np.random.default_rng([seed, 2, 0]))


def _sharing(stream: RequestStream, plan: ModelPlan, rng: np.random.Generator) -> RequestStream:
    """Return sampled requests with prompts that share by the workload's figures."""
    assert plan.workload.reuse is not None
    paths = sampled_paths(
        stream.arrival_s, stream.input_tokens, stream.output_tokens, plan.workload.reuse, rng
    )
    return replace(stream, prefixes=paths)


def _traffic_text(
    plan: ModelPlan, request: SimulationRequest, duration_s: float, count: int
) -> str:
    kind = "Poisson" if request.burstiness == 1 else f"bursty (Gamma, CV² {request.burstiness:g})"
    rate_rps = plan.workload.rate_rps * request.rate_scale
    times = f"{count} × " if count > 1 else ""
    return (
        f"{kind} arrivals at {rate_rps:.4g} req/s for {times}{duration_s:.0f} s, sizes from "
        f"{plan.workload.source}"
    )


def _traced(
    plan: ModelPlan, request: SimulationRequest, trace: Trace, image_tokens: int
) -> Simulation:
    prefixes = None
    if shares_prefixes(plan) and not image_tokens:
        prefixes = shared_trace(trace).paths
    stream, without_output = scaled_rows(
        rows_of(trace), request.rate_scale, request.duration_s, prefixes
    )
    if image_tokens:
        stream = replace(stream, input_tokens=stream.input_tokens + image_tokens)
    if not len(stream):
        raise InputError(f"{trace_name(trace)}: the trace holds no request")
    notes = trace_notes(trace)
    if without_output:
        notes += (f"{without_output} requests of the trace have no output token; sent with one",)
    span_s = float(stream.arrival_s[-1])
    rate = f" ({(len(stream) - 1) / span_s:.4g} req/s)" if span_s > 0 else ""
    traffic = f"trace {trace_name(trace)}, timing × {1 / request.rate_scale:.4g}{rate}"
    if request.until_sure and len(stream) > LONG_REQUESTS:
        return _by_windows(plan, request, stream, traffic, notes)
    run = replay(plan, engine_of, stream, request.how)
    return _judged(plan, request, [run], traffic, notes)


def _by_windows(
    plan: ModelPlan,
    request: SimulationRequest,
    stream: RequestStream,
    traffic: str,
    notes: tuple[str, ...],
) -> Simulation:
    """Replay windows of a long trace, more of them where a few leave doubt."""
    stages = iter(STAGES)
    while True:
        count = next(stages)
        streams = windows_of(stream, count, _shift(request.how.seed))

        def one(number: int, streams: list[RequestStream] = streams) -> FleetRun:
            how = replace(request.how, replication=number)
            return replay(plan, engine_of, streams[number], how)

        with ThreadPoolExecutor(max_workers=max(request.jobs, 1)) as pool:
            runs = list(pool.map(one, range(len(streams))))
        simulation = _judged(plan, request, runs, f"{traffic}, {len(streams)} windows of it", notes)
        verdict = replace(simulation.verdict, interval=interval_over_windows(runs, plan.slo))
        if verdict.surely or count == STAGES[-1]:
            return replace(simulation, verdict=verdict)


def _shift(seed: int) -> float:
    """Return where in the order of business a seed takes its windows: the golden ratio spreads them."""
    return (seed * 0.6180339887 + 0.5) % 1.0 - 0.5


def rows_of(trace: Trace) -> NDArray[np.void]:
    """Return a trace's rows; files that have not changed since are read once."""
    return _read(trace).rows


def trace_notes(trace: Trace) -> tuple[str, ...]:
    """Return what is to be told of how a trace was read: what was left out of it, what was estimated."""
    return _read(trace).notes


class _Read(NamedTuple):
    """A trace's rows, and what is to be told of them."""

    rows: NDArray[np.void]
    notes: tuple[str, ...]


def _read(trace: Trace) -> _Read:
    files = files_of(trace)
    try:
        stats = [file.stat() for file in files]
    except OSError:
        return _read_rows(trace)  # which says what is wrong with it
    whole = TraceFiles(files=files, options=options_of(trace))
    return _rows(whole, tuple((stat.st_mtime_ns, stat.st_size) for stat in stats))


@lru_cache(maxsize=2)
def _rows(trace: TraceFiles, _changed: tuple[tuple[int, int], ...]) -> _Read:
    return _read_rows(trace)


def _read_rows(trace: Trace) -> _Read:
    intakes: list[Intake] = []
    found = blocks_of(trace, told=intakes.append)
    blocks = [(b.arrival_s, b.input_tokens, b.output_tokens) for b in found]
    if not blocks:
        raise InputError(f"{trace_name(trace)}: {intakes[0].why_empty}")
    rows = trace_rows(*map(np.concatenate, zip(*blocks, strict=True)))
    name = trace_name(trace)
    return _Read(rows, tuple(f"{name}: {text}" for one in intakes for text in one.warnings))


def _judged(
    plan: ModelPlan,
    request: SimulationRequest,
    runs: list[FleetRun],
    traffic: str,
    notes: tuple[str, ...] = (),
) -> Simulation:
    if not any(len(run.log) for run in runs):
        raise InputError("the duration is too short for a single request; use a longer --duration")
    verdict, whole = judge_runs(runs, plan.slo, plan.workload, plan.cost_usd_per_hour)
    if request.trace is not None and len(runs) == 1:
        found = interval_of_another(whole.log, plan.slo)
        verdict = replace(verdict, interval=(found.low, found.high))
        traffic += f", interval for another such stretch by its {found.windows} parts of {found.window_s:.0f} s"
    if request.on_progress is not None:
        request.on_progress(
            ReplayProgress(requests=verdict.judged, half_width=verdict.half_width, aim=request.ci)
        )
    if verdict.warmup_capped:
        notes += (
            (
                f"too short for its slowest requests, which take longer than the {verdict.warmup_s:.0f} s "
                "left out at each end; use a longer --duration"
            ),
        )
    if verdict.half_width > request.ci:
        notes = (
            *notes,
            f"too short for ±{request.ci:g}: the attainment is known to ±{verdict.half_width:.3g}",
        )
    traffic += _outages_text(plan, request.how)
    affinity = request.how.affinity and request.how.policy == "gateway"
    return Simulation(
        plan=plan, verdict=verdict, run=whole, traffic=traffic, notes=notes, affinity=affinity
    )


def _outages_text(plan: ModelPlan, how: Replay) -> str:
    """Return which outages were injected, empty for none."""
    parts = []
    if how.outages_per_hour > 0:
        parts.append(f"{how.outages_per_hour:g} outages of {how.outage_s:g} s per replica and hour")
    spot = plan.spot
    rate = max((interruptions_per_hour(plan, a) for a in plan.allocations), default=0.0)
    if spot is not None and rate > 0:
        parts.append(f"{rate:g} interruptions of {spot.recovery_s:g} s per spot replica and hour")
    return "".join(f", with {part}" for part in parts)


def engine_of(plan: ModelPlan, allocation: Allocation) -> ReplicaModel:
    """Return the engine of an allocation's replicas from the engine model's step times."""
    option = allocation.candidate.option
    model = plan.shape_of(option)
    assert option.engine is not None and model is not None
    shape = ReplicaShape.of(option)
    generation = plan.engine_generation or engine_named(plan.engine.name).generation
    replica = engine_replica(model, shape, generation)
    if isinstance(replica, Misfit):
        raise InputError(
            f"{plan.name}: {plan.model} does not fit on {option.name} any more; plan again"
        )
    return replica


def with_policy(request: SimulationRequest, policy: str) -> SimulationRequest:
    """Return the same request with another routing policy."""
    return replace(request, how=replace(request.how, policy=policy))


def rate_of_trace(trace: Trace) -> float:
    """Return a trace's mean rate; InputError where it spans no time."""
    stream, _ = scaled_rows(rows_of(trace))
    span_s = float(stream.arrival_s[-1]) if len(stream) else 0.0
    if span_s <= 0:
        raise InputError(
            f"{trace_name(trace)}: the trace spans no time, so it cannot be scaled to a rate"
        )
    return (len(stream) - 1) / span_s
