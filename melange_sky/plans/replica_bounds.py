"""Elasticity inside an option: the bounds within which SkyServe's own autoscaler moves its replicas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from melange_sky.plans.allocations import Allocation
    from melange_sky.plans.elastic import Elastic
    from melange_sky.plans.plan import ModelPlan, Plan

_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticBounds:
    """What SkyServe is told of one option: it keeps ⌈requests per second ÷ `target_qps_per_replica`⌉ replicas
    within the bounds, by the requests of the last minute that went through its own load balancer.
    """

    min_replicas: int
    max_replicas: int
    target_qps_per_replica: float


def elastic_bounds(
    elastic: Elastic, allocation: Allocation, headroom: float
) -> ElasticBounds | None:
    """Return an option's bounds, None where it stays as planned: both are equal, or nothing is served by it.

    The target is what a replica serves of the option's mix at its raw capacity, less the headroom; where the plan
    loads it more, as much as the plan does, so that its own rate takes no more than the planned replicas.
    """
    planned = allocation.instances
    lowest = max(1, math.ceil(elastic.min * planned - 1e-9))
    highest = max(lowest, math.ceil(elastic.max * planned - 1e-9))
    if lowest == highest or allocation.rate_rps <= 0 or allocation.load_fraction <= 0:
        return None
    each_rps = allocation.rate_rps / planned
    target = max(each_rps / allocation.load_fraction * (1 - headroom), each_rps)
    return ElasticBounds(
        min_replicas=lowest, max_replicas=highest, target_qps_per_replica=_rounded_up(target)
    )


def _rounded_up(value: float) -> float:
    """Return a value with four digits, none below it."""
    step = 10.0 ** (math.floor(math.log10(value)) + 1 - _DIGITS)
    return float(f"{math.ceil(value / step - 1e-9) * step:.{_DIGITS}g}")


def plan_bounds(plan: Plan) -> Iterator[tuple[ModelPlan, Allocation, ElasticBounds]]:
    """Yield every option of a plan whose replicas vary, with its bounds."""
    if plan.elastic is None:
        return
    for model in plan.models:
        for allocation in model.allocations:
            bounds = elastic_bounds(plan.elastic, allocation, plan.headroom)
            if bounds is not None and allocation.candidate.option.offer is not None:
                yield model, allocation, bounds


def cost_range(plan: Plan) -> tuple[float, float]:
    """Return USD per hour with every option at its least and at its most; what is paid for already costs nothing."""
    low = high = plan.cost_usd_per_hour
    for _, allocation, bounds in plan_bounds(plan):
        low += _cost(allocation, bounds.min_replicas) - allocation.cost_usd_per_hour
        high += _cost(allocation, bounds.max_replicas) - allocation.cost_usd_per_hour
    return low, high


def _cost(allocation: Allocation, replicas: int) -> float:
    option = allocation.candidate.option
    billed = max(replicas - allocation.fixed_instances / option.nodes, 0.0)
    return billed * option.price_usd_per_hour
