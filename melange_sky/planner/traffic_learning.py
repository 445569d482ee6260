"""`profile learn`: correct the estimates of a model on a GPU by the figures of replicas that serve it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from melange_sky import settings
from melange_sky.capacities import Origin
from melange_sky.engines import DEFAULT_ENGINE, engine_named
from melange_sky.errors import InputError
from melange_sky.learning import Learnt, learn, windows_of
from melange_sky.learning.windows import RESTARTED, pooled
from melange_sky.models import load_model
from melange_sky.planner.figures import replica_gpus, slo_of
from melange_sky.profiler.endpoint import Endpoint, ServerPages
from melange_sky.profiler.prometheus import Asked, Prometheus
from melange_sky.profiler.scraping import Scraping
from melange_sky.profiles import ReplicaShape, engine_replica
from melange_sky.profiles.calibration import Calibration, save_calibration
from melange_sky.steps import ReplicaModel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from melange_sky.engines import Engine
    from melange_sky.learning import Scrape

NARROWEST = 0.08
"""Least that the logarithm of a rate is said to be off: means of minutes hide what single requests see."""

_OFTEN = 10
"""Restarts in one window that are more than a server's."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_WINDOW = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*")


@dataclass(frozen=True, kw_only=True)
class LearnOptions:
    """Which servers to look at, for how long, and what they serve: the flags of `profile learn`, by their names.

    `metrics` are servers that are looked at from now on; `prometheus` is one that looked at them already,
    `select` leaves those of one kind. `window` is a time such as 90m or 24h. `out` None is the profile store.
    """

    model: str
    accelerator: str
    metrics: Sequence[str] = ()
    prometheus: str | None = None
    select: str | None = None
    prometheus_token_env: str = "PROMETHEUS_TOKEN"
    window: str = "1h"
    every_s: float = 15.0
    tpot_ms: float | None = None
    ttft_ms: float | None = None
    attainment: float = 0.95
    engine: str = DEFAULT_ENGINE.name
    api_key_env: str = "OPENAI_API_KEY"
    out: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was learnt, what was cut out of the watching and how often, and where it is kept.

    `calibration` and `path` are None where nothing is kept, because traffic stayed so low that it tells no ceiling.
    """

    learnt: Learnt
    cuts: dict[str, int]
    calibration: Calibration | None
    path: Path | None


def learn_from_traffic(
    options: LearnOptions, on_look: Callable[[float, float], None] | None = None
) -> Observation:
    """Look at servers for a while and keep what their traffic tells. `on_look` gets seconds gone and in all.

    Raises InputError for wrong use and where too little was seen, SourceUnavailableError where no server
    answers.
    """
    seconds = window_seconds(options.window)
    slo = slo_of(options.tpot_ms, options.ttft_ms, options.attainment)
    name, gpus = replica_gpus(options.accelerator)
    engine = engine_named(options.engine)
    if not engine.histograms:
        raise InputError(
            f"--engine {engine.name}: constants are learnt from other engines' metrics alone"
        )
    look = _past(options, engine) if options.prometheus is not None else _now(options, engine)
    model = load_model(options.model)
    seen = look(seconds, None if on_look is None else lambda gone: on_look(gone, seconds))
    version = next((v for v in seen.versions if v is not None), None)
    generation = engine.generation_of(version)
    replica = engine_replica(
        model, ReplicaShape(accelerator=name, tensor_parallel=gpus), generation
    )
    if not isinstance(replica, ReplicaModel):
        raise InputError(f"--accelerator: {options.model} does not fit on {name}:{gpus}")
    watched = pooled(windows_of(looks) for looks in seen.looks)
    cuts = {**watched.cuts, **seen.cuts}
    try:
        learnt = learn(replica, watched, slo)
    except ValueError as error:
        raise InputError(
            f"{error}{_left_out(cuts)}; look longer (--window {options.window})"
        ) from error
    found = _kept(options, learnt, (name, gpus, generation, version), seconds)
    path = (
        None if found is None else save_calibration(found, options.out or settings.profiles_dir())
    )
    return Observation(
        learnt=learnt,
        cuts={reason: count for reason, count in cuts.items() if count},
        calibration=found,
        path=path,
    )


def _left_out(cuts: Mapping[str, int]) -> str:
    """Return what stands against learning, the most frequent alone."""
    reason, count = max(cuts.items(), key=lambda cut: cut[1], default=("", 0))
    if not count:
        return ""
    hint = ", which servers under the same labels look like" if reason == RESTARTED else ""
    return f"; left out: {reason} ({count} ×){hint if count >= _OFTEN else ''}"


def window_seconds(text: str) -> float:
    """Return the seconds of a time such as 90m or 24h; InputError for anything else.

    >>> window_seconds("1.5h")
    5400.0
    """
    match = _WINDOW.fullmatch(text)
    if match is None or float(match[1]) <= 0:
        raise InputError(f"--window {text[:40]!r} is no time; write 30m, 24h or 7d")
    return float(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """Looks, one list per server, the versions that servers told, and what came to nothing, how often."""

    looks: Sequence[Sequence[Scrape]]
    cuts: dict[str, int]
    versions: Sequence[str | None] = ()


_Look = Callable[[float, Callable[[float], None] | None], _Seen]


def _now(options: LearnOptions, engine: Engine) -> _Look:
    """Return what looks at the servers from now on."""
    if not options.metrics:
        raise InputError(
            "--metrics is needed, the address of each replica, such as http://HOST:8000; "
            "or --prometheus, the address of a Prometheus that scrapes them"
        )
    if options.select is not None:
        raise InputError("--select chooses among what a --prometheus knows")
    key = settings.secret(options.api_key_env)
    pages = ServerPages.of(engine)
    scraping = Scraping(
        endpoints=[
            Endpoint(
                url=re.sub(r"/metrics/*$", "", url), model=options.model, api_key=key, pages=pages
            )
            for url in options.metrics
        ],
        engine=engine,
        every_s=options.every_s,
    )

    def look(seconds: float, on_look: Callable[[float], None] | None) -> _Seen:
        scraping.run(seconds, on_look)
        cuts = {"looks got no answer": scraping.missed, "pages told nothing": scraping.unread}
        return _Seen(looks=scraping.looks, cuts=cuts, versions=scraping.versions)

    return look


def _past(options: LearnOptions, engine: Engine) -> _Look:
    """Return what reads the looks that a Prometheus took already."""
    if options.metrics:
        raise InputError("--metrics looks from now on and --prometheus back: one of the two")
    assert options.prometheus is not None
    name = options.prometheus_token_env
    server = Prometheus.at(options.prometheus, settings.secret(name), name)

    def look(seconds: float, on_look: Callable[[float], None] | None) -> _Seen:
        asked = Asked(window_s=seconds, model=options.model, select=options.select)
        kept = server.looks(engine, asked)
        cuts = {"samples told nothing": kept.unread, "answers came with a warning": kept.warned}
        return _Seen(looks=kept.looks, cuts=cuts)

    return look


def _kept(
    options: LearnOptions, learnt: Learnt, where: tuple[str, int, str, str | None], seconds: float
) -> Calibration | None:
    """Return what plans may use: all that was learnt where the ceiling was seen, else only what lowers it."""
    low, high = learnt.low_rps / learnt.rate_rps, learnt.high_rps / learnt.rate_rps
    scales = learnt.scales
    if not learnt.is_ceiling_seen:
        if learnt.high_rps >= learnt.estimated_rps:
            return None
        scales, low, high = learnt.low_scales, 1.0, learnt.high_rps / learnt.low_rps
    widest = math.exp(NARROWEST)
    name, gpus, generation, version = where
    return Calibration(
        model=options.model,
        accelerator=name,
        tensor_parallel=gpus,
        engine=options.engine,
        generation=generation,
        engine_version=version,
        scales=scales,
        low=round(min(low, 1 / widest), 3),
        high=round(max(high, widest), 3),
        probes=learnt.windows,
        seconds=round(seconds, 1),
        measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        origin=Origin.OBSERVED.value,
    )
