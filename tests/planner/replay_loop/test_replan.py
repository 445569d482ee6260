"""Another fleet among the first plan's candidates: each model by its own deratings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from melange_sky.constraints import Constraints, InstanceGroup
from melange_sky.errors import InfeasibleError
from melange_sky.planner.replay_loop.replan import Replanner, fleet_key
from melange_sky.planner.request import PlanRequest
from melange_sky.plans import AlternativeMix, Plan, PlanWarning, Sensitivity
from tests.factories import make_capacity, make_model_plan, make_option, make_plan, make_workload

SMALL = make_capacity([[4.0]], make_option("small", price_usd_per_hour=1.0))


def listed(**over: object) -> Plan:
    """Two models of 7 req/s each, that two of the only option serve; nothing is chosen yet."""
    models = tuple(
        make_model_plan(
            name=name, workload=make_workload([[7.0]]), candidates=(SMALL,), allocations=()
        )
        for name in ("a", "b")
    )
    return make_plan(name="both", models=models, lists_models=True, headroom=0.0, **over)


def test_each_model_is_derated_by_its_own_factors() -> None:
    replanner = Replanner(first=listed(), request=PlanRequest())
    plan = replanner.plan([{}, {("A10G", 1): 0.5}])
    assert fleet_key(plan) == ((("small", 2),), (("small", 4),))
    assert plan.lists_models
    assert plan.models[0].candidates == (SMALL,)
    derated = plan.models[1].candidates[0].cells[0][0]
    assert (derated.max_rate_rps, derated.origin) == (2.0, SMALL.cells[0][0].origin)
    assert plan.solver.status == "optimal"


def test_the_plans_own_rules_hold_and_a_minimum_comes_on_top() -> None:
    two = InstanceGroup(accelerator="A10G", instances=2)
    first = listed(constraints=Constraints(minimum=(replace(two, instances=1),)))
    more = replace(two, instances=9)
    plan = Replanner(first=first, request=PlanRequest()).plan([{}, {}], minimum=(more,))
    assert sum(a.instances for model in plan.models for a in model.allocations) == 9
    assert plan.constraints == first.constraints
    tight = replace(first, constraints=Constraints(budget_usd_per_hour=3.0))
    with pytest.raises(InfeasibleError, match="the budget"):
        Replanner(first=tight, request=PlanRequest()).plan([{}, {}])


def test_what_the_first_plan_said_of_its_own_fleet_goes() -> None:
    lasting = PlanWarning(code="no-offer", message="stays")
    first = listed(
        warnings=(PlanWarning(code="simplest", message="of the first fleet"), lasting),
        sensitivity=Sensitivity(low_usd_per_hour=1.0, high_usd_per_hour=2.0),
        alternatives=(AlternativeMix(cost_usd_per_hour=5.0, differs="", instances=()),),
    )
    plan = Replanner(first=first, request=PlanRequest()).plan([{}, {}])
    assert [w for w in plan.warnings if w.code != "no-published-run"] == [lasting]
    assert plan.sensitivity is None
    assert plan.alternatives == ()
