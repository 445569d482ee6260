"""A SkyPilot task as the guard sees it: where it may run, and what that costs.

SkyPilot's own `max_hourly_cost` is a filter of its optimizer, which ignores it where an instance type is given,
for GPUs of GCP and on Kubernetes. So every price is looked up here: in SkyPilot's catalog, which is
what a launch will be charged by, else among the plans' own prices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from melange_sky.skyplugin.guarded import Choice, Launch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from melange_sky.plans import Plan

_HOUR_S = 3600
_CATALOG = "SkyPilot's catalog"


def launch_of(task: Any, plans: Iterable[Plan]) -> Launch:
    """Return a `sky.Task` as data, priced."""
    plans = tuple(plans)
    mark = (task.metadata or {}).get("melange_sky")
    service = task.service
    replicas = 1 if service is None else (service.max_replicas or service.min_replicas)
    return Launch(
        name=task.name or "this task",
        mark={str(k): str(v) for k, v in mark.items()} if isinstance(mark, dict) else None,
        replicas=replicas,
        nodes=task.num_nodes,
        choices=tuple(_choice(one, task.num_nodes, plans) for one in task.resources),
    )


def _choice(resources: Any, nodes: int, plans: tuple[Plan, ...]) -> Choice:
    cloud = None if resources.cloud is None else str(resources.cloud).casefold()
    bare = Choice(
        cloud=cloud,
        region=resources.region,
        instance_type=resources.instance_type,
        accelerators=dict(resources.accelerators or {}),
        use_spot=bool(resources.use_spot),
        usd_per_hour=None,
        source="",
        most_usd_per_hour=resources.max_hourly_cost,
    )
    price, source = _catalog_price(resources, nodes), _CATALOG
    if not price:  # own hardware costs 0 there unless its owner has stated a price
        price, source = _planned_price(bare, plans), "a plan's own price"
    return Choice(
        cloud=bare.cloud,
        region=bare.region,
        instance_type=bare.instance_type,
        accelerators=bare.accelerators,
        use_spot=bare.use_spot,
        usd_per_hour=price,
        source=source,
        most_usd_per_hour=bare.most_usd_per_hour,
    )


def _catalog_price(resources: Any, nodes: int) -> float | None:
    """Return what SkyPilot's catalog asks for one instance; None where the task leaves too much open.

    Without an instance type it is that of the machine that SkyPilot would take on the task's cloud.
    """
    if resources.cloud is None:
        return None
    launchable = resources
    if resources.instance_type is None:
        fitting = resources.cloud.get_feasible_launchable_resources(resources, num_nodes=nodes)
        if not fitting.resources_list:
            return None
        launchable = fitting.resources_list[0]
    try:
        return float(launchable.get_cost(_HOUR_S))
    except ValueError:  # no price in the catalog
        return None


def _planned_price(choice: Choice, plans: tuple[Plan, ...]) -> float | None:
    """Return the highest price that the plans know for such an instance, None for one that they do not know."""
    gpus = {name.casefold(): count for name, count in choice.accelerators.items()}
    found = [
        price
        for plan in plans
        for model in plan.models
        for candidate in model.candidates
        for place in candidate.option.places
        if (price := place.price(choice.use_spot)) is not None
        and choice.cloud in (None, place.cloud)
        and choice.region in (None, place.region)
        and choice.instance_type in (None, place.instance_type)
        and gpus == {place.accelerator.casefold(): place.accelerator_count}
    ]
    return max(found, default=None)
