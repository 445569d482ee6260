"""Keep the plan of before where it is cheaper today and holds in replay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.planner.replay_loop.incumbent import Incumbent, fleet_today
from melange_sky.planner.replay_loop.replan import Replanner
from melange_sky.planner.replay_loop.search import LEAST_SAVING, Journal, Search

if TYPE_CHECKING:
    from melange_sky.planner.replay_loop.replay import SimulationRequest
    from melange_sky.planner.request import PlanRequest
    from melange_sky.plans import ModelPlan, Plan, PlanWarning


def try_incumbent(search: Search, incumbent: Incumbent) -> PlanWarning:
    """Replay the plan of before among today's options; the search believes it where it holds.

    Returns what became of it.
    """
    plan = fleet_today(incumbent, search.replanner)
    if isinstance(plan, str):
        return incumbent.note(f"is left out: {plan}")
    told = "holds" if search.try_known(plan, incumbent.seeds) else "does not hold"
    return incumbent.note(f"{_cost_today(plan)} and {told} in replay")


def _cost_today(plan: Plan) -> str:
    return f"costs ${plan.cost_usd_per_hour:,.3f}/h at today's prices"


def keep_cheaper(
    plan: Plan, request: PlanRequest, incumbent: Incumbent, simulation: SimulationRequest
) -> Plan:
    """Return a plan of before in place of `plan` where it is cheaper at today's prices and holds in
    replay; else `plan`, with a word on why not."""
    replanner = Replanner(first=plan, request=request)
    rival = fleet_today(incumbent, replanner)
    if isinstance(rival, str):
        note = incumbent.note(f"is left out: {rival}")
        return replace(plan, warnings=(note, *plan.warnings))
    cost, planned = rival.cost_usd_per_hour, plan.cost_usd_per_hour
    told = _cost_today(rival)
    if cost >= planned - LEAST_SAVING:
        note = incumbent.note(f"{told}, the plan ${planned:,.3f}/h")
        return replace(plan, warnings=(note, *plan.warnings))
    search = Search(
        replanner=replanner,
        simulation=simulation,
        journal=Journal(rounds=[[] for _ in plan.models]),
        models=tuple(range(len(plan.models))),
    )
    if not search.try_known(rival, incumbent.seeds):
        note = incumbent.note(f"{told} but does not hold in replay")
        return replace(plan, warnings=(note, *plan.warnings))
    note = incumbent.note(
        f"{told} and is kept: it holds in replay, and the fleet by estimate costs ${planned:,.3f}/h"
    )
    rival = replace(rival, warnings=(note, *rival.warnings))
    return replace(rival, models=tuple(map(_with_saving, rival.models)))


def _with_saving(model: ModelPlan) -> ModelPlan:
    """Return a model's plan whose baselines are compared with its own cost."""
    cost = model.cost_usd_per_hour
    rows = (
        replace(b, saving_fraction=1 - cost / b.cost_usd_per_hour if b.cost_usd_per_hour else None)
        for b in model.baselines
    )
    return replace(model, baselines=tuple(rows))
