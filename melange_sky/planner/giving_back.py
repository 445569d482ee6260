"""Give capacity back: cheaper fleets near one that holds in replay.

The loop tightens in coarse steps and over whole accelerators, so that the first fleet that holds may be
larger than need be. Two ways lead back: the deratings are eased together, by bisection; and single
instances are taken out or swapped for cheaper ones while all that the plan promises on paper stands.
Every fleet tried is replayed on the loop's own seed; none is believed before it holds on fresh ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melange_sky.constraints import InstanceGroup
from melange_sky.errors import InfeasibleError
from melange_sky.planner.replan import Choice, Kind, fleet_key, kind_of

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.plans import ModelPlan, Plan

EASE_STEPS = 4
MAX_TRIALS = 16
MAX_PLANS = 80
LEAST_SAVING = 1e-6
"""USD per hour below which two fleets cost the same."""

Counts = dict[str, int]
"""Instances by option name."""


@dataclass(slots=True, kw_only=True)
class Trials:
    """Fleets that held so far, dearest first, and those already tried.

    `holds` replays a fleet on the loop's seed.
    """

    choice: Choice
    holds: Callable[[Plan, Sequence[Mapping[Kind, float]]], bool]
    held: list[Plan]
    seen: set[object] = field(default_factory=set)
    replays: int = 0
    plans: int = 0

    @property
    def best(self) -> Plan:
        """The cheapest fleet that held."""
        return self.held[-1]

    @property
    def spent(self) -> bool:
        """Whether no more is to be tried."""
        return self.replays >= MAX_TRIALS or self.plans >= MAX_PLANS

    def saves(self, planned: Plan) -> bool:
        """Return whether a fleet is cheaper than the cheapest one that held."""
        return planned.cost_usd_per_hour < self.best.cost_usd_per_hour - LEAST_SAVING

    def tried(self, planned: Plan, derates: Sequence[Mapping[Kind, float]]) -> bool:
        """Replay a cheaper fleet that is new; return whether it holds."""
        key = fleet_key(planned)
        if key in self.seen or self.spent:
            return False
        self.seen.add(key)
        self.replays += 1
        if not self.holds(planned, derates):
            return False
        self.held.append(planned)
        return True


def give_back(trials: Trials, derates: Sequence[Mapping[Kind, float]]) -> list[Plan]:
    """Return the fleets that hold on the loop's seed, dearest first, from the one in `trials` down."""
    trials.seen.update((fleet_key(trials.choice.first), fleet_key(trials.best)))
    _ease(trials, derates)
    if len(trials.choice.first.models) == 1:
        while not trials.spent and _one_move(trials, trials.choice.first.models[0]):
            pass
    return trials.held


def _ease(trials: Trials, derates: Sequence[Mapping[Kind, float]]) -> None:
    """Bisect the exponent of all deratings between 0, the first plan, and 1, the one that holds."""
    low, high = 0.0, 1.0
    for _ in range(EASE_STEPS):
        middle = (low + high) / 2
        eased = [{kind: f**middle for kind, f in mine.items()} for mine in derates]
        try:
            candidate = trials.choice.plan(eased)
        except InfeasibleError:  # in the time that there was
            low = middle
            continue
        if not trials.saves(candidate) or trials.tried(candidate, eased):
            high = middle
        else:
            low = middle


def _one_move(trials: Trials, first: ModelPlan) -> bool:
    """Take the first move that saves and holds; return whether there was one."""
    best = trials.best.models[0]
    undone: list[dict[Kind, float]] = [{}]
    options = {o.option.name: o for o in first.candidates}
    for counts in _moves(best, first):
        if trials.spent:
            return False
        trials.plans += 1
        groups = tuple(_group(options[name], n) for name, n in counts.items() if n > 0)
        try:
            candidate = trials.choice.plan(undone, minimum=groups)
        except InfeasibleError:
            continue
        if trials.saves(candidate) and trials.tried(candidate, undone):
            return True
    return False


def _moves(best: ModelPlan, first: ModelPlan) -> Iterator[Counts]:
    """Yield cheaper fleets near `best`, those first that save most: one instance less, then swaps."""
    counts = {a.candidate.option.name: a.instances for a in best.allocations}
    priced = sorted(best.allocations, key=lambda a: (-_price(a.candidate), a.candidate.option.name))
    for a in priced:
        yield counts | {a.candidate.option.name: a.instances - 1}
    for a in priced:
        for other in _cheapest_per_kind(first):
            swapped = math.ceil(_price(a.candidate) / _price(other) - LEAST_SAVING) - 1
            name = other.option.name
            if swapped >= 1 and name != a.candidate.option.name:
                fewer = counts | {a.candidate.option.name: a.instances - 1}
                yield fewer | {name: fewer.get(name, 0) + swapped}


def _cheapest_per_kind(plan: ModelPlan) -> list[OptionCapacity]:
    found: dict[Kind, OptionCapacity] = {}
    for option in sorted(plan.candidates, key=lambda o: (_price(o), o.option.name)):
        found.setdefault(kind_of(option), option)
    return sorted(found.values(), key=lambda o: (-_price(o), o.option.name))


def _price(option: OptionCapacity) -> float:
    return option.option.price_usd_per_hour


def _group(option: OptionCapacity, instances: int) -> InstanceGroup:
    offer = option.option.offer
    return InstanceGroup(
        accelerator=option.option.accelerator,
        accelerator_count=option.option.accelerator_count,
        cloud=None if offer is None else offer.cloud,
        region=None if offer is None else offer.region,
        instance_type=None if offer is None else offer.instance_type,
        instances=instances,
    )
