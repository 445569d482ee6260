"""The order of the steps: spec → offers → options → capacities → optimum → plan.

Each step lives elsewhere and can be used alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import (
    Problem,
    Solution,
    SolveOptions,
    TimeUpError,
    baselines,
    optimize,
)
from melange_sky.planner.clock import created_at
from melange_sky.planner.form_notes import form_gain, gain_notes, preferring_first_forms
from melange_sky.planner.needed_rates import NeededRates
from melange_sky.planner.notes import (
    allocation_notes,
    alternative_mixes,
    elastic_notes,
    headroom_notes,
    objective_notes,
    rate_summary,
)
from melange_sky.planner.prepare import PreparedProblem, generation_of, prepare_problem
from melange_sky.planner.proposals import proposal
from melange_sky.planner.request import PlanRequest, launching
from melange_sky.planner.sensitivity import MeasuringAdvice, cost_band
from melange_sky.planner.side_solves import side_pool
from melange_sky.planner.sky_check import checked_by_sky, disk_notes
from melange_sky.planner.step_log import log_dominated, log_solution
from melange_sky.plans import ModelPlan, Plan, PlanWarning
from melange_sky.profiles import engine_generation
from melange_sky.spec import MelangeConfig, Spec, load_spec

if TYPE_CHECKING:
    from melange_sky.plans import Baseline, FormGain, Sensitivity
    from melange_sky.spec import SpecSource


def plan_spec(source: SpecSource, request: PlanRequest | None = None) -> Plan:
    """Plan what a file or mapping asks for: a melange_sky spec or a Mélange JSON config.

    Raises InputError, InfeasibleError, NoPlanInTimeError or SourceUnavailableError, each with one
    clear line.
    """
    return plan_read(load_spec(source), source, request or PlanRequest())


def plan_read(spec: Spec | MelangeConfig, source: SpecSource, request: PlanRequest) -> Plan:
    """Plan what was read from `source`; raises what `plan_spec` does."""
    if isinstance(spec, MelangeConfig):
        from melange_sky.planner.melange_config import plan_config

        name = source.stem if isinstance(source, Path) else "melange"
        return plan_config(spec, name, request)
    return plan_loaded(spec, request)


def plan_loaded(spec: Spec, request: PlanRequest) -> Plan:
    """Plan an already checked spec; its `sky` is read by SkyPilot meanwhile.

    The time limit of `request.solve` holds for all solving together; it counts from when prices
    and capacities are there.
    """
    with checked_by_sky(spec) as notes:
        planned = _plan_loaded(spec, request)
    notes += disk_notes(planned) if spec.skies else []
    if not notes:
        return planned
    return replace(planned, warnings=(*planned.warnings, *notes))


def _plan_loaded(spec: Spec, request: PlanRequest) -> Plan:
    rates = NeededRates(prepare_problem(spec, request), request.confidence)
    started, rule = request.started(), spec.resources.assumed_splits
    started = replace(started, solve=rates.timed(started.solve))
    known = rates.optimum(started.solve, rule, _optimum)
    if known is None:
        started = request.started()  # what was simulated does not count
    else:
        rates.settle_best_single(started.solve, rule, known)
    request = started
    prepared = rates.prepared
    log_dominated(prepared.problem, request.solve)
    solution = known or _optimum(prepared, request.solve)
    problem, solution, left_out = rates.settled(solution, rule, request.solve)
    prepared = replace(prepared, problem=problem)
    solution = preferring_first_forms(prepared, solution, request.solve)
    log_solution(solution)
    with side_pool(solution, request.solve, 1) as pool:
        forms = pool.submit(_form_notes, spec, prepared, solution, request)
        asked = _Measuring(
            command=_measure_command(spec, request), generation=generation_of(spec, request)
        )
        context = _cost_context(problem, solution, request.solve, asked)
        gain, of_forms = forms.result()
    shared = prepared.shared_warnings + context.warnings
    shared += _solution_notes(spec, problem, solution, request) + left_out + of_forms
    return Plan(
        name=spec.name,
        created_at=created_at(),
        models=_with_reuse(
            _model_plans(spec, prepared, solution, context, generation_of(spec, request)), request
        ),
        solver=solution.report,
        lists_models=spec.lists_models,
        headroom=spec.headroom,
        guard=spec.guard,
        elastic=spec.elastic,
        constraints=problem.constraints,
        price_snapshot=prepared.snapshot,
        warnings=shared if spec.lists_models else shared + prepared.warnings[0],
        alternatives=alternative_mixes(solution),
        sensitivity=context.band,
        confidence=request.confidence,
        form_gain=gain,
    )


def _solution_notes(
    spec: Spec, problem: Problem, solution: Solution, request: PlanRequest
) -> tuple[PlanWarning, ...]:
    """Return what to know of the fleet whatever its forms: the objective, its options, its headroom."""
    chosen = chain(*solution.allocations)
    notes = objective_notes(problem, solution, request)
    notes += allocation_notes(chosen, generation_of(spec, request))
    return notes + headroom_notes(spec.headroom) + elastic_notes(spec.elastic)


def _form_notes(
    spec: Spec, prepared: PreparedProblem, solution: Solution, request: PlanRequest
) -> tuple[FormGain | None, tuple[PlanWarning, ...]]:
    """Return what the choice of forms gained, and what to say of it or of one that would pay."""
    if not request.sensitivity:
        return None, ()
    gain = form_gain(prepared, solution, request.solve)
    notes = gain_notes(prepared, solution, gain)
    if notes or spec.quantization_where is not None:
        return gain, notes
    return gain, proposal(prepared, solution, request.solve, request.confidence)


def _model_plans(
    spec: Spec,
    prepared: PreparedProblem,
    solution: Solution,
    context: _CostContext,
    generation: str,
) -> tuple[ModelPlan, ...]:
    return tuple(
        ModelPlan(
            name=served.name,
            model=served.model,
            slo=served.slo,
            workload=served.workload,
            allocations=solution.allocations[k],
            baselines=context.baselines[k],
            candidates=prepared.problem.demands[k].options,
            warnings=prepared.warnings[k] if spec.lists_models else (),
            model_shape=prepared.forms[k][0].shape,
            model_source=prepared.forms[k][0].source,
            forms=tuple(form for form in prepared.forms[k] if form.name),
            engine=spec.engine,
            engine_generation=generation,
            spot=prepared.problem.constraints.spot,
            rate_profile=rate_summary(served.workload),
            attainment_per_bucket=served.attainment_per_bucket,
            sky=served.sky,
        )
        for k, served in enumerate(spec.models)
    )


def _with_reuse(models: tuple[ModelPlan, ...], request: PlanRequest) -> tuple[ModelPlan, ...]:
    """Return models' plans that tell under which routing their capacities hold."""
    if not request.hits:
        return models
    from melange_sky.plans import PlannedReuse  # of plans that count on prefix caches alone

    return tuple(
        replace(model, reuse=PlannedReuse(affinity=request.affinity, hits=()))
        if request.hits.get(model.name)
        else model
        for model in models
    )


def _optimum(prepared: PreparedProblem, solve: SolveOptions) -> Solution:
    """Return the optimum; where there is none, say too what is odd about the workload."""
    try:
        return optimize(prepared.problem, solve)
    except InfeasibleError as error:
        notes = [w.message for w in chain(*prepared.warnings) if w.code == "workload"]
        raise error.noting(notes) from error


def _measure_command(spec: Spec, request: PlanRequest) -> str | None:
    """Return the command that measures the spec's accelerators; None where no band is asked for."""
    if not request.sensitivity:
        return None
    return launching(spec.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CostContext:
    """What the optimum's cost is compared with: baselines by model, and the cost band.

    `warnings` say what there was no time for.
    """

    baselines: tuple[tuple[Baseline, ...], ...]
    band: Sensitivity | None
    warnings: tuple[PlanWarning, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measuring:
    """The command that measures (None: nothing is to be told of it), and the engine's generation."""

    command: str | None
    generation: str

    def unknown(self, problem: Problem) -> frozenset[str]:
        """Return the GPUs on which no published run stands behind estimates."""
        known = engine_generation(self.generation)
        names = {o.option.gpu for demand in problem.demands for o in demand.options}
        return frozenset(name for name in names if not known.has_runs(name))


_NO_BAND = PlanWarning(
    code="no-cost-range",
    message="no cost range over the estimates' error is told: its ends could not be proven",
)
"""Where the plan itself is not proven, its ends would take as long and be no nearer to it."""


def _cost_context(
    problem: Problem, solution: Solution, solve: SolveOptions, measuring: _Measuring
) -> _CostContext:
    """Solve for the baselines and, with a measuring `command`, for the cost band, side by side."""
    with side_pool(solution, solve, 2) as pool:
        singles = pool.submit(baselines, problem, _costs(solution), solve)
        if measuring.command is None:
            return _CostContext(baselines=singles.result(), band=None)
        if not solution.report.is_optimal:
            return _CostContext(baselines=singles.result(), band=None, warnings=(_NO_BAND,))
        try:
            advice = MeasuringAdvice(measuring.command, first=measuring.unknown(problem))
            band = cost_band(problem, solution, solve, advice=advice, pool=pool)
        except TimeUpError:
            late = PlanWarning(
                code="time-limit",
                message="no time was left to compute the cost range over the estimates' error; raise --time-limit",
            )
            warning = late if solve.deadline.passed else _NO_BAND
            return _CostContext(baselines=singles.result(), band=None, warnings=(warning,))
        return _CostContext(baselines=singles.result(), band=band)


def _costs(solution: Solution) -> tuple[float, ...]:
    """Return what each model's instances are billed per hour."""
    return tuple(sum(a.cost_usd_per_hour for a in chosen) for chosen in solution.allocations)
