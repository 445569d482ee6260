"""Each accelerator alone, sized by the same replay: what a mix has to beat, and what it may fall back on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError
from melange_sky.planner.replay_loop.ease import EaseSearch, cheaper_fleets
from melange_sky.planner.replay_loop.scale import SMALLEST_SCALE, scale_to_hold
from melange_sky.planner.replay_loop.search import LEAST_SAVING, Search, Sure
from melange_sky.plans import VerifiedBaseline

if TYPE_CHECKING:
    from melange_sky.planner.replay_loop.replan import Replanner
    from melange_sky.plans import Baseline, ModelPlan

BOUND_STEPS = 10
"""Halvings of the range of scales for the dearest fleet under a cost."""


def search_alone(search: Search) -> None:
    """Look for the cheapest fleet that holds: all capacities scaled together, then single moves.

    Whatever else is searched, a spec of one accelerator and that accelerator as a baseline of another
    spec take this same way. Raises StopSearchError.
    """
    scale_to_hold(search)
    move_to_cheaper(search)


def move_to_cheaper(search: Search) -> None:
    """Move single instances of the cheapest sure fleet while a cheaper one holds and is sure.

    Raises StopSearchError.
    """
    start = search.cheapest
    if start is None or len(search.models) > 1:
        return
    eased = EaseSearch(replanner=search.replanner, holds=search.holds, held=[start.plan])
    cheaper_fleets(eased, search.underated)
    search.confirm()


def may_be_cheaper(search: Search, cost_usd_per_hour: float) -> bool:
    """Return whether the dearest fleet found under a cost holds: where it misses, smaller ones do too.

    One replay at most. Raises StopSearchError.
    """
    low, high = SMALLEST_SCALE, search.replanner.largest_scale
    fleet = None
    for _ in range(BOUND_STEPS):
        middle = (low * high) ** 0.5
        plan = search.plan(search.underated, scale=middle)
        if plan is None or plan.cost_usd_per_hour >= cost_usd_per_hour - LEAST_SAVING:
            low = middle
        else:
            fleet, high = plan, middle
    return fleet is not None and search.holds(fleet)


def single_of(search: Search, accelerator: str) -> Search | None:
    """Return a search for one accelerator alone under the traffic of a search of one model."""
    try:
        alone = search.replanner.alone(accelerator)
    except InfeasibleError:
        return None
    return Search(
        replanner=alone,
        simulation=search.simulation,
        journal=search.journal,
        models=search.models,
    )


def widened(sure: Sure, replanner: Replanner) -> Sure | None:
    """Return a single accelerator's fleet as one of the whole replanner's plan.

    None where some rule of the spec speaks of other accelerators: these are kept by the optimizer alone.
    """
    first = replanner.first
    if sure.plan.constraints != first.constraints:
        return None
    (model,), (whole,) = sure.plan.models, first.models
    own = {c.option.name: c for c in model.candidates}
    candidates = tuple(own.get(c.option.name, c) for c in whole.candidates)
    plan = replace(sure.plan, models=(replace(model, candidates=candidates),))
    return replace(sure, plan=plan)


def verified(baseline: Baseline, sure: Sure | None, plan_usd_per_hour: float) -> Baseline:
    """Return a baseline with the fleet of it alone that holds."""
    if sure is None:
        return replace(baseline, verified=None)
    model: ModelPlan = sure.plan.models[0]
    cost = sure.cost
    return replace(
        baseline,
        verified=VerifiedBaseline(
            instances=sum(a.instances for a in model.allocations),
            cost_usd_per_hour=cost,
            attainment=sure.worst[0].verdict.attainment,
            saving_fraction=1 - plan_usd_per_hour / cost if cost > 0 else None,
            shape=model.shape_text(),
        ),
    )
