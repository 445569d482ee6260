"""How many requests at once a replica holds: what counts loads where needs cannot be added up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.routing.table import stay_s

if TYPE_CHECKING:
    from melange_sky.plans import ModelPlan
    from melange_sky.routing.table import RoutingTable


def slots(plan: ModelPlan, table: RoutingTable) -> list[float]:
    """Return, per option, how many requests of its planned mix fill a replica to its capacity.

    By Little's law a bucket has rate × stay requests in flight, each of which takes its need; so a
    replica is full with Σ rate × stay ÷ Σ rate × stay × need of them. An option without a share is
    taken at the mix of all requests.
    """
    rates = plan.workload.rates_rps
    cells = [(i, j) for i in range(table.inputs) for j in range(table.outputs)]
    held = []
    for k, allocation in enumerate(plan.allocations):
        stays = [
            rates[i][j] * stay_s(plan.slo, allocation, i, j, plan.workload.output_sizes[i][j])
            for i, j in cells
        ]
        planned = [
            stay * allocation.shares[i][j] for stay, (i, j) in zip(stays, cells, strict=True)
        ]
        weights = planned if sum(planned) > 0 else stays
        taken = sum(w * table.need[at * table.options + k] for at, w in enumerate(weights))
        held.append(sum(weights) / taken if taken > 0 else 1.0)
    return held
