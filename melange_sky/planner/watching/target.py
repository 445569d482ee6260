"""A fleet that was decided on, as a plan: who serves what, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.planner.clock import created_at
from melange_sky.planner.watching.given_fleet import model_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.planner.watching.plan_fleets import PlanFleets
    from melange_sky.plans import Plan


def target_plan(fleets: PlanFleets, counts: Mapping[str, int], rate_rps: float) -> Plan:
    """Return the plan of a fleet for a rate, or for the highest that it serves where that is less.

    It keeps the name, id and rules of the plan that is followed. Raises MelangeError for a fleet that serves nothing.
    """
    plan = fleets.plan
    fleet = tuple(counts.get(name, 0) for name in fleets.options)
    rate = min(rate_rps, fleets.rate(fleet))
    return replace(
        plan,
        created_at=created_at(),
        models=(model_at(plan, counts, rate, fleets.planned_rate(fleet), fleets.paid(fleet)),),
        solver=replace(plan.solver, status="feasible", solver="melange_sky.watch"),
        alternatives=(),
        sensitivity=None,
        form_gain=None,
        current=None,
    )
