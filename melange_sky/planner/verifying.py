"""Plan a spec and close the loop by replay: what `plan --verify` and `compare` do."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.errors import NoPlanInTimeError
from melange_sky.optimizer import SolveOptions
from melange_sky.planfile import load_plan
from melange_sky.planner.axes import parse_rates
from melange_sky.planner.comparison import ComparisonRequest, Contender, compare_fleets
from melange_sky.planner.current_fleet import with_current
from melange_sky.planner.figures import side_by_side, within
from melange_sky.planner.hooks import NO_HOOKS, Hooks
from melange_sky.planner.rate_over_time import plan_over_time
from melange_sky.planner.replay_loop.incumbent import Incumbent, check_incumbent
from melange_sky.planner.replay_loop.keep import keep_cheaper
from melange_sky.planner.replay_loop.loop import LoopRequest, plan_verified
from melange_sky.planner.replay_loop.replay import (
    SimulationRequest,
    simulate_plan,
    trace_notes,
)
from melange_sky.planner.replayed_trace import replayed_trace
from melange_sky.planner.request import PlanRequest
from melange_sky.planner.reuse_rounds import plan_with_reuse, with_found_again
from melange_sky.planner.true_rate import scale_to_mean
from melange_sky.plans import PlanWarning
from melange_sky.pricing import OfferQuery
from melange_sky.replay import Replay
from melange_sky.spec import AcceleratorChoice, load_own_spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from melange_sky.plans import ModelPlan, Plan
    from melange_sky.spec import Spec, SpecSource
    from melange_sky.workload import Trace

log = logging.getLogger(__name__)

NO_ENGINE = "a Mélange config does not describe the engine, so there is nothing to replay"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """Which traffic verifies a plan, and for how long. `trace` None samples the workload; see `plan --help`.

    Raises InputError where `burstiness` makes no sense.
    """

    trace: Trace | None = None
    burstiness: float | None = None
    seed: int = 0
    jobs: int | None = None
    seconds: float | None = None
    incumbent: Path | None = None

    def __post_init__(self) -> None:
        if self.burstiness is not None:
            within("--burstiness", self.burstiness, 0.01, 1000)

    def of(self, spec: Spec) -> ReplayOptions:
        """Return the options with what they leave open taken from the spec: its trace, its burstiness."""
        arrivals = [s.workload.arrivals for s in spec.models]
        given = self.trace is not None or self.burstiness is not None
        if given or spec.lists_models or arrivals[0] is None:
            return self
        return replace(self, trace=arrivals[0].trace, burstiness=arrivals[0].burstiness)

    def simulation(self, hooks: Hooks, rate_scale: float = 1.0) -> SimulationRequest:
        """What is replayed, at a rate times `rate_scale`."""
        return SimulationRequest(
            trace=self.trace,
            rate_scale=rate_scale,
            burstiness=1.0 if self.burstiness is None else self.burstiness,
            how=Replay(seed=self.seed),
            jobs=side_by_side(self.jobs),
            on_progress=hooks.replaying,
        )


def plan_and_verify(
    source: SpecSource, request: PlanRequest, options: ReplayOptions, hooks: Hooks = NO_HOOKS
) -> Plan:
    """Plan, replay and plan again until the SLO holds or it is clear why it cannot."""
    spec = load_own_spec(source, NO_ENGINE)
    told = _told(options.trace)
    options = options.of(spec)
    incumbent = _incumbent(options.incumbent, spec)
    first = _first_plan(spec, request, options, incumbent, proven=False)
    simulation = options.simulation(hooks, scale_to_mean(spec, first, options.trace))
    loop = LoopRequest(
        simulation=simulation,
        seconds=options.seconds,
        on_round=hooks.on_round,
        incumbent=incumbent,
    )
    verified = with_found_again(plan_verified(first, request, loop), simulation)

    def judge(fleet: ModelPlan) -> tuple[bool, float]:
        verdict = simulate_plan(fleet, replace(simulation, on_progress=None)).verdict
        return verdict.interval[0] >= verdict.target, verdict.attainment

    verified = replace(verified, warnings=(*told, *verified.warnings))
    return with_current(verified, spec, request, judge)


def _told(trace: Trace | None) -> tuple[PlanWarning, ...]:
    """Return what is to be told of a trace that is not the spec's own."""
    notes = () if trace is None else trace_notes(trace)
    return tuple(PlanWarning(code="workload", message=note) for note in notes)


def plan_beside_incumbent(
    source: SpecSource, request: PlanRequest, options: ReplayOptions, hooks: Hooks = NO_HOOKS
) -> Plan:
    """Plan by estimate; a plan of before is kept where it is cheaper today and holds in replay."""
    spec = load_own_spec(source, NO_ENGINE)
    options = options.of(spec)
    incumbent = _incumbent(options.incumbent, spec)
    assert incumbent is not None
    first = _first_plan(spec, request, options, incumbent, proven=True)
    simulation = options.simulation(hooks, scale_to_mean(spec, first, options.trace))
    return with_current(keep_cheaper(first, request, incumbent, simulation), spec, request)


def _incumbent(path: Path | None, spec: Spec) -> Incumbent | None:
    """Read a plan of before; InputError where it is of other models than the spec."""
    if path is None:
        return None
    incumbent = Incumbent(path=path, saved=load_plan(path))
    check_incumbent(incumbent, spec)
    return incumbent


def _first_plan(
    spec: Spec,
    request: PlanRequest,
    options: ReplayOptions,
    incumbent: Incumbent | None,
    *,
    proven: bool,
) -> Plan:
    """Plan by estimate; where time runs out, among the accelerators of the plan of before alone."""
    jobs = side_by_side(options.jobs)

    def over_time(one: Spec, asked: PlanRequest) -> Plan:
        return plan_over_time(one, asked, options.seed, proven=proven, jobs=jobs)

    try:
        return plan_with_reuse(spec, request, over_time, options.seed)
    except NoPlanInTimeError as error:
        if incumbent is None:
            raise
        narrowed = _narrowed(spec, incumbent)
        plan = plan_over_time(narrowed, request, options.seed, proven=proven, jobs=jobs)
        note = incumbent.note(f"its accelerators alone were looked at: {error}")
        return replace(plan, warnings=(note, *plan.warnings))


def _narrowed(spec: Spec, incumbent: Incumbent) -> Spec:
    options = [a.candidate.option for m in incumbent.saved.models for a in m.allocations]
    kinds = sorted({(o.accelerator, o.accelerator_count) for o in options})
    choices = tuple(AcceleratorChoice(name=name, count=count) for name, count in kinds)
    return replace(spec, resources=replace(spec.resources, accelerators=choices))


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """At which rates to compare, and by which traffic: the flags of `compare`, by their names.

    `trace` and `burstiness` None are those of the spec. `columns`, `timezone` and `keep_failed` say how
    `trace` is read, where evidence does not.
    """

    rates: str | Sequence[float] | None = None
    trace: Path | None = None
    columns: str | Mapping[str, str] | None = None
    timezone: str | None = None
    keep_failed: bool = False
    burstiness: float | None = None
    seed: int = 0
    jobs: int | None = None
    offline: bool = False
    time_limit_s: float = 30.0
    verify_seconds: float = 120.0


def compare_source(
    source: SpecSource, options: CompareOptions, hooks: Hooks = NO_HOOKS
) -> tuple[Contender, ...]:
    """Plan and verify the mix, the sliced mix and each accelerator alone, at every rate.

    Raises InputError for a spec of several models.
    """
    spec = load_own_spec(source, NO_ENGINE)
    trace = replayed_trace(
        options.trace,
        "--trace",
        options.columns,
        options.timezone,
        keep_failed=options.keep_failed,
    )
    if trace is not None:
        for note in trace_notes(trace):
            log.warning("%s", note)
    replayed = ReplayOptions(
        trace=trace, burstiness=options.burstiness, seed=options.seed, jobs=options.jobs
    ).of(spec)
    rates = options.rates
    request = ComparisonRequest(
        rates_rps=None if rates is None else parse_rates(rates),
        plan=PlanRequest(
            prices=OfferQuery(offline=options.offline),
            solve=SolveOptions(time_limit_s=options.time_limit_s),
            sensitivity=False,
        ),
        loop=LoopRequest(simulation=replayed.simulation(hooks), on_round=hooks.on_round),
        seconds=options.verify_seconds,
        on_contender=hooks.on_contender,
    )
    return compare_fleets(spec, request)
