"""What a verification leaves in the plan: its replay, its rounds, and what replay changed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.plans import Plan, Verification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.plans import VerificationRound
    from melange_sky.replay import Simulation


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
    )


def unproven(plan: Plan) -> Plan:
    """Return a plan that replay changed: the optimum of another problem, proven cheapest of nothing."""
    return replace(plan, solver=replace(plan.solver, status="feasible"))
