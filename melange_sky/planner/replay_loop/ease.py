"""Look for cheaper fleets near one that holds in replay.

The loop tightens in coarse steps and over whole accelerators, so that the first fleet that holds may be
larger than need be. Two ways lead back: the deratings are eased together, by bisection; and single
instances are taken out or swapped for cheaper ones while the plan keeps to all its rules: capacities
are taken for larger than estimated then, so that nothing but the replay says whether a fleet suffices.
Every fleet tried is replayed on the loop's own seed; none is believed before it holds on fresh ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.planner.replay_loop.replan import (
    AcceleratorCount,
    Deratings,
    Replanner,
    accelerator_count,
    fleet_key,
    instance_group,
)

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.plans import ModelPlan, Plan

EASE_STEPS = 4
MAX_REPLAYS = 100
MAX_PLANS = 1000
HOPELESS = 1.5
"""A fleet whose highest load is so many times that of the cheapest one that held is not replayed."""
LEAST_SAVING = 1e-6
"""USD per hour below which two fleets cost the same."""

Counts = dict[str, int]
"""Instances by option name."""


@dataclass(slots=True, kw_only=True)
class EaseSearch:
    """Fleets that held so far, dearest first, and which were tried at all.

    `holds` replays a fleet on the loop's seed and records it with its deratings.
    """

    replanner: Replanner
    holds: Callable[[Plan, Sequence[Deratings]], bool]
    held: list[Plan]
    tried: set[object] = field(default_factory=set)
    replays: int = 0
    plans: int = 0

    @property
    def cheapest(self) -> Plan:
        """The cheapest fleet that held."""
        return self.held[-1]

    @property
    def is_spent(self) -> bool:
        """Whether no more is to be tried."""
        return self.replays >= MAX_REPLAYS or self.plans >= MAX_PLANS

    def saves(self, plan: Plan) -> bool:
        """Return whether a fleet is cheaper than the cheapest one that held."""
        return plan.cost_usd_per_hour < self.cheapest.cost_usd_per_hour - LEAST_SAVING

    def accepts(self, plan: Plan, deratings: Sequence[Deratings]) -> bool:
        """Replay a cheaper fleet that is new and keep it where it holds; return whether it does."""
        key = fleet_key(plan)
        if key in self.tried or self.is_spent:
            return False
        self.tried.add(key)
        self.replays += 1
        if not self.holds(plan, deratings):
            return False
        self.held.append(plan)
        return True


def cheaper_fleets(search: EaseSearch, deratings: Sequence[Deratings]) -> list[Plan]:
    """Return the fleets that hold on the loop's seed, dearest first, from the one in `search` down.

    Single instances are moved only where the plan has one model: a minimum names no model.
    """
    first = search.replanner.first
    search.tried.update((fleet_key(first), fleet_key(search.cheapest)))
    if any(deratings):
        _ease_deratings(search, deratings)
    if len(first.models) == 1:
        while not search.is_spent and _one_move(search, first.models[0]):
            pass
    return search.held


def _ease_deratings(search: EaseSearch, deratings: Sequence[Deratings]) -> None:
    """Bisect the exponent of all deratings between 0, the first plan, and 1, the one that holds."""
    low, high = 0.0, 1.0
    for _ in range(EASE_STEPS):
        middle = (low + high) / 2
        eased = [{kind: f**middle for kind, f in factors.items()} for factors in deratings]
        try:
            candidate = search.replanner.plan(eased)
        except (InfeasibleError, NoPlanInTimeError):
            low = middle
            continue
        if not search.saves(candidate) or search.accepts(candidate, eased):
            high = middle
        else:
            low = middle


def _one_move(search: EaseSearch, first: ModelPlan) -> bool:
    """Take the first move that saves and holds; return whether there was one."""
    cheapest = search.cheapest.models[0]
    underated: list[Deratings] = [{}]
    candidates = {c.option.name: c for c in first.candidates}
    scale = search.replanner.largest_scale
    for counts in _moves(cheapest, first):
        if search.is_spent:
            return False
        search.plans += 1
        groups = tuple(instance_group(candidates[name], n) for name, n in counts.items() if n > 0)
        try:
            plan = search.replanner.plan(underated, minimum=groups, scale=scale)
        except (InfeasibleError, NoPlanInTimeError):
            continue
        if not search.saves(plan) or _peak_load(plan.models[0]) > HOPELESS * _peak_load(cheapest):
            continue
        if search.accepts(plan, underated):
            return True
    return False


def _moves(cheapest: ModelPlan, first: ModelPlan) -> Iterator[Counts]:
    """Yield cheaper fleets nearby, those first that save most: one instance less, then swaps."""
    counts = {a.candidate.option.name: a.instances for a in cheapest.allocations}
    priced = sorted(
        cheapest.allocations, key=lambda a: (-_price(a.candidate), a.candidate.option.name)
    )
    for a in priced:
        yield counts | {a.candidate.option.name: a.instances - 1}
    for a in priced:
        for other in _cheapest_per_accelerator(first):
            swapped = math.ceil(_price(a.candidate) / _price(other) - LEAST_SAVING) - 1
            name = other.option.name
            if swapped >= 1 and name != a.candidate.option.name:
                fewer = counts | {a.candidate.option.name: a.instances - 1}
                yield fewer | {name: fewer.get(name, 0) + swapped}


def _peak_load(plan: ModelPlan) -> float:
    return max(a.load_fraction for a in plan.allocations)


def _cheapest_per_accelerator(plan: ModelPlan) -> list[OptionCapacity]:
    cheapest: dict[AcceleratorCount, OptionCapacity] = {}
    for candidate in sorted(plan.candidates, key=lambda c: (_price(c), c.option.name)):
        cheapest.setdefault(accelerator_count(candidate), candidate)
    return sorted(cheapest.values(), key=lambda c: (-_price(c), c.option.name))


def _price(candidate: OptionCapacity) -> float:
    return candidate.option.price_usd_per_hour
