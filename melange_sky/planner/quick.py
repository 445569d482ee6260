"""`profile run --quick`: five minutes of probes that correct the estimates of a model on a GPU.

A few open-loop points tell apart what the host, the matrix products and the cache cost: requests
alone, long prompts, many sequences, and both at a rate near the estimated highest one. The loaded points
take the size asked for, which is best the one that `plan` names as most worth measuring.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np

from melange_sky import settings
from melange_sky.capacity_search import ProbeAborted
from melange_sky.engines import engine_named
from melange_sky.errors import InputError
from melange_sky.models import load_model
from melange_sky.planner.figures import replica_gpus
from melange_sky.profiler import PromptStyle, check_endpoint
from melange_sky.profiler.target import EndpointTarget, OutOfTime
from melange_sky.profiles import ReplicaShape, engine_replica
from melange_sky.profiles.calibration import Calibration, save_calibration
from melange_sky.simulator import ScaleFit, fit_scales
from melange_sky.steps import ReplicaModel, RequestSizes, capacity_estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from melange_sky.planner.measuring import MeasureOptions
    from melange_sky.slo import SLO, RequestLog

log = logging.getLogger(__name__)

MINUTES = 5.0
DEFAULT_SIZE = 512, 128
LEAST_PROBES = 3
NARROWEST, WIDEST = 0.12, 0.5
"""Least and most that the logarithm of a corrected estimate is said to be off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one probe sends: sizes in tokens and the share of the estimated highest rate."""

    input_tokens: int
    output_tokens: int
    share: float
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickMeasurement:
    """What was fitted, on how many probes, and where it is kept."""

    calibration: Calibration
    fit: ScaleFit
    path: Path


def measure_quick(
    options: MeasureOptions, on_point: Callable[[Point], None] | None = None
) -> QuickMeasurement:
    """Probe a server for five minutes at most and keep the corrected constants.

    Raises InputError for wrong use and where too few probes could be used, SourceUnavailableError
    where the server cannot be reached.
    """
    started = time.monotonic()
    name, gpus = replica_gpus(options.accelerator)
    engine = engine_named(options.engine)
    facts = check_endpoint(options.endpoint, _style(options))
    generation = engine.generation_of(facts.version)
    shape = ReplicaShape(accelerator=name, tensor_parallel=gpus)
    replica = engine_replica(load_model(options.model), shape, generation)
    if not isinstance(replica, ReplicaModel):
        raise InputError(f"--accelerator: {options.model} does not fit on {name}:{gpus}")
    minutes = MINUTES if options.max_minutes is None else options.max_minutes
    size = options.sizes[0] if options.inputs and options.outputs else DEFAULT_SIZE
    points = _points(replica, size, options.slo, facts.context_tokens)
    logs = list(_probes(options, replica, points, started + minutes * 60, on_point))
    _check_probes(len(logs), len(points), minutes)
    fit = fit_scales(replica, logs)
    spread = min(max(NARROWEST, 1.645 * fit.rms), WIDEST)
    calibration = Calibration(
        model=options.model,
        accelerator=name,
        tensor_parallel=gpus,
        engine=engine.name,
        generation=generation,
        engine_version=facts.version,
        scales=fit.scales,
        low=round(math.exp(-spread), 3),
        high=round(math.exp(spread), 3),
        probes=len(logs),
        seconds=round(time.monotonic() - started, 1),
        measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    path = save_calibration(calibration, options.out or settings.profiles_dir())
    return QuickMeasurement(calibration=calibration, fit=fit, path=path)


def _check_probes(used: int, planned: int, minutes: float) -> None:
    """Raise InputError where too few probes could be used."""
    if used < LEAST_PROBES:
        raise InputError(
            f"only {used} of {planned} probes could be used in {minutes:g} min; "
            "raise --max-minutes, or run nearer to the server"
        )


def _style(options: MeasureOptions) -> PromptStyle:
    if options.reuse is not None:
        raise InputError(
            "--quick corrects estimates of prompts that share nothing: leave --reuse out"
        )
    return PromptStyle(words=options.prompts == "words", prefix_share=options.prefix_share)


def _points(
    replica: ReplicaModel, size: tuple[int, int], slo: SLO, context_tokens: int | None
) -> tuple[Point, ...]:
    """Return what to send, the quickest first: each tells apart one kind of constant."""
    most = context_tokens or 4096
    long = max(64, min(2048, most - 64, replica.pool.tokens // 2))
    inputs, outputs = size
    if inputs + outputs > most:
        raise InputError(
            f"the server takes at most {most} tokens, {inputs} + {outputs} exceeds that"
        )
    return (
        Point(input_tokens=64, output_tokens=64, share=0.02, requests=12),
        Point(input_tokens=long, output_tokens=16, share=0.05, requests=12),
        Point(input_tokens=64, output_tokens=256, share=0.6, requests=120),
        Point(input_tokens=inputs, output_tokens=outputs, share=0.5, requests=100),
        Point(input_tokens=inputs, output_tokens=outputs, share=0.85, requests=160),
        Point(input_tokens=long, output_tokens=64, share=0.7, requests=80),
    )


def _probes(
    options: MeasureOptions,
    replica: ReplicaModel,
    points: tuple[Point, ...],
    deadline_s: float,
    on_point: Callable[[Point], None] | None,
) -> Iterator[RequestLog]:
    """Send the points until the time is over; a probe that the client itself spoilt is left out."""
    for seed, point in enumerate(points):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            return
        if on_point is not None:
            on_point(point)
        load = RequestSizes(
            input_tokens=np.array([float(point.input_tokens)]),
            output_tokens=np.array([float(point.output_tokens)]),
        )
        most_rps = float(capacity_estimate(replica, load, options.slo).rate_rps[0])
        rate_rps = max(most_rps * point.share, 0.05)
        # what is left is shared by the points that are left
        share_s = left_s / (len(points) - seed)
        requests = max(8, min(point.requests, int(rate_rps * share_s * 0.7)))
        rate_rps = max(rate_rps, requests / share_s)
        target = EndpointTarget(
            endpoint=options.endpoint,
            input_tokens=point.input_tokens,
            output_tokens=point.output_tokens,
            style=_style(options),
            late_s=options.max_lateness_ms / 1e3,
            deadline_s=deadline_s,
        )
        with contextlib.suppress(ProbeAborted, OutOfTime):
            found = target.probe(rate_rps, requests, options.seed + seed)
            if found.ok.any():
                yield found
