"""From flags to what is looked at: the sources of a fleet's looks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky import settings
from melange_sky.engines import engine_named
from melange_sky.errors import InputError
from melange_sky.planner.gateway_keys import CLIENT_KEYS
from melange_sky.planner.watching.sources.gateway import GatewaySource
from melange_sky.planner.watching.sources.together import Together
from melange_sky.planner.watching.starts import StartLog
from melange_sky.watching.seen import Seen

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.planner.watching.asking import WatchOptions
    from melange_sky.planner.watching.holding import Holding
    from melange_sky.planner.watching.ticking import Source
    from melange_sky.plans import ModelPlan, Plan

log = logging.getLogger(__name__)

PROMETHEUS_TOKEN = "PROMETHEUS_TOKEN"
"""The variable with a Prometheus's token."""

ONCE_S = 30.0
"""How far the two looks are apart that `--once` needs to see a rate."""


def source_of(
    options: WatchOptions, planned: Plan, folder: Path, holding: Holding | None
) -> Source:
    """Return what the options name. Raises InputError where that cannot be read.

    With a `holding`, that of `--mode apply`, SkyServe says which replicas run; else who sees the traffic, or, where that is the
    observed file alone, the plan.
    """
    if len(planned.models) != 1:
        raise InputError("watch follows one model; this plan has several: make a plan for each")
    (model,) = planned.models
    sources = _of_traffic(options, model)
    if holding is not None:
        sources.insert(0, _of_sky(planned, folder, holding))
    elif options.observed and not (options.gateway or options.metrics or options.prometheus):
        log.warning("no source tells which replicas run: the plan's are taken to")
        sources.append(PlannedFleet(plan=model))
    source: Source = Together(sources=sources, clock=time.time, prices_as_of=oldest_price(model))
    return Twice(source=source, apart_s=min(ONCE_S, options.every_s)) if options.once else source


def oldest_price(model: ModelPlan) -> str | None:
    """Return since when the oldest price of a plan's options is known, None where one has no date."""
    offers = [c.option.offer for c in model.candidates if c.option.offer is not None]
    dates = [offer.as_of for offer in offers]
    known = [date for date in dates if date is not None]
    return min(known) if known and len(known) == len(dates) else None


def _of_traffic(options: WatchOptions, model: ModelPlan) -> list[Source]:
    found: list[Source] = []
    if options.gateway:
        keys = (settings.secret(CLIENT_KEYS) or "").split()  # one a line; any of them will do
        key = keys[0] if keys else None
        found.append(GatewaySource(urls=[options.gateway], plan=model, key=key))
    if options.prometheus:
        from melange_sky.planner.watching.sources.prometheus import PrometheusSource
        from melange_sky.profiler.prometheus import Prometheus

        token = settings.secret(PROMETHEUS_TOKEN)
        server = Prometheus.at(options.prometheus, token, PROMETHEUS_TOKEN)
        found.append(PrometheusSource(server=server, plan=model))
    if options.observed:
        from melange_sky.planner.watching.sources.observed_file import ObservedSource

        found.append(ObservedSource(path=options.observed, plan=model))
    if options.metrics:
        from melange_sky.planner.watching.sources.replicas import ReplicaSource

        engine = engine_named(model.engine.name)
        key = settings.secret(engine.key_variable)
        found.append(ReplicaSource(places=options.metrics, engine=engine, key=key))
    if not found:
        raise InputError(
            "give --gateway URL, --prometheus URL, --observed FILE or --metrics OPTION=URL: where the traffic is seen"
        )
    return found


def _of_sky(planned: Plan, folder: Path, holding: Holding) -> Source:
    from melange_sky.planner.watching.sources.sky import SkySource
    from melange_sky.skyserve.client import SkyServe

    starts = StartLog.of(folder)
    return SkySource(plan=planned, records=SkyServe({}), holding=holding, starts=starts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFleet:
    """The plan's own fleet, taken to run where nobody says what does: never where anything is changed."""

    plan: ModelPlan

    def see(self) -> Seen:
        """Return the planned replicas."""
        live = {a.candidate.option.name: a.instances for a in self.plan.allocations}
        return Seen(time=time.time(), live=live)


@dataclass(frozen=True, slots=True, kw_only=True)
class Twice:
    """Looks twice at first, since rates come from two readings."""

    source: Source
    apart_s: float
    sleep: Callable[[float], None] = time.sleep

    def see(self) -> Seen:
        """Return the second look of two, the faults of both in it."""
        first = self.source.see()
        self.sleep(self.apart_s)
        second = self.source.see()
        missed = tuple(fault for fault in first.faults if fault not in second.faults)
        if not missed or second.rate_rps is not None:
            return second
        return Seen(time=second.time, live=second.live, faults=missed + second.faults)
