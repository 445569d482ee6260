"""What is said of a plan whose replicas SkyServe's own autoscaler moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.plans import cost_range, plan_bounds

if TYPE_CHECKING:
    from melange_sky.plans import Plan


def elastic_text(plan: Plan) -> str:
    """Return what the fleet costs at its least and at its most, and the bounds of each option."""
    rows = [
        f"{allocation.candidate.option.name} {bounds.min_replicas} to {bounds.max_replicas} replicas "
        f"at {bounds.target_qps_per_replica:g} req/s each"
        for _, allocation, bounds in plan_bounds(plan)
    ]
    if not rows:
        return "Elastic: the bounds leave no option room, so all stays as planned"
    low, high = cost_range(plan)
    return (
        f"Elastic: by SkyServe's autoscaler ${low:,.3f}/h at the least, ${high:,.3f}/h at the most; "
        + "; ".join(rows)
    )
