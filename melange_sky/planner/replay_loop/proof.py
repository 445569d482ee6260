"""Why no fleet was found that holds: limits too tight for every option, or rules that leave too few.

The word "too tight" is a proof by replay: each option alone, and each size on the option that serves it
best, miss the SLO even with many times the instances that the traffic could fill. What the estimates
say of sizes that an option cannot serve has no part in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.planner.replay_loop.incumbent import has_no_rules
from melange_sky.planner.replay_loop.replay import simulate_plan
from melange_sky.planner.replay_loop.search import holds
from melange_sky.planner.replay_loop.tighten import LARGEST_FACTOR
from melange_sky.plans import Allocation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.capacities import OptionCapacity
    from melange_sky.planner.replay_loop.search import Search
    from melange_sky.plans import ModelPlan
    from melange_sky.replay import Simulation

SIZES = 5
"""Halvings of a large fleet that holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alone:
    """One option alone at scale, as replayed."""

    candidate: OptionCapacity
    replayed: Simulation


def why_none(search: Search, k: int, missed: Simulation) -> str | None:
    """Return why no fleet of model `k` was found that holds; `missed` is the replay to tell of.

    Where large fleets hold and no rule stands against them, the smallest of such is looked for: None where
    that leaves the search with one. Raises StopSearchError.
    """
    model = search.replanner.first.models[k]
    tried = [
        _Alone(candidate=c, replayed=_replayed(search, _alone(model, c))) for c in _kinds(model)
    ]
    by_price = sorted(tried, key=lambda one: one.replayed.plan.cost_usd_per_hour)
    fleets = [one.replayed for one in by_price]
    if not any(holds(s.verdict) for s in fleets) and len(tried) > 1:
        fleets.append(_replayed(search, _best_for_each(model, tried)))
    good = [s.plan for s in fleets if holds(s.verdict)]
    if not good:
        return _too_tight(missed, tried)
    if len(search.models) == 1 and has_no_rules(search.replanner.first.constraints):
        _shrink(search, good)
        if search.cheapest is not None:
            return None
    return (
        f"{missed.plan.name}: no fleet that keeps to the spec's own rules was found to hold, yet "
        f"{good[0].fleet_text()} does: the limits of the SLO can be met, so allow more (resources.limits, "
        "budget, other rules)"
    )


def _too_tight(missed: Simulation, tried: Sequence[_Alone]) -> str:
    worst = min(missed.verdict.buckets, key=lambda b: (b.attainment - 1) * b.requests)
    best = max(one.replayed.verdict.attainment for one in tried)
    names = ", ".join(dict.fromkeys(one.candidate.option.shape for one in tried))
    return (
        f"{missed.plan.name}: the SLO is missed by each option alone ({names}) with {LARGEST_FACTOR} times the "
        f"instances that the traffic fills ({best:.1%} within limits at best), and with each size on the option "
        f"that serves it best; most in {missed.plan.workload.label(*worst.bucket)} ({worst.attainment:.0%} within "
        "limits): the limits are too tight for these accelerators rather than the fleet too small"
    )


def _kinds(model: ModelPlan) -> list[OptionCapacity]:
    """Return one candidate of each shape: the cheapest."""
    cheapest: dict[str, OptionCapacity] = {}
    for candidate in sorted(
        model.candidates, key=lambda c: (c.option.price_usd_per_hour, c.option.name)
    ):
        cheapest.setdefault(candidate.option.shape, candidate)
    return list(cheapest.values())


def _replayed(search: Search, fleet: ModelPlan) -> Simulation:
    search.journal.check()
    return simulate_plan(fleet, replace(search.simulation, until_sure=True))


def _alone(model: ModelPlan, candidate: OptionCapacity) -> ModelPlan:
    """Return a large fleet of one option that takes every request."""
    return replace(model, allocations=(_large(model, candidate, set(model.workload.buckets())),))


def _best_for_each(model: ModelPlan, tried: Sequence[_Alone]) -> ModelPlan:
    """Return a large fleet in which each size goes where most of its requests met their limits."""
    attained = [{b.bucket: b.attainment for b in one.replayed.verdict.buckets} for one in tried]
    best = {
        bucket: max(range(len(tried)), key=lambda n: (attained[n].get(bucket, 0.0), -n))
        for bucket in model.workload.buckets()
    }
    allocations = tuple(
        _large(model, one.candidate, {bucket for bucket, m in best.items() if m == n})
        for n, one in enumerate(tried)
        if n in best.values()
    )
    named = sorted(allocations, key=lambda a: a.candidate.option.name)
    return replace(model, allocations=tuple(named))


def _large(model: ModelPlan, candidate: OptionCapacity, takes: set[tuple[int, int]]) -> Allocation:
    """Return an allocation many times as large as the sizes that it takes could fill."""
    rates = model.workload.rates_rps
    known = [cell.largest_rps for row in candidate.cells for cell in row if cell.largest_rps]
    slowest = min(known, default=1.0)
    load = rate_rps = 0.0
    shares = [[0.0] * len(row) for row in rates]
    for i, j in model.workload.buckets():
        if (i, j) in takes:
            shares[i][j] = 1.0
            rate_rps += rates[i][j]
            load += rates[i][j] / (candidate.cells[i][j].largest_rps or slowest)
    instances = max(LARGEST_FACTOR, math.ceil(LARGEST_FACTOR * load))
    return Allocation(
        candidate=candidate,
        instances=instances,
        load_fraction=load / instances,
        rate_rps=rate_rps,
        shares=tuple(map(tuple, shares)),
    )


def _shrink(search: Search, good: Sequence[ModelPlan]) -> None:
    """Halve the large fleets that hold, by bisection, until the smallest of each is known and one is sure."""
    for large in good:
        low, high = 0.0, 1.0
        for _ in range(SIZES):
            middle = (low + high) / 2
            plan = search.replanner.of_models((_times(large, middle),))
            low, high = (low, middle) if search.holds(plan) else (middle, high)
        search.holds(search.replanner.of_models((_times(large, high),)))
    search.confirm()


def _times(fleet: ModelPlan, factor: float) -> ModelPlan:
    allocations = []
    for allocation in fleet.allocations:
        instances = max(1, math.ceil(allocation.instances * factor))
        load = allocation.load_fraction * allocation.instances / instances
        allocations.append(replace(allocation, instances=instances, load_fraction=load))
    return replace(fleet, allocations=tuple(allocations))
