"""The routing state before the first request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.routing.minima import NEVER
from melange_sky.routing.policy import rank, refresh
from melange_sky.routing.table import RoutingState, RoutingTable

if TYPE_CHECKING:
    import random

    from melange_sky.plans import ModelPlan
PRIOR_REQUESTS = 20.0
"""How many requests the plan's own output lengths count for, besides those seen."""


def routing_state(table: RoutingTable, plan: ModelPlan, rng: random.Random) -> RoutingState:
    """Return the state before the first request: all replicas healthy and idle.

    Output lengths start from the plan's workload. Credits start at random phases, so that several
    gateways with the same plan do not send their first requests to the same option.
    """
    classes, options = table.inputs * (table.outputs + 1), table.options
    state = RoutingState(
        load=[0.0] * table.replicas,
        in_flight=[0] * table.replicas,
        healthy=[1] * table.replicas,
        lowest=[NEVER] * table.nodes,
        option_load=[0.0] * options,
        option_in_flight=[0] * options,
        option_healthy=[table.first[k + 1] - table.first[k] for k in range(options)],
        cursor=[0] * options,
        usable=[0] * options,
        seen=_prior(table, plan),
        fresh=[0] * classes,
        mix=[0.0] * (classes * options),
        fit=[0] * (classes * options),
        cost=[0.0] * (classes * options),
        credit=[0.0] * (classes * options),
        turn=[0],
    )
    for replica in range(table.replicas):
        rank(table, state, replica)
    for c in range(classes):
        refresh(table, state, c)
        phases = [state.mix[c * options + k] * rng.uniform(-0.5, 0.5) for k in range(options)]
        middle = sum(phases) / options
        for k in range(options):
            state.credit[c * options + k] = (
                phases[k] - middle if state.mix[c * options + k] else 0.0
            )
    return state


def _prior(table: RoutingTable, plan: ModelPlan) -> list[float]:
    """Return the plan's output lengths per class (C × O), cut where `max_tokens` cuts them."""
    seen: list[float] = []
    for row in plan.workload.rates_rps:
        total = sum(row)
        chance = [rate / total for rate in row] if total > 0 else [1 / len(row)] * len(row)
        for most in range(table.outputs + 1):
            last = min(most, table.outputs - 1)
            cut = [*chance[:last], sum(chance[last:])]
            seen += [PRIOR_REQUESTS * p for p in cut] + [0.0] * (table.outputs - last - 1)
    return seen
