"""What serves today (`current` in the spec) against the plan: what it costs, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.constraints import Constraints
from melange_sky.errors import InfeasibleError, InputError, NoPlanInTimeError
from melange_sky.optimizer import Problem, demand_of, optimize
from melange_sky.planner.prepare import prepare_problem
from melange_sky.planner.replay_loop.replan import instance_group, scaled
from melange_sky.plans import CurrentFleet
from melange_sky.spec import Redundancy, Resources

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.optimizer import Demand
    from melange_sky.planner.request import PlanRequest
    from melange_sky.plans import Allocation, ModelPlan, Plan
    from melange_sky.spec import CurrentInstances, Spec

Judge = Callable[["ModelPlan"], tuple[bool, float]]
"""Replays a fleet: whether it holds, and its attainment."""

LARGE = 8.0
"""Capacities are taken so many times larger to share the traffic out: replay says what holds."""


def with_current(plan: Plan, spec: Spec, request: PlanRequest, judge: Judge | None = None) -> Plan:
    """Return the plan with what it saves against what serves today; as it is where the spec says nothing.

    Raises InputError, with its place, for an entry that cannot be priced or does not fit the model.
    """
    if not spec.current:
        return plan
    found = [(entry, *_option(entry, spec, request)) for entry in spec.current]
    cost = sum(entry.instances * price for entry, _, price in found)
    given = {entry.usd_per_hour is not None for entry, _, _ in found}
    origin = "given and list" if len(given) == 2 else ("given" if given == {True} else "list")
    saving = cost - plan.cost_usd_per_hour
    current = CurrentFleet(
        fleet=" + ".join(f"{entry.instances} × {c.option.shape}" for entry, c, _ in found),
        instances=sum(entry.instances for entry, _, _ in found),
        cost_usd_per_hour=cost,
        price=origin,
        saving_usd_per_hour=saving,
        saving_fraction=saving / cost,
        judged_by="estimate" if judge is None else "replay",
        holds=None,
    )
    if len(plan.models) > 1:
        return replace(plan, current=replace(current, judged_by="nothing"))
    instances: dict[str, int] = {}
    for entry, candidate, _ in found:
        name = candidate.option.name
        instances[name] = instances.get(name, 0) + entry.instances
    candidates = {c.option.name: c for _, c, _ in found}
    return replace(plan, current=_judged(current, plan, candidates, instances, judge))


def _option(
    entry: CurrentInstances, spec: Spec, request: PlanRequest
) -> tuple[OptionCapacity, float]:
    """Return what an entry runs and what one of its instances costs per hour."""
    resources = Resources(
        accelerators=(replace(entry.choice, count=entry.choice.count or 1),),
        infra=() if entry.place is None else (entry.place,),
        use_spot=spec.resources.use_spot,
        pcie_tensor_parallel=True,
    )
    narrowed = replace(spec, resources=resources, redundancy=Redundancy(), current=())
    prices = replace(request.prices, refresh=False)
    asked = replace(request, prices=prices, reserved=(), progress=None)
    try:
        problem = prepare_problem(narrowed, asked).problem
    except InfeasibleError as error:
        raise InputError(f"{entry.where}: {error}") from None
    options = problem.demands[0].options
    if entry.split is not None:
        options = tuple(c for c in options if _split(c) == entry.split)
    if not options:
        known = ", ".join(dict.fromkeys(map(_split, problem.demands[0].options)))
        raise InputError(f"{entry.where}.split: no way to run it so; the planner knows {known}")
    best = max(options, key=lambda c: (-c.option.price_usd_per_hour, _rate(c, problem.demands[0])))
    listed = best.option.price_usd_per_hour
    return best, listed if entry.usd_per_hour is None else entry.usd_per_hour


def _split(candidate: OptionCapacity) -> str:
    engine = candidate.option.engine
    return "" if engine is None else engine.split.label


def _rate(candidate: OptionCapacity, demand: Demand) -> float:
    """Return about how much of the workload one instance serves in time, in req/s."""
    rates, total = demand.workload.rates_rps, demand.workload.rate_rps
    load = served = 0.0
    for i, j in demand.workload.buckets():
        rate = candidate.rate(i, j)
        if rate:
            load += rates[i][j] / rate
            served += rates[i][j]
    return served * served / total / load if load else 0.0


def _judged(
    current: CurrentFleet,
    plan: Plan,
    candidates: dict[str, OptionCapacity],
    instances: dict[str, int],
    judge: Judge | None,
) -> CurrentFleet:
    """Return the fleet with whether it holds: by replay where there is a judge, else by estimate."""
    by_estimate = _shared(plan, candidates, instances, 1.0)
    if judge is None:
        return replace(current, holds=by_estimate is not None)
    shared = by_estimate or _shared(plan, candidates, instances, LARGE)
    if shared is None:
        return replace(current, holds=False, judged_by="estimate")
    (model,) = plan.models
    holds, attainment = judge(replace(model, allocations=shared, verification=None))
    return replace(current, holds=holds, attainment=attainment)


def _shared(
    plan: Plan, candidates: dict[str, OptionCapacity], instances: dict[str, int], scale: float
) -> tuple[Allocation, ...] | None:
    """Return who serves what among these very instances, None where they are too few at `scale`."""
    (model,) = plan.models
    options = tuple(scaled(candidate, scale) for candidate in candidates.values())
    minimum = tuple(instance_group(candidates[name], n) for name, n in instances.items())
    problem = Problem(
        demands=(demand_of(model, options),), constraints=Constraints(minimum=minimum)
    )
    try:
        (allocations,) = optimize(problem).allocations
    except (InfeasibleError, NoPlanInTimeError):
        return None
    if sum(a.instances for a in allocations) > sum(instances.values()):
        return None
    return tuple(replace(a, candidate=candidates[a.candidate.option.name]) for a in allocations)
