"""What `plan.json` says of a fleet's life: how far it may be changed, and by whom."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from melange_sky.plans import NO_GUARD

if TYPE_CHECKING:
    from melange_sky.plans import Plan


def guard_fields(plan: Plan) -> dict[str, Any]:
    """Return the guard rails that are set, nothing where none is."""
    rails = plan.guard
    if rails == NO_GUARD:
        return {}
    return {"guard": {**asdict(rails), "hours": rails.hours.text if rails.hours else None}}


def elastic_fields(plan: Plan) -> dict[str, Any]:
    """Return how far replicas may move and what that comes to, nothing where they stay as planned."""
    if plan.elastic is None:
        return {}
    from melange_sky.plans import cost_range, plan_bounds  # of elastic plans alone

    low, high = cost_range(plan)
    rows = [
        {"plan": model.name, "option": allocation.candidate.option.name, **asdict(bounds)}
        for model, allocation, bounds in plan_bounds(plan)
    ]
    return {
        "elastic": {
            **asdict(plan.elastic),
            "lowest_usd_per_hour": low,
            "highest_usd_per_hour": high,
            "options": rows,
        }
    }
