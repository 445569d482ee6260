"""Plan Mélange's own JSON config: costs and throughputs are the file's, names are free labels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.capacities import CapacityCell, DeploymentOption, OptionCapacity, Origin
from melange_sky.optimizer import Demand, Problem, baselines, optimize
from melange_sky.planner.clock import created_at
from melange_sky.planner.notes import alternative_mixes, objective_notes
from melange_sky.plans import ModelPlan, Plan
from melange_sky.slo import SLO

if TYPE_CHECKING:
    from melange_sky.planner.request import PlanRequest
    from melange_sky.spec import MelangeConfig


def plan_config(config: MelangeConfig, name: str, request: PlanRequest) -> Plan:
    """Plan Mélange's own JSON config: costs and throughputs are the file's, names are labels."""
    options = tuple(
        OptionCapacity(
            option=DeploymentOption(
                name=label, accelerator=label, accelerator_count=1, price_usd_per_hour=cost
            ),
            cells=tuple(tuple(_given(rate) for rate in row) for row in rates),
        )
        for label, cost, rates in config.gpus
    )
    request = request.started()
    solve = replace(request.solve, slice_factor=config.slice_factor)
    problem = Problem(demands=(Demand(name=name, workload=config.workload, options=options),))
    solution = optimize(problem, solve)
    cost = sum(a.cost_usd_per_hour for a in solution.allocations[0])
    model = ModelPlan(
        name=name,
        model="given",
        slo=SLO(),
        workload=config.workload,
        allocations=solution.allocations[0],
        baselines=baselines(problem, (cost,), solve)[0],
        candidates=options,
    )
    return Plan(
        name=name,
        created_at=created_at(),
        models=(model,),
        solver=solution.report,
        warnings=objective_notes(problem, solution, request),
        alternatives=alternative_mixes(solution),
    )


def _given(rate: float) -> CapacityCell:
    if rate > 0:
        return CapacityCell(max_rate_rps=rate, origin=Origin.GIVEN)
    return CapacityCell(max_rate_rps=None, reason="the config gives no throughput")
