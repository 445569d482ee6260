"""Plans and what runs of them, put together for the page. Pure: data in, data out.

Dollars are the plan's own prices times replicas, planned and live: no bill is read. Unknown is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from melange_sky.plans import elastic_bounds
from melange_sky.pricing.sanity import age_days
from melange_sky.rendering import service_name
from melange_sky.skyplugin.observed import observed_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from melange_sky.capacities import DeploymentOption
    from melange_sky.planner.scheduling.folder import Schedule
    from melange_sky.plans import Allocation, ModelPlan, Plan
    from melange_sky.skyplugin.observed import ModelSeen, Observed
    from melange_sky.skyplugin.plan_folders import FoundPlan
    from melange_sky.skyplugin.records import RunningService
    from melange_sky.skyserve import LiveReplica

STATES = ("ready", "starting", "not_ready", "stopping", "failed")
"""What a live replica can be; the words of SkyServe's statuses, gathered."""

_STATES = {
    "READY": "ready",
    "PENDING": "starting",
    "PROVISIONING": "starting",
    "STARTING": "starting",
    "NOT_READY": "not_ready",
    "SHUTTING_DOWN": "stopping",
    "PREEMPTED": "stopping",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The services that run, by name; None where SkyServe could not be asked."""

    services: dict[str, RunningService] | None

    def get(self, name: str) -> RunningService | None:
        """Return a service, None where it does not run or nobody knows."""
        return None if self.services is None else self.services.get(name)


def by_name(services: Iterable[RunningService] | None) -> Running:
    """Return services by their names."""
    known = None if services is None else {one.service.name: one for one in services}
    return Running(services=known)


NOTHING_OBSERVED: Observed = {}


def fleet_documents(
    found: Sequence[FoundPlan],
    running: Running,
    now: datetime,
    observed: Observed = NOTHING_OBSERVED,
) -> list[dict[str, Any]]:
    """Return one document per plan, in the order given."""
    return [fleet_document(one, running, now, observed) for one in found]


def fleet_document(
    found: FoundPlan, running: Running, now: datetime, observed: Observed = NOTHING_OBSERVED
) -> dict[str, Any]:
    """Return a plan with what runs of it and what its gateways saw: see `melange-sky help plugin` for the fields."""
    plan = found.plan
    models = [
        _model(plan, model, running, now, observed.get((found.id, model.name)))
        for model in plan.models
    ]
    strays = _strays(plan, running)
    live = [row["live_usd_per_hour"] for model in models for row in model["options"]]
    live += [one["usd_per_hour"] for one in strays]
    return {
        "id": found.id,
        "name": plan.name,
        "folder": found.file.parent.name,
        "created_at": plan.created_at,
        "models": models,
        "strays": strays,
        "planned_usd_per_hour": round(plan.cost_usd_per_hour, 6),
        "live_usd_per_hour": _sum(live) if running.services is not None else None,
        "prices": _prices(plan, now),
        "next_change": None if found.schedule is None else _next_change(found.schedule, now),
        "watch": found.watched,
        "warnings": [w.code for w in plan.warnings],
    }


def _model(
    plan: Plan, model: ModelPlan, running: Running, now: datetime, seen: ModelSeen | None
) -> dict[str, Any]:
    verified = model.verification
    return {
        "name": model.name,
        "model": model.model,
        "planned_rps": round(model.workload.rate_rps, 9),
        "slo_attainment": model.slo.attainment,
        "planned_attainment": model.planned_attainment,
        "verified": None
        if verified is None
        else {
            "attainment": verified.attainment,
            "low": verified.low,
            "high": verified.high,
            "holds": verified.holds,
        },
        "observed": None if seen is None else observed_document(seen, now.timestamp()),
        "options": [
            {**_option(model, one, running, now), **_bounds(plan, one), **_observed(one, seen)}
            for one in model.allocations
        ],
    }


def _bounds(plan: Plan, allocation: Allocation) -> dict[str, int]:
    """Return between which counts SkyServe may move an option's replicas; both are the plan's where it may not."""
    elastic, planned = plan.elastic, allocation.instances
    bounds = None if elastic is None else elastic_bounds(elastic, allocation, plan.headroom)
    return {
        "planned_min_replicas": planned if bounds is None else bounds.min_replicas,
        "planned_max_replicas": planned if bounds is None else bounds.max_replicas,
    }


def _observed(allocation: Allocation, seen: ModelSeen | None) -> dict[str, float | None]:
    one = None if seen is None else seen.options.get(allocation.candidate.option.name)
    return {
        "observed_rps": None if one is None else one.rate_rps,
        "observed_load": None if one is None else one.load_fraction,
    }


def _option(
    model: ModelPlan, allocation: Allocation, running: Running, now: datetime
) -> dict[str, Any]:
    option = allocation.candidate.option
    offer = option.offer
    name = service_name(model, allocation) if offer is not None else None
    live = None if name is None else running.get(name)
    row: dict[str, Any] = {
        "option": option.name,
        "service": name,
        "accelerators": option.accelerators,
        "infra": None if offer is None else f"{offer.cloud}/{offer.region}",
        "instance_type": None if offer is None else offer.instance_type,
        "use_spot": option.use_spot,
        "planned_replicas": allocation.instances,
        "planned_load": allocation.load_fraction,
        "price_usd_per_hour": option.price_usd_per_hour,
        "price_source": None if offer is None else offer.source,
        "price_as_of": None if offer is None else offer.as_of,
        "price_age_days": None if offer is None else age_days(offer.as_of, now),
        "planned_usd_per_hour": round(allocation.cost_usd_per_hour, 6),
    }
    if running.services is None:
        return {**row, **_unknown()}
    return {**row, **_live(live, allocation)}


def _unknown() -> dict[str, Any]:
    """Return a row's live part where SkyServe could not be asked: nothing is known, which is not zero."""
    names = ("status", "target_replicas", "live_replicas", "live_usd_per_hour", "endpoint")
    return {**dict.fromkeys(names), "replicas": [], "unplanned": []}


def _live(live: RunningService | None, allocation: Allocation) -> dict[str, Any]:
    if live is None:
        return {
            "status": "DOWN",
            "target_replicas": 0,
            "live_replicas": dict.fromkeys(STATES, 0),
            "live_usd_per_hour": 0.0,
            "endpoint": None,
            "replicas": [],
            "unplanned": [],
        }
    service, option = live.service, allocation.candidate.option
    billed = max(0.0, _billed(live) - allocation.fixed_instances / option.nodes)
    counts = dict.fromkeys(STATES, 0)
    for replica in service.replicas:
        counts[state_of(replica, service.version)] += 1
    rows = [
        {
            "id": replica.id,
            "status": replica.status,
            "version": replica.version,
            "launched_at_s": replica.launched_at_s,
            "accelerators": live.instances.get(replica.id),
        }
        for replica in service.replicas
    ]
    return {
        "status": service.status,
        "target_replicas": service.target,
        "live_replicas": counts,
        "live_usd_per_hour": round(option.price_usd_per_hour * billed, 6),
        "endpoint": service.endpoint,
        "replicas": rows,
        "unplanned": sorted(set(live.instances.values()) - _kinds(option)),
    }


def _kinds(option: DeploymentOption) -> set[str]:
    """Return how SkyPilot may name what the option runs on."""
    names = {
        option.accelerator,
        *(place.catalog_accelerator or place.accelerator for place in option.places),
    }
    return {f"{name}:{option.accelerator_count}" for name in names}


def state_of(replica: LiveReplica, version: int) -> str:
    """Return a replica's state; one of an older version that still answers is on its way out."""
    state = _STATES.get(replica.status, "failed")
    return "stopping" if state == "ready" and replica.version != version else state


def _billed(live: RunningService) -> int:
    """Return the replicas that hold a cluster, whatever their state: those are what a cloud bills."""
    return sum(one.launched_at_s is not None for one in live.service.replicas)


def _strays(plan: Plan, running: Running) -> list[dict[str, Any]]:
    """Return services that this fleet made and the plan no longer wants; priced where the plan knows them."""
    wanted = {
        service_name(model, one)
        for model in plan.models
        for one in model.allocations
        if one.candidate.option.offer is not None
    }
    prices = {
        (model.name, one.option.name): one.option.price_usd_per_hour
        for model in plan.models
        for one in model.candidates
    }
    found = []
    for name, live in sorted((running.services or {}).items()):
        maker = live.service.maker
        if name in wanted or plan.fleet_id is None or maker.fleet_id != plan.fleet_id:
            continue
        price = prices.get((str(maker.plan), str(maker.option)))
        found.append(
            {
                "service": name,
                "option": maker.option,
                "replicas": len(live.service.replicas),
                "usd_per_hour": None if price is None else round(price * _billed(live), 6),
            }
        )
    return found


def _next_change(schedule: Schedule, now: datetime) -> dict[str, str] | None:
    """Return when something else runs next by the schedule, and all that runs then; None where nothing changes."""
    for at, counts in schedule.timetable.changes(now):
        text = " + ".join(f"{count} × {name}" for name, count in counts.items() if count)
        return {
            "at": at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "text": text or "nothing",
        }
    return None


def _prices(plan: Plan, now: datetime) -> dict[str, Any]:
    """Return how old the prices are on which the plan's money rests: the oldest counts."""
    offers = [
        one.candidate.option.offer
        for model in plan.models
        for one in model.allocations
        if one.candidate.option.offer is not None
    ]
    ages = {offer.as_of: age_days(offer.as_of, now) for offer in offers}
    known = {as_of: age for as_of, age in ages.items() if age is not None}
    oldest = max(known, key=lambda as_of: known[as_of], default=None)
    return {
        "oldest_as_of": oldest,
        "oldest_age_days": None if oldest is None else known[oldest],
        "undated": sum(age is None for age in ages.values()),
        "sources": sorted({offer.source for offer in offers}),
    }


def _sum(parts: list[float | None]) -> float | None:
    """Return the sum, None where one part is not known: it would be too low."""
    if any(part is None for part in parts):
        return None
    return round(sum(part for part in parts if part is not None), 6)
