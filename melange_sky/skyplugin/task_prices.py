"""A SkyPilot task as the guard sees it: where it may run, and what that costs.

SkyPilot's own `max_hourly_cost` is a filter of its optimizer, which ignores it where an instance type is given,
for GPUs of GCP and on Kubernetes. So every price is looked up here, as SkyPilot's optimizer would: in its catalog,
for one's own hardware in its configuration (`kubernetes.pricing`), else among the plans' own prices. Nothing asks a
cluster, which may take minutes to answer. What nobody has priced is None, never 0.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from melange_sky.rendering.clouds import VIRTUAL_INSTANCES
from melange_sky.skyplugin.guarded import Choice, Launch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from melange_sky.plans import Plan

log = logging.getLogger(__name__)

_HOUR_S = 3600
_CATALOG = "SkyPilot's catalog"
_PLANNED = "a plan's own price"


@dataclass(frozen=True, slots=True)
class _Price:
    """What one instance costs by whom, None where that is not known; `fits` is False where nothing is offered."""

    usd_per_hour: float | None
    source: str = ""
    fits: bool = True


_UNKNOWN, _NOT_OFFERED = _Price(None), _Price(None, fits=False)


def launch_of(task: Any, plans: Iterable[Plan], *, limited: bool) -> Launch:
    """Return a `sky.Task` as data, priced.

    A choice that names no cloud is priced only where a limit is held against it (`limited`, or its own): every
    enabled cloud is looked through for it, as SkyPilot will.
    """
    plans = tuple(plans)
    mark = (task.metadata or {}).get("melange_sky")
    service = task.service
    replicas = 1 if service is None else (service.max_replicas or service.min_replicas)
    return Launch(
        name=task.name or "this task",
        mark={str(k): str(v) for k, v in mark.items()} if isinstance(mark, dict) else None,
        replicas=replicas,
        nodes=task.num_nodes,
        choices=tuple(_choice(one, task.num_nodes, plans, limited) for one in task.resources),
    )


def _choice(resources: Any, nodes: int, plans: tuple[Plan, ...], limited: bool) -> Choice:
    bare = Choice(
        cloud=None if resources.cloud is None else str(resources.cloud).casefold(),
        region=_region(resources),
        instance_type=resources.instance_type,
        accelerators=dict(resources.accelerators or {}),
        use_spot=bool(resources.use_spot),
        usd_per_hour=None,
        source="",
        most_usd_per_hour=resources.max_hourly_cost,
    )
    if resources.cloud is not None:
        price = _price_on(resources.cloud, resources, nodes, bare, plans)
    elif limited or bare.most_usd_per_hour is not None:
        price = _price_anywhere(resources, nodes, bare, plans)
    else:
        price = _UNKNOWN
    return replace(
        bare, usd_per_hour=price.usd_per_hour, source=price.source, is_offered=price.fits
    )


def _region(resources: Any) -> str | None:
    """Return the region as plans write it: SkyPilot puts `ssh-` before the name of a node pool."""
    region: str | None = resources.region
    if region is not None and str(resources.cloud).casefold() == "ssh":
        return region.removeprefix("ssh-")
    return region


def _price_on(
    cloud: Any, resources: Any, nodes: int, choice: Choice, plans: tuple[Plan, ...]
) -> _Price:
    """Return what the machine costs that SkyPilot would take on one cloud."""
    name = str(cloud).casefold()
    found = (
        _stated_price(cloud, name, resources)
        if name in VIRTUAL_INSTANCES
        else _catalog_price(cloud, resources, nodes)
    )
    if found.usd_per_hour or not found.fits:
        return found
    # What is one's own costs 0 there unless its owner has stated a price.
    planned = _planned_price(replace(choice, cloud=name), plans)
    return _UNKNOWN if planned is None else _Price(planned, _PLANNED)


def _price_anywhere(resources: Any, nodes: int, choice: Choice, plans: tuple[Plan, ...]) -> _Price:
    """Return the least price of the clouds that SkyPilot may use: its optimizer takes the cheapest.

    One's own hardware without a price counts as free there and is taken first, so that nothing is known then.
    """
    from sky import check
    from sky.clouds import cloud as sky_cloud

    enabled = check.get_cached_enabled_clouds_or_refresh(sky_cloud.CloudCapability.COMPUTE)
    found = []
    for cloud in enabled:
        try:
            found.append(_price_on(cloud, resources, nodes, choice, plans))
        except Exception as error:  # noqa: BLE001 - one cloud's catalog must not hide the others'
            log.warning("melange-sky: %s could not be asked for its price: %s", cloud, error)
    offered = [price for price in found if price.fits]
    if not offered:
        return _NOT_OFFERED if found else _UNKNOWN
    if any(price.usd_per_hour is None for price in offered):
        return _UNKNOWN
    return min(offered, key=lambda price: price.usd_per_hour or 0.0)


def _catalog_price(cloud: Any, resources: Any, nodes: int) -> _Price:
    """Return what SkyPilot's catalog asks for one instance.

    Without an instance type it is that of the machine that SkyPilot would take.
    """
    launchable = resources
    if resources.instance_type is None:
        fitting = cloud.get_feasible_launchable_resources(resources, num_nodes=nodes)
        if not fitting.resources_list:
            return _NOT_OFFERED
        launchable = fitting.resources_list[0]
    try:
        return _Price(float(launchable.get_cost(_HOUR_S)), _CATALOG)
    except ValueError:  # no price in the catalog
        return _UNKNOWN


def _stated_price(cloud: Any, name: str, resources: Any) -> _Price:
    """Return what the owner of a cluster has stated in SkyPilot's configuration.

    SkyPilot prices a cluster by the name of a virtual instance type: that is spelled out as it does it.
    """
    instance_type = resources.instance_type
    if instance_type is None:
        instance_type = cloud.get_default_instance_type(
            cpus=resources.cpus, memory=resources.memory
        )
        for accelerator, count in (resources.accelerators or {}).items():
            instance_type += f"--{accelerator}:{count:g}"
    try:
        price = cloud.instance_type_to_hourly_cost(
            instance_type, bool(resources.use_spot), resources.region, resources.zone
        )
    except ValueError:  # a share of a GPU, say
        return _UNKNOWN
    return _Price(float(price), f"{'slurm' if name == 'slurm' else 'kubernetes'}.pricing")


def _planned_price(choice: Choice, plans: tuple[Plan, ...]) -> float | None:
    """Return the highest price that the plans know for such an instance, None for one that they do not know."""
    found = [
        price
        for plan in plans
        for model in plan.models
        for candidate in model.candidates
        for place in candidate.option.places
        if (price := place.price(choice.use_spot)) is not None and choice.may_be(place)
    ]
    return max(found, default=None)
