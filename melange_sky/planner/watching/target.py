"""A fleet that was decided on, as a plan: who serves what, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.errors import MelangeError
from melange_sky.optimizer import demand_of, problem_of, shared_out
from melange_sky.optimizer.answers.rate_sweep import at_rate
from melange_sky.planner.clock import created_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.planner.watching.plan_fleets import PlanFleets
    from melange_sky.plans import Plan

_MARGIN = 1e-6


def target_plan(fleets: PlanFleets, counts: Mapping[str, int], rate_rps: float) -> Plan:
    """Return the plan of a fleet for a rate, or for the highest that it serves where that is less.

    It keeps the name, id and rules of the plan that is followed. Raises MelangeError for a fleet that serves nothing.
    """
    fleet = tuple(counts.get(name, 0) for name in fleets.options)
    rate = min(rate_rps, fleets.rate(fleet) * (1 - _MARGIN))
    plan = fleets.plan
    (model,) = plan.models
    known = tuple(c for c in model.candidates if counts.get(c.option.name))
    if rate <= 0 or not known:
        raise MelangeError(f"{plan.name}: the fleet {dict(counts)} serves nothing")
    problem = at_rate(problem_of(plan), rate)
    problem = replace(
        problem, demands=(replace(demand_of(model, known), workload=problem.demands[0].workload),)
    )
    found = shared_out(problem, dict(counts), fleets.paid(fleet))
    if found is None:
        raise MelangeError(f"{plan.name}: the fleet {dict(counts)} does not serve {rate:g} req/s")
    changed = replace(
        model,
        workload=model.workload.at_rate(rate),
        allocations=found,
        baselines=(),
        verification=None,
        rate_profile=None,
    )
    return replace(
        plan,
        created_at=created_at(),
        models=(changed,),
        solver=replace(plan.solver, status="feasible", solver="melange_sky.watch"),
        alternatives=(),
        sensitivity=None,
        form_gain=None,
        current=None,
    )
