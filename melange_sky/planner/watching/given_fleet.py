"""Who serves what among replicas that are given, up to the rate that they hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.errors import MelangeError
from melange_sky.optimizer import demand_of, problem_of, shared_out
from melange_sky.optimizer.answers.rate_sweep import at_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.constraints import Constraints
    from melange_sky.plans import Allocation, ModelPlan, Plan

_MARGIN = 1e-6


def model_at(
    plan: Plan,
    counts: Mapping[str, int],
    rate_rps: float,
    planned_rps: float,
    paid: Mapping[str, int],
) -> ModelPlan:
    """Return the model's plan of a fleet at a rate; `paid` replicas of each option are not billed.

    Sizes are shared out as for `planned_rps`, the highest rate by the plan's capacities, where the rate is above it:
    loads grow together then. Raises MelangeError for a fleet that serves nothing.
    """
    (model,) = plan.models
    known = tuple(c for c in model.candidates if counts.get(c.option.name))
    shared_rps = min(rate_rps, planned_rps) * (1 - _MARGIN)
    if shared_rps <= 0 or not known:
        raise MelangeError(f"{plan.name}: the fleet {dict(counts)} serves nothing")
    problem = at_rate(problem_of(plan), shared_rps)
    problem = replace(
        problem,
        demands=(replace(demand_of(model, known), workload=problem.demands[0].workload),),
        constraints=_of_given(problem.constraints),
    )
    found = shared_out(problem, dict(counts), paid)
    if found is None:
        raise MelangeError(
            f"{plan.name}: the fleet {dict(counts)} does not serve {shared_rps:g} req/s"
        )
    rate_rps *= 1 - _MARGIN
    return replace(
        model,
        workload=model.workload.at_rate(rate_rps),
        allocations=tuple(_grown(a, rate_rps / shared_rps) for a in found),
        baselines=(),
        verification=None,
        rate_profile=None,
    )


def _of_given(rules: Constraints) -> Constraints:
    """Return the rules without those of which replicas there are and are paid: these are given."""
    return replace(rules, limits=(), fixed=(), minimum=(), min_replicas=0, min_option_types=0)


def _grown(allocation: Allocation, factor: float) -> Allocation:
    """Return an allocation of which more is asked by a factor of 1 at least."""
    if factor == 1.0:
        return allocation
    return replace(
        allocation,
        rate_rps=allocation.rate_rps * factor,
        load_fraction=allocation.load_fraction * factor,
    )
