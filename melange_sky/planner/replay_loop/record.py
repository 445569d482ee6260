"""What a verification leaves in the plan: its replay, its rounds, and what replay changed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.plans import LateSize, Plan, Verification
from melange_sky.replay import ttft_of_bucket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.plans import VerificationRound
    from melange_sky.replay import Simulation

MOST = 0.5
"""Attainment of a size below which most of its requests missed."""


def same_fleet(plan: Plan, first: Plan) -> bool:
    """Return whether every model is served by the same instances in the same way."""
    return all(
        a.allocations == b.allocations for a, b in zip(plan.models, first.models, strict=True)
    )


def saving(cost: float, other: float | None) -> float | None:
    """Return what a cost saves of another as a fraction, None where the other is unknown or free."""
    return 1 - cost / other if other else None


def verification_of(
    simulation: Simulation, rounds: Sequence[VerificationRound], reason: str | None
) -> Verification:
    """Return a model's verification by its worst replay; it holds where there is no `reason` against it."""
    verdict = simulation.verdict
    return Verification(
        holds=reason is None,
        reason=reason,
        traffic=simulation.traffic,
        requests=verdict.requests,
        attainment=verdict.attainment,
        low=verdict.interval[0],
        high=verdict.interval[1],
        premium_usd_per_hour=0.0,
        rounds=tuple(rounds),
        late=late_sizes(simulation),
    )


def late_sizes(simulation: Simulation) -> tuple[LateSize, ...]:
    """Return how the sizes did that the plan expects to miss, and those of which most missed."""
    expected = {(miss.i, miss.j) for miss in simulation.plan.expected_misses}
    found = []
    for one in simulation.verdict.buckets:
        if one.bucket in expected or one.attainment < MOST:
            ttft = ttft_of_bucket(simulation, one.bucket)
            late = LateSize(
                i=one.bucket[0],
                j=one.bucket[1],
                requests=one.requests,
                missed=round((1 - one.attainment) * one.requests),
                ttft_p50_s=ttft.p50,
                ttft_p95_s=ttft.p95,
            )
            found.append(late)
    return tuple(found)


def unproven(plan: Plan) -> Plan:
    """Return a plan that replay changed: the optimum of another problem, proven cheapest of nothing."""
    return replace(plan, solver=replace(plan.solver, status="feasible"))
