"""The question that a plan answers, from the plan alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.optimizer.problem.question import Demand, Problem

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.plans import ModelPlan, Plan


def demand_of(model: ModelPlan, options: tuple[OptionCapacity, ...]) -> Demand:
    """Return what a plan's model is asked to serve, with these options where their rates are known.

    No other fleet is promised at rates that are only bounds (`Origin.BOUND`); the plan's own rests on none.
    """
    target = None if model.attainment_per_bucket else model.slo.attainment
    known = tuple(capacity.without_bounds() for capacity in options)
    return Demand(name=model.name, workload=model.workload, options=known, target=target)


def problem_of(plan: Plan) -> Problem:
    """Return the problem that a plan was made for, from the plan alone."""
    return Problem(
        demands=tuple(demand_of(m, m.candidates) for m in plan.models),
        headroom=plan.headroom,
        constraints=plan.constraints,
    )
