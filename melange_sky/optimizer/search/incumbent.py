"""A good fleet found early, from few options: what costs more than all of it needs no look."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.column_bounds import worth_a_look

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.optimizer.problem.question import Problem, SolveOptions

FEW = 24
"""Options per model that a first fleet is sought from; problems with fewer go without."""


def first_options(
    canonical: Canonical, problem: Problem, options: SolveOptions
) -> Canonical | None:
    """Return the problem with the most promising columns only, None where that is nearly all.

    Promising: least cost to serve everything alone were instances divisible; the cheapest of each
    bucket. Where a rule names options of its own nothing is left out.
    """
    if RuleSet.of(problem, options).names_options or len(canonical.columns) <= FEW * len(
        canonical.demands
    ):
        return None
    kept: set[int] = set()
    for demand in range(len(canonical.demands)):
        of_demand = canonical.of_demand(demand)
        kept |= _promising(canonical, of_demand)
        kept |= _cheapest_of_buckets(canonical, of_demand)
    return canonical.keep(kept) if len(kept) < len(canonical.columns) else None


def _promising(canonical: Canonical, of_demand: list[int]) -> set[int]:
    """Return the best by score: some on demand and some spot, from several regions each."""
    kept: set[int] = set()
    for use_spot in (False, True):
        of_region: dict[str | None, int] = {}
        kind = [k for k in of_demand if canonical.columns[k].use_spot == use_spot]
        count = 0
        for k in sorted(kind, key=lambda k: _score(canonical.columns[k])):
            region = canonical.columns[k].region
            if count < FEW // 3 and of_region.get(region, 0) < (2 if region else FEW):
                of_region[region] = of_region.get(region, 0) + 1
                kept.add(k)
                count += 1
    return kept


def _score(column: Column) -> float:
    return column.price * max(float(column.least_loads.sum()), 1.0)


def _cheapest_of_buckets(canonical: Canonical, of_demand: list[int]) -> set[int]:
    """Return what serves each bucket in time for least, and what does at all where some may be late."""
    loads = canonical.loads_by_way(of_demand)
    prices = np.array([canonical.columns[k].price for k in of_demand])[:, None]
    kept: set[int] = set()
    for of_buckets in (prices * loads[:, 0], prices * loads.min(axis=1)):
        served = np.isfinite(of_buckets).any(axis=0)
        kept |= {of_demand[n] for n in of_buckets.argmin(axis=0)[served].tolist()}
    return kept


def affordable(
    canonical: Canonical, problem: Problem, options: SolveOptions, cost: float
) -> Canonical:
    """Return the problem without columns that no fleet as cheap as a known one can hold.

    Not where a rule makes the goal another than the cost, or other fleets are asked for too.
    """
    if options.alternatives or not RuleSet.of(problem, options).goal_is_cost:
        return canonical
    most = cost * (1 + options.within_fraction) * (1 + 1e-9)
    kept = worth_a_look(canonical, problem, options, most)
    kept = [k for k in kept if canonical.columns[k].price <= most]
    return canonical if len(kept) == len(canonical.columns) else canonical.keep(kept)


def least_alone(canonical: Canonical, problem: Problem, options: SolveOptions) -> float | None:
    """Return the least cost of a fleet with one option per model, all in time; None where none is known to do.

    None too where a rule might stand against such a fleet, or nothing is to be served.
    """
    rules, cost = RuleSet.of(problem, options), 0.0
    if not rules.only_serves:
        return None
    for demand in range(len(canonical.demands)):
        of_demand = canonical.of_demand(demand)
        loads = canonical.loads_by_way(of_demand)[:, 0].sum(axis=1)
        prices = np.array([canonical.columns[k].price for k in of_demand])
        cost += float((np.ceil(loads / rules.usable_fraction) * prices).min(initial=np.inf))
    return cost if 0 < cost < np.inf else None


def hurried(options: SolveOptions) -> SolveOptions:
    """Return options for the first look: near enough, soon, nothing besides the cost."""
    return replace(
        options,
        mip_gap=max(0.02, options.mip_gap),
        deadline=options.deadline.share(2 / 3),
        within_fraction=0.0,
        alternatives=0,
    )
