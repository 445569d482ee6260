"""What the mix is worth once every fleet must hold in replay: mix, sliced mix, each type alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError, InputError, NoPlanInTimeError
from melange_sky.planner.prepare import prepare_problem
from melange_sky.planner.rate_over_time import plan_over_time
from melange_sky.planner.replay_loop.loop import LoopRequest, Verified, verify
from melange_sky.planner.replay_loop.replay import rate_of_trace
from melange_sky.planner.request import PlanRequest
from melange_sky.planner.true_rate import scale_to_mean

if TYPE_CHECKING:
    from melange_sky.plans import Plan
    from melange_sky.spec import Spec

MIX, SLICED = "mix", "mix, sliced"
SLICE_FACTOR = 8
"""Mélange's own default number of slices per bucket."""

MIX_TIME = 0.8
"""Of a rate's time, for the mix and each accelerator alone; the sliced mix has the rest."""

LEAST_S = 1.0
"""Seconds that it has at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One fleet at one rate. `paper_usd_per_hour` before any replay, `usd_per_hour` of the fleet that holds.

    Both None, with the `reason`, where there is none; `late` where the time ended the search, so that a
    cheaper one may hold. `attainment` and `low` are of the worst replay.
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
    is_interrupted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRequest:
    """At which rates to compare, how to plan and what to replay. `on_contender` gets every fleet.

    `rates_rps` None compares over the spec's own traffic. `seconds` are for the searches of one rate.
    """

    plan: PlanRequest
    loop: LoopRequest
    rates_rps: tuple[float, ...] | None = None
    seconds: float | None = None
    on_contender: Callable[[Contender], None] | None = None


def compare_fleets(spec: Spec, request: ComparisonRequest) -> tuple[Contender, ...]:
    """Plan and verify every kind of fleet at every rate, rate by rate; Ctrl-C ends it with those so far.

    The mix's verification sizes each accelerator alone, so that all are judged by the same replays.
    Raises InputError for a spec of several models.
    """
    if spec.lists_models:
        raise InputError(f"{spec.path}: compare takes a spec of one model")
    contenders: list[Contender] = []
    for rate_rps in request.rates_rps or (None,):
        for one in _at_one_rate(spec, rate_rps, request):
            if request.on_contender is not None:
                request.on_contender(one)
            contenders.append(one)
        if contenders[-1].is_interrupted:
            break
    return tuple(contenders)


def _at_one_rate(
    spec: Spec, rate_rps: float | None, request: ComparisonRequest
) -> Iterator[Contender]:
    """Yield the mix, the sliced mix and each accelerator alone at one rate."""
    begin = time.monotonic()
    if rate_rps is not None:
        spec = _at_rate(spec, rate_rps)
    arrivals = spec.models[0].workload.arrivals
    shown_rps = spec.models[0].workload.rate_rps if arrivals is None else arrivals.mean_rps
    nothing = Contender(rate_rps=rate_rps or shown_rps, kind=MIX)
    seconds = None if request.seconds is None else request.seconds * MIX_TIME
    mix = _verified(spec, request.plan, replace(request.loop, seconds=seconds), rate_rps)
    yield _contender(nothing, mix)
    if not (isinstance(mix, _Both) and mix.verified.is_interrupted):
        left = None
        if request.seconds is not None:
            left = max(LEAST_S, request.seconds - (time.monotonic() - begin))
        sliced = replace(request.plan.solve, assignment="sliced", slice_factor=SLICE_FACTOR)
        loop = replace(request.loop, seconds=left, alone=False)
        found = _verified(spec, replace(request.plan, solve=sliced), loop, rate_rps)
        yield _contender(replace(nothing, kind=SLICED), found)
    for name in _accelerators(spec, request, mix):
        yield _alone(replace(nothing, kind=name), mix)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Both:
    """A fleet as planned and as verified."""

    paper: Plan
    verified: Verified


def _verified(
    spec: Spec, plan_request: PlanRequest, loop: LoopRequest, rate_rps: float | None
) -> _Both | InfeasibleError | NoPlanInTimeError:
    """Plan and verify; returns what stands against it where there is no plan."""
    plan_request = replace(plan_request, sensitivity=False)
    how = loop.simulation
    try:
        paper = plan_over_time(spec, plan_request, how.how.seed, proven=False, jobs=how.jobs)
    except (InfeasibleError, NoPlanInTimeError) as error:
        return error
    if rate_rps is None:
        scale = scale_to_mean(spec, paper, how.trace)
    else:
        scale = 1.0 if how.trace is None else rate_rps / rate_of_trace(how.trace)
    loop = replace(loop, simulation=replace(how, rate_scale=scale))
    return _Both(paper=paper, verified=verify(paper, plan_request, loop))


def _accelerators(
    spec: Spec, request: ComparisonRequest, mix: _Both | InfeasibleError | NoPlanInTimeError
) -> Sequence[str]:
    named = dict.fromkeys(choice.name for choice in spec.resources.accelerators)
    if named:
        return list(named)
    if isinstance(mix, _Both):
        candidates = mix.paper.models[0].candidates
    else:
        (demand,) = prepare_problem(spec, request.plan).problem.demands
        candidates = demand.options
    return sorted({c.option.accelerator for c in candidates})


def _at_rate(spec: Spec, rate_rps: float) -> Spec:
    served = spec.models[0]
    workload = replace(served.workload.at_rate(rate_rps), arrivals=None)
    return replace(spec, models=(replace(served, workload=workload),))


def _contender(nothing: Contender, found: _Both | InfeasibleError | NoPlanInTimeError) -> Contender:
    """Return a mix as a contender."""
    if not isinstance(found, _Both):
        late = isinstance(found, NoPlanInTimeError)
        return replace(nothing, reason=str(found), late=late)
    plan = found.verified.plan.models[0]
    assert plan.verification is not None
    return replace(
        nothing,
        fleet=plan.fleet_text(),
        paper_usd_per_hour=found.paper.cost_usd_per_hour,
        usd_per_hour=plan.cost_usd_per_hour if plan.verification.holds else None,
        attainment=plan.verification.attainment,
        low=plan.verification.low,
        reason=plan.verification.reason,
        late=plan.verification.cut_short,
        is_interrupted=found.verified.is_interrupted,
    )


def _alone(nothing: Contender, mix: _Both | InfeasibleError | NoPlanInTimeError) -> Contender:
    """Return one accelerator alone as the mix's verification sized it."""
    if not isinstance(mix, _Both):
        return _contender(nothing, mix)
    rows = [b for b in mix.paper.models[0].baselines if b.accelerator == nothing.kind]
    paper = rows[0].cost_usd_per_hour if rows else None
    sure = mix.verified.singles.get(nothing.kind)
    verification = mix.verified.plan.models[0].verification
    assert verification is not None
    late = verification.cut_short or any(b.feasible is None for b in rows)
    nothing = replace(
        nothing,
        paper_usd_per_hour=paper,
        late=late,
        is_interrupted=mix.verified.is_interrupted,
    )
    if sure is None:
        reason = rows[0].reason if rows and paper is None else None
        none = "cut short before a fleet was found" if late else "no fleet was found that holds"
        return replace(nothing, reason=reason or none)
    (model,), verdict = sure.plan.models, sure.worst[0].verdict
    return replace(
        nothing,
        fleet=model.fleet_text(),
        usd_per_hour=sure.cost,
        attainment=verdict.attainment,
        low=verdict.interval[0],
    )
