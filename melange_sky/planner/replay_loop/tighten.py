"""Derate the accelerators that missed, and plan again: the way to a fleet that holds that turns to others.

Where the lower end of the attainment's interval is below the target, how many times larger this fleet
must be to hold is searched by replay; the capacities of the accelerators that missed are derated by it,
and the same optimizer chooses again among the same candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.planner.replay_loop.replan import accelerator_count, fleet_key
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan
from melange_sky.planner.replay_loop.search import holds

if TYPE_CHECKING:
    from melange_sky.planner.replay_loop.replan import AcceleratorCount
    from melange_sky.planner.replay_loop.search import Search
    from melange_sky.plans import ModelPlan, Plan
    from melange_sky.replay import Simulation

MOST_STEPS = 12
LARGEST_FACTOR = 8
LARGEST_STEP = 0.97
SEARCH_STEPS = 3
MAX_NUDGES = 20

Factors = list[dict["AcceleratorCount", float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tightened:
    """A fleet that holds on the search's seed, and by which deratings it was chosen."""

    plan: Plan
    deratings: Factors


def tighten_to_hold(search: Search) -> Tightened | None:
    """Derate and plan again until a fleet holds; None where none does or none would be cheaper.

    Raises StopSearchError.
    """
    deratings: Factors = [{} for _ in search.models]
    plan: Plan | None = search.replanner.first
    for _ in range(MOST_STEPS):
        if plan is None or _is_dearer(search, plan):
            return None
        if search.holds(plan, deratings):
            return Tightened(plan=plan, deratings=deratings)
        failing = [k for k, s in enumerate(search.last) if not holds(s.verdict)]
        for k in failing:
            if not _tighten(search, search.last[k], deratings[k]):
                return None
        plan = _another_fleet(search, plan, deratings, failing)
    return None


def _is_dearer(search: Search, plan: Plan) -> bool:
    """Return whether a sure fleet costs no more: tightening only ever costs more."""
    return search.cheapest is not None and search.cheapest.cost <= plan.cost_usd_per_hour


def _tighten(
    search: Search, simulation: Simulation, deratings: dict[AcceleratorCount, float]
) -> bool:
    """Derate what missed by how much larger the fleet must be; return whether that can help."""
    factor = _factor_that_holds(search, simulation.plan)
    if factor is None:
        return False
    step = min(1 / factor, LARGEST_STEP)
    for kind in _accelerators_that_missed(simulation):
        deratings[kind] = deratings.get(kind, 1.0) * step
    return True


def _accelerators_that_missed(simulation: Simulation) -> set[AcceleratorCount]:
    """Return the accelerators whose own requests miss the target; all where none does by itself."""
    verdict = simulation.verdict
    pairs = list(zip(simulation.plan.allocations, verdict.options, strict=True))
    missed = {
        accelerator_count(allocation.candidate)
        for allocation, option in pairs
        if option.attainment is not None and option.attainment < verdict.target
    }
    return missed or {accelerator_count(allocation.candidate) for allocation, _ in pairs}


def holds_grown(plan: ModelPlan, factor: float, request: SimulationRequest) -> bool:
    """Return whether a fleet so many times larger holds.

    The fleet grows rather than the traffic shrinking: half the traffic has bursts as high as all of it.
    """
    larger = tuple(replace(a, instances=math.ceil(a.instances * factor)) for a in plan.allocations)
    quick = replace(request, until_sure=True)
    return holds(simulate_plan(replace(plan, allocations=larger), quick).verdict)


def _factor_that_holds(search: Search, plan: ModelPlan) -> float | None:
    """Return how many times larger the fleet must be to hold, None where `LARGEST_FACTOR` is too few."""

    def enough(factor: float) -> bool:
        search.journal.check()
        return holds_grown(plan, factor, search.simulation)

    low, high = 1.0, 1.0
    while not enough(high := high * 1.7):
        if high > LARGEST_FACTOR:
            return None
        low = high
    for _ in range(SEARCH_STEPS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return math.sqrt(low * high)


def _another_fleet(
    search: Search, plan: Plan, deratings: Factors, failing: list[int]
) -> Plan | None:
    """Plan again; while that only shifts shares within the fleet that failed, derate it further."""
    another = search.plan(deratings)
    for _ in range(MAX_NUDGES):
        if another is None:
            return None
        same = [k for k in failing if fleet_key(another)[k] == fleet_key(plan)[k]]
        if not same:
            return another
        for k in same:
            factors = deratings[k]
            for kind in {accelerator_count(a.candidate) for a in another.models[k].allocations}:
                factors[kind] = factors.get(kind, 1.0) * LARGEST_STEP
        another = search.plan(deratings)
    return another
