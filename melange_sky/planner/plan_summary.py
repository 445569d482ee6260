"""A plan in five lines: who takes what, what binds, the fleets next to it, its knee, what it saves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.optimizer import (
    Neighbour,
    next_cheaper,
    next_simpler,
    problem_of,
    taken_traffic,
)
from melange_sky.planner.knee import Knee, find_knee

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer import SolveOptions, TakenTraffic
    from melange_sky.plans import Allocation, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """What each shape of a model's instances takes, and the model's knee, None where not replayed."""

    name: str
    takes: tuple[TakenTraffic, ...]
    knee: Knee | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NextFleet:
    """A fleet next to the plan's: what runs, its cost, and the total rate that it carries.

    `estimated_rps` is by the plan's capacities and headroom, `replayed_rps` by replay, None where that
    is not known.
    """

    fleet: str
    cost_usd_per_hour: float
    estimated_rps: float
    replayed_rps: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSummary:
    """`cheaper` is the next fleet that costs less, `simpler` the best of one option type fewer.

    Both are None where there is none. `simplest` says that the plan has one option type per model.
    """

    models: tuple[ModelSummary, ...]
    cheaper: NextFleet | None
    simpler: NextFleet | None
    simplest: bool


def summarize_plan(plan: Plan, options: SolveOptions, *, replay: bool) -> PlanSummary:
    """Return the summary; without `replay` all knees are None."""
    problem = problem_of(plan)
    allocations = tuple(model.allocations for model in plan.models)
    cheaper = next_cheaper(problem, plan.cost_usd_per_hour, options)
    simpler = next_simpler(problem, allocations, options)
    seconds = options.time_limit_s / 2
    knees = _knees(plan, allocations, seconds) if replay else ()
    return PlanSummary(
        models=tuple(
            ModelSummary(
                name=model.name, takes=taken_traffic(model), knee=knees[k] if knees else None
            )
            for k, model in enumerate(plan.models)
        ),
        cheaper=_next_fleet(plan, cheaper, knees, seconds),
        simpler=_next_fleet(plan, simpler, (), seconds),
        simplest=max(map(len, allocations)) == 1,
    )


def _knees(
    plan: Plan,
    allocations: Sequence[tuple[Allocation, ...]],
    seconds: float,
    near: Sequence[Knee | None] = (),
) -> tuple[Knee | None, ...]:
    """Return each model's knee on other instances, looked for from those of a fleet `near` to it."""
    guesses = [
        knee.holds_rps / model.workload.rate_rps if knee and knee.holds_rps else 1.0
        for model, knee in zip(plan.models, near or (None,) * len(plan.models), strict=True)
    ]
    return tuple(
        find_knee(replace(model, allocations=chosen), seconds / len(plan.models), guess)
        for model, chosen, guess in zip(plan.models, allocations, guesses, strict=True)
    )


def _next_fleet(
    plan: Plan, neighbour: Neighbour | None, near: Sequence[Knee | None], seconds: float
) -> NextFleet | None:
    """Return a neighbour as it is shown, replayed where the knees of the plan `near` to it are known."""
    if neighbour is None:
        return None
    models = [
        replace(model, allocations=chosen)
        for model, chosen in zip(plan.models, neighbour.allocations, strict=True)
    ]
    knees = _knees(plan, neighbour.allocations, seconds, near) if near else ()
    return NextFleet(
        fleet="; ".join(
            f"{model.name}: {model.fleet_text()}" if len(models) > 1 else model.fleet_text()
            for model in models
        ),
        cost_usd_per_hour=neighbour.cost_usd_per_hour,
        estimated_rps=neighbour.rate_rps,
        replayed_rps=_least_rate(plan, knees),
    )


def _least_rate(plan: Plan, knees: Sequence[Knee | None]) -> float | None:
    """Return the total rate up to which every model holds, None where one's is not known."""
    scales = [
        None if knee is None or knee.holds_rps is None else knee.holds_rps / model.workload.rate_rps
        for model, knee in zip(plan.models, knees, strict=False)
    ]
    known = [scale for scale in scales if scale is not None]
    if not known or len(known) < len(plan.models):
        return None
    return min(known) * sum(model.workload.rate_rps for model in plan.models)
