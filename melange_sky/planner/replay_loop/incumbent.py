"""A plan of before as a rival: its fleet among today's options, for replay to judge."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.constraints import Constraints
from melange_sky.errors import InfeasibleError, InputError, NoPlanInTimeError
from melange_sky.planner.replay_loop.replan import instance_group
from melange_sky.plans import PlanWarning

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from melange_sky.capacities import DeploymentOption, OptionCapacity
    from melange_sky.constraints import InstanceGroup
    from melange_sky.planner.replay_loop.replan import Replanner
    from melange_sky.plans import Allocation, ModelPlan, Plan
    from melange_sky.spec import Spec

CODE = "incumbent"

Wanted = list[tuple["OptionCapacity", int]]
"""Today's candidates of a fleet with their instances, in the order of its allocations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incumbent:
    """A plan of before, as it was saved."""

    path: Path
    saved: Plan

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds on which all of it was seen to hold; none where it was not replayed."""
        found = [m.verification.seeds for m in self.saved.models if m.verification is not None]
        return found[0] if len(found) == len(self.saved.models) and len(set(found)) == 1 else ()

    def part(self, k: int) -> Incumbent:
        """Return one of its models by itself."""
        return replace(self, saved=replace(self.saved, models=(self.saved.models[k],)))

    def note(self, text: str) -> PlanWarning:
        """Return a word about it for the reader of the plan."""
        return PlanWarning(code=CODE, message=f"incumbent {self.path}: {text}")


def check_incumbent(incumbent: Incumbent, spec: Spec) -> None:
    """Raise InputError where a plan of before is of other models than the spec."""
    before = [(m.name, m.model) for m in incumbent.saved.models]
    now = [(served.name, served.model) for served in spec.models]
    same = [model for _, model in before] == [model for _, model in now]
    if same and (len(now) == 1 or before == now):
        return
    raise InputError(
        f"--incumbent {incumbent.path}: is a plan for {_told(before)}, but {spec.path} serves {_told(now)}; "
        "give a plan of the same models"
    )


def _told(models: list[tuple[str, str]]) -> str:
    return ", ".join(model if name == model else f"{name} ({model})" for name, model in models)


def fleet_today(incumbent: Incumbent, replanner: Replanner) -> Plan | str:
    """Return the incumbent's fleet among the candidates of today's plan at today's prices, or why not.

    It serves by its own shares where it was planned on the same grid and no rule has a say, else by those
    that the optimizer gives it.
    """
    first = replanner.first
    pairs = list(zip(first.models, incumbent.saved.models, strict=True))
    wanted = []
    for model, saved in pairs:
        found = _wanted(model, saved)
        if isinstance(found, str):
            return found
        wanted.append(found)
    if has_no_rules(first.constraints):
        own = [_by_own_shares(m, saved, w) for (m, saved), w in zip(pairs, wanted, strict=True)]
        models = tuple(model for model in own if model is not None)
        if len(models) == len(own):
            return replanner.of_models(models)
    return _by_new_shares(replanner, wanted)


def has_no_rules(constraints: Constraints) -> bool:
    """Return whether constraints ask for no more than that somebody serves."""
    plain = Constraints(
        spot=constraints.spot,
        min_replicas=min(constraints.min_replicas, 1),
        min_option_types=min(constraints.min_option_types, 1),
    )
    return constraints == plain and (constraints.spot is None or constraints.spot.max_fraction >= 1)


def _by_new_shares(replanner: Replanner, wanted: Sequence[Wanted]) -> Plan | str:
    """Let the optimizer say who serves what among exactly these instances."""
    first = replanner.first
    groups: Counter[InstanceGroup] = Counter()
    for candidate, instances in (pair for of_model in wanted for pair in of_model):
        groups[instance_group(candidate, 0)] += instances * candidate.option.nodes
    narrowed = tuple(
        replace(model, candidates=tuple(c for c, _ in of_model), allocations=())
        for model, of_model in zip(first.models, wanted, strict=True)
    )
    minimum = tuple(replace(group, instances=n) for group, n in groups.items())
    own = replace(replanner, first=replace(first, models=narrowed))
    try:
        plan = own.plan([{} for _ in narrowed], minimum, own.largest_scale)
    except InfeasibleError as error:
        return f"its fleet does not keep to the spec any more ({error})"
    except NoPlanInTimeError as error:
        return str(error)
    chosen = (a for model in plan.models for a in model.allocations)
    if sum(a.instances * a.candidate.option.nodes for a in chosen) != sum(groups.values()):
        return "its fleet is far too small for this traffic, or the spec's rules ask for more"
    models = [
        replace(p, candidates=m.candidates) for p, m in zip(plan.models, first.models, strict=True)
    ]
    return replace(plan, models=tuple(models))


def _wanted(model: ModelPlan, saved: ModelPlan) -> Wanted | str:
    """Return today's candidates of a saved fleet with their instances, or what is not to be had."""
    found: Wanted = []
    for allocation in saved.allocations:
        candidate = _today(model, allocation.candidate.option)
        if candidate is None:
            option = allocation.candidate.option
            where = "" if option.offer is None else f" ({option.offer.instance_type})"
            return f"{option.shape}{where} is not among what the spec can have today"
        found.append((candidate, allocation.instances))
    names = {candidate.option.name for candidate, _ in found}
    return found if len(names) == len(found) else "two of its options are one today"


def _today(model: ModelPlan, before: DeploymentOption) -> OptionCapacity | None:
    """Return today's candidate for an option of before: the same by name, else the cheapest like it."""
    like = [c for c in model.candidates if _kind(c.option) == _kind(before)]
    same = [c for c in like if c.option.name == before.name]
    return min(
        same or like, key=lambda c: (c.option.price_usd_per_hour, c.option.name), default=None
    )


def _kind(option: DeploymentOption) -> tuple[object, ...]:
    offer = option.offer
    sold = None if offer is None else (offer.cloud, offer.instance_type)
    split = None if option.engine is None else option.engine.split
    return option.accelerator, option.accelerator_count, option.use_spot, option.form, sold, split


def _by_own_shares(first: ModelPlan, saved: ModelPlan, wanted: Wanted) -> ModelPlan | None:
    """Return the saved fleet with its own shares; None where these do not fit today's workload."""
    if not _same_grid(first, saved) or len(wanted) != len(saved.allocations):
        return None
    allocations = tuple(
        _renewed(candidate, before, first)
        for (candidate, _), before in zip(wanted, saved.allocations, strict=True)
    )
    return replace(first, allocations=allocations) if _covers(allocations, first) else None


def _same_grid(first: ModelPlan, saved: ModelPlan) -> bool:
    a, b = first.workload, saved.workload
    return (a.input_edges, a.output_edges) == (b.input_edges, b.output_edges)


def _renewed(candidate: OptionCapacity, before: Allocation, first: ModelPlan) -> Allocation:
    """Return an allocation of today's candidate that serves what it served before."""
    rates = first.workload.rates_rps
    rate_rps = sum(
        share * rates[i][j] for i, row in enumerate(before.shares) for j, share in enumerate(row)
    )
    grown = rate_rps / before.rate_rps if before.rate_rps > 0 else 1.0
    return replace(
        before,
        candidate=candidate,
        load_fraction=before.load_fraction * grown,
        rate_rps=rate_rps,
        fixed_instances=0,
    )


def _covers(allocations: tuple[Allocation, ...], first: ModelPlan) -> bool:
    """Return whether every size that is asked for today has its shares."""
    return all(
        abs(sum(a.shares[i][j] for a in allocations) - 1) < 1e-6
        for i, j in first.workload.buckets()
    )
