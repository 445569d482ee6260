"""From the spec's words to the optimizer's constraints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.constraints import Constraints
from melange_sky.optimizer import rules_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from melange_sky.constraints import InstanceGroup
    from melange_sky.spec import Spec


def constraints_of(spec: Spec, reserved: Iterable[InstanceGroup] = ()) -> Constraints:
    """Return what the fleet must keep to besides serving its rate; `reserved` is paid for besides.

    Sorted: the order in which a spec names its rules must not decide between equal fleets.
    """
    resources, redundancy = spec.resources, spec.redundancy
    return Constraints(
        limits=tuple(sorted(resources.limits, key=lambda limit: limit[0].name)),
        budget_usd_per_hour=resources.budget_usd_per_hour,
        fixed=tuple(sorted((*resources.fixed, *reserved), key=repr)),
        minimum=tuple(sorted(resources.minimum, key=repr)),
        spare=redundancy.spare,
        # a model with any rate has one replica anyway
        min_replicas=redundancy.min_replicas if redundancy.min_replicas > 1 else 0,
        max_share_per_region=redundancy.max_share_per_region,
        max_share_per_cloud=redundancy.max_share_per_cloud,
        spot=resources.spot,
        max_option_types=resources.max_option_types,
        # a model with any rate runs on one option anyway
        min_option_types=resources.min_option_types if resources.min_option_types > 1 else 0,
    )


def price_kinds(spec: Spec) -> tuple[bool, ...]:
    """Return the `use_spot` values to plan with: both where a spot policy mixes them."""
    if spec.resources.spot is not None:
        return (False, True)
    return (spec.resources.use_spot,)


def needs_every_region(spec: Spec) -> bool:
    """Return whether a rule names regions, clouds or instances, so that no region stands for others."""
    return rules_of(constraints_of(spec)).tells_places_apart
