"""What the mix is worth once every fleet must hold in replay: mix, sliced mix, each type alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError, InputError, NoPlanInTimeError
from melange_sky.planner.plan_spec import plan_loaded
from melange_sky.planner.prepare import prepare_problem
from melange_sky.planner.replay_loop.loop import LoopRequest, plan_verified
from melange_sky.planner.replay_loop.replay import rate_of_trace
from melange_sky.planner.request import PlanRequest
from melange_sky.spec import AcceleratorChoice

if TYPE_CHECKING:
    from melange_sky.spec import Spec

MIX, SLICED = "mix", "mix, sliced"
SLICE_FACTOR = 8
"""Mélange's own default number of slices per bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One fleet at one rate. `paper_usd_per_hour` before any replay, `usd_per_hour` of the fleet that holds.

    Both None, with the `reason`, where there is none, or where `late` says that none was found in
    time. `attainment` and `low` are of the last replay.
    """

    rate_rps: float
    kind: str
    fleet: str | None = None
    paper_usd_per_hour: float | None = None
    usd_per_hour: float | None = None
    attainment: float | None = None
    low: float | None = None
    reason: str | None = None
    late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRequest:
    """At which rates to compare, how to plan and what to replay. `on_contender` gets every fleet."""

    rates_rps: tuple[float, ...]
    plan: PlanRequest
    loop: LoopRequest
    on_contender: Callable[[Contender], None] | None = None


def compare_fleets(spec: Spec, request: ComparisonRequest) -> tuple[Contender, ...]:
    """Plan and verify every kind of fleet at every rate, rate by rate.

    Raises InputError for a spec of several models.
    """
    if spec.lists_models:
        raise InputError(f"{spec.path}: compare takes a spec of one model")
    contenders = []
    for rate_rps in request.rates_rps:
        at_rate = _at_rate(spec, rate_rps)
        names = [MIX, SLICED, *_accelerators(at_rate, request)]
        for kind in names:
            one = _contender(at_rate, rate_rps, kind, request)
            if request.on_contender is not None:
                request.on_contender(one)
            contenders.append(one)
    return tuple(contenders)


def _accelerators(spec: Spec, request: ComparisonRequest) -> Sequence[str]:
    named = dict.fromkeys(choice.name for choice in spec.resources.accelerators)
    if named:
        return list(named)
    (demand,) = prepare_problem(spec, request.plan).problem.demands
    return sorted({c.option.accelerator for c in demand.options})


def _at_rate(spec: Spec, rate_rps: float) -> Spec:
    served = spec.models[0]
    workload = replace(served.workload.at_rate(rate_rps), arrivals=None)
    return replace(spec, models=(replace(served, workload=workload),))


def _contender(spec: Spec, rate_rps: float, kind: str, request: ComparisonRequest) -> Contender:
    plan_request = replace(request.plan, sensitivity=False)
    if kind == SLICED:
        sliced = replace(plan_request.solve, assignment="sliced", slice_factor=SLICE_FACTOR)
        plan_request = replace(plan_request, solve=sliced)
    elif kind != MIX:
        spec = _only(spec, kind)
    nothing = Contender(rate_rps=rate_rps, kind=kind)
    try:
        paper = plan_loaded(spec, plan_request)
    except InfeasibleError as error:
        return replace(nothing, reason=str(error))
    except NoPlanInTimeError as error:
        return replace(nothing, reason=str(error), late=True)
    plan = plan_verified(paper, plan_request, _loop(request, rate_rps, spec)).models[0]
    assert plan.verification is not None
    return replace(
        nothing,
        fleet=plan.fleet_text(),
        paper_usd_per_hour=paper.cost_usd_per_hour,
        usd_per_hour=plan.cost_usd_per_hour if plan.verification.holds else None,
        attainment=plan.verification.attainment,
        low=plan.verification.low,
        reason=plan.verification.reason,
        late=plan.verification.cut_short,
    )


def _only(spec: Spec, name: str) -> Spec:
    chosen = tuple(c for c in spec.resources.accelerators if c.name == name)
    if not chosen:
        chosen = (AcceleratorChoice(name=name),)
    return replace(spec, resources=replace(spec.resources, accelerators=chosen))


def _loop(request: ComparisonRequest, rate_rps: float, spec: Spec) -> LoopRequest:
    """A trace is replayed at the rate compared; `rate_scale` 1 stands for the trace's own timing."""
    simulation = request.loop.simulation
    if simulation.trace is None:
        return request.loop
    scale = rate_rps / rate_of_trace(simulation.trace)
    return replace(request.loop, simulation=replace(simulation, rate_scale=scale))
