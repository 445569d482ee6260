"""The order of the steps: spec → offers → options → capacities → optimum → plan.

The only module that knows all of them; each step lives elsewhere and can be used alone.
"""

from __future__ import annotations

import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

from melange_sky.capacities import CapacityCell, DeploymentOption, OptionCapacity, Origin
from melange_sky.errors import InfeasibleError, InputError, did_you_mean
from melange_sky.models import longest_admitted, unmodelled_flags, with_engine_args
from melange_sky.names.accelerators import names_of
from melange_sky.names.limits import LimitKind
from melange_sky.optimizer import Demand, Problem, Solution, SolveOptions, baselines, optimize
from melange_sky.planner.clock import created_at
from melange_sky.planner.constraints import constraints_of, kinds_of_price, speaks_of_places
from melange_sky.planner.objectives import alternative_mixes, objective_notes, price_notes
from melange_sky.planner.options import OfferRules, PlannedOffer, build_options, usable_offers
from melange_sky.planner.sensitivity import TimeUpError, cost_band
from melange_sky.plans import ModelPlan, Plan, PlanWarning
from melange_sky.pricing import OfferQuery, load_offers
from melange_sky.profiles import CapacityQuery, load_model
from melange_sky.rendering import unservable_clouds
from melange_sky.slo import SLO
from melange_sky.spec import MelangeConfig, Spec, load_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from melange_sky.models import ModelShape
    from melange_sky.offers import Offer
    from melange_sky.plans import Baseline, Sensitivity
    from melange_sky.spec import AcceleratorChoice, ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What the caller asks beyond the spec. `price_error` is the fraction by which
    prices may move; `progress` is told of long work (done, total)."""

    prices: OfferQuery = field(default_factory=OfferQuery)
    allow_flagged: bool = False
    solve: SolveOptions = field(default_factory=SolveOptions)
    sensitivity: bool = True
    price_error: float = 0.0
    progress: Callable[[int, int], None] | None = None


def plan_spec(path: Path, request: PlanRequest | None = None) -> Plan:
    """Plan what the file asks for: a melange_sky spec or a Mélange JSON config.

    Raises InputError, InfeasibleError or SourceUnavailableError, each with one clear line.
    """
    request = request or PlanRequest()
    spec = load_spec(path)
    if isinstance(spec, MelangeConfig):
        return _plan_config(spec, path.stem, request)
    return plan_loaded(spec, request)


def plan_loaded(spec: Spec, request: PlanRequest) -> Plan:
    """Plan an already checked spec."""
    prepared = _Prepared.of(spec, request)
    solve = request.solve
    problem = _problem(spec, prepared)
    solution = _optimum(problem, solve, prepared)
    command = (
        f"melange-sky profile launch {shlex.quote(str(spec.path))}" if request.sensitivity else None
    )
    alone, band, late = _beside(problem, solution, solve, command)
    notes = objective_notes(problem, solution, request) + price_notes(chain(*solution.allocations))
    models = tuple(
        ModelPlan(
            name=served.name,
            model=served.model,
            slo=served.slo,
            workload=served.workload,
            allocations=solution.allocations[k],
            baselines=alone[k],
            candidates=prepared.demands[k].options,
            warnings=prepared.warnings[k] if spec.multi else (),
            model_shape=prepared.shapes[k],
            engine=spec.engine,
            engine_generation=ENGINE_GENERATION,
            spot=problem.constraints.spot,
        )
        for k, served in enumerate(spec.models)
    )
    return Plan(
        name=spec.name,
        created_at=created_at(),
        models=models,
        solver=solution.report,
        lists_models=spec.multi,
        headroom=spec.headroom,
        constraints=problem.constraints,
        price_snapshot=prepared.snapshot,
        warnings=prepared.shared_warnings
        + late
        + notes
        + (() if spec.multi else prepared.warnings[0]),
        alternatives=alternative_mixes(solution),
        sensitivity=band,
    )


def _optimum(problem: Problem, solve: SolveOptions, prepared: _Prepared) -> Solution:
    """Return the optimum; where there is none, say too what is odd about the workload."""
    try:
        return optimize(problem, solve)
    except InfeasibleError as error:
        notes = [w.message for mine in prepared.warnings for w in mine if w.code == "workload"]
        raise InfeasibleError("; note: ".join([str(error), *notes])) from error


def _beside(
    problem: Problem, solution: Solution, solve: SolveOptions, command: str | None
) -> tuple[tuple[tuple[Baseline, ...], ...], Sensitivity | None, tuple[PlanWarning, ...]]:
    """Return what is told beside the plan: baselines, cost band (with `command`), warnings.

    All together get as long as the plan itself, so that a hard problem takes twice the time limit.
    """
    solve = replace(solve, stop_at_s=time.perf_counter() + solve.time_limit_s)
    with ThreadPoolExecutor(max_workers=2) as pool:
        alone_soon = pool.submit(baselines, problem, _costs(solution), solve)
        band, late = None, []
        if command is not None:
            try:
                band = cost_band(problem, solution, solve, command=command, pool=pool)
            except TimeUpError:
                late.append(
                    PlanWarning(
                        code="time-limit",
                        message="no time was left to tell what the error of the estimates does to the"
                        " cost; raise --time-limit",
                    )
                )
        return alone_soon.result(), band, tuple(late)


def problem_for(spec: Spec, request: PlanRequest) -> Problem:
    """Return what the optimizer would be asked for an already checked spec."""
    return _problem(spec, _Prepared.of(spec, request))


def _problem(spec: Spec, prepared: _Prepared) -> Problem:
    return Problem(
        demands=prepared.demands, headroom=spec.headroom, constraints=constraints_of(spec)
    )


ENGINE_GENERATION = "vllm"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """Everything that the optimizer needs, per served model, and what must be told about it."""

    demands: tuple[Demand, ...]
    shapes: tuple[ModelShape, ...]
    warnings: tuple[tuple[PlanWarning, ...], ...]
    shared_warnings: tuple[PlanWarning, ...]
    snapshot: str | None

    @classmethod
    def of(cls, spec: Spec, request: PlanRequest) -> _Prepared:
        book = load_offers(
            replace(
                request.prices,
                infra=tuple((place.cloud, place.region) for place in spec.resources.infra),
                accelerators=tuple(sorted({c.name for c in spec.resources.accelerators})),
            )
        )
        closed = {c: why for c, why in unservable_clouds().items() if c not in book.own_clouds}
        rules = OfferRules(
            kinds=kinds_of_price(spec),
            allow_flagged=request.allow_flagged,
            closed_clouds=closed,
            regions=speaks_of_places(spec),
        )
        offers, rejected = usable_offers(book.offers, spec.resources, rules)
        if not offers:
            raise _no_offer(spec, rejected)
        shared = [*book.warnings, *rejected, *_missing_accelerators(spec, offers)]
        shared += _unmodelled(spec)
        shared += _limits_of_nothing(spec, book.offers)
        rows = [_prepare_model(served, spec, offers, request) for served in spec.models]
        return cls(
            demands=tuple(demand for demand, _, _ in rows),
            shapes=tuple(shape for _, shape, _ in rows),
            warnings=tuple(tuple(warnings) for _, _, warnings in rows),
            shared_warnings=tuple(shared),
            snapshot=book.snapshot,
        )


def _prepare_model(
    served: ServedModel, spec: Spec, offers: Sequence[PlannedOffer], request: PlanRequest
) -> tuple[Demand, ModelShape, list[PlanWarning]]:
    shape = _as_served(load_model(served.model, served.model_config), served, spec)
    workload = served.workload
    query = CapacityQuery(
        model=shape,
        slo=served.slo,
        input_sizes=workload.input_sizes,
        output_sizes=workload.output_sizes,
        needed=tuple(tuple(rate > 0 for rate in row) for row in workload.rates_rps),
        longest_request_tokens=workload.input_edges[-1] + workload.output_edges[-1],
        generation=ENGINE_GENERATION,
        progress=request.progress,
        engine_args=spec.engine.args,
        max_model_len=longest_admitted(spec.engine.args),
    )
    options, notes = build_options(shape, offers, query)
    if not options:
        reasons = "; ".join(w.message for w in notes if w.code == "does-not-fit") or "no option"
        raise InfeasibleError(f"{served.name}: the model fits on no asked accelerator: {reasons}")
    warnings = [PlanWarning(code="workload", message=text) for text in workload.warnings]
    warnings += notes
    return Demand(name=served.name, workload=workload, options=options), shape, warnings


def _no_offer(spec: Spec, rejected: Sequence[PlanWarning]) -> InfeasibleError:
    asked = ", ".join(_spelled(c) for c in spec.resources.accelerators) or "any accelerator"
    where = ", ".join(
        f"{p.cloud}/{p.region}" if p.region else p.cloud for p in spec.resources.infra
    )
    why = "; ".join(w.message for w in rejected) or "no cloud asked for sells them"
    kind = "spot" if spec.resources.use_spot else "on demand"
    return InfeasibleError(
        f"{spec.path}: resources: no usable {kind} offer of {asked} on {where or 'any cloud'} ({why}); "
        "see `melange-sky prices list`"
    )


def _spelled(choice: AcceleratorChoice) -> str:
    return choice.name if choice.count is None else f"{choice.name}:{choice.count}"


def _limits_of_nothing(spec: Spec, offers: Iterable[Offer]) -> list[PlanWarning]:
    """Warn of limits on instance types that nobody sells: a slip there would bind nothing."""
    sold = {offer.instance_type for offer in offers}
    return [
        PlanWarning(
            code="limit",
            message=f"resources.limits: no instance type '{key}' is offered on the asked infra, so "
            f"its limit binds nothing{did_you_mean(key.name, sold)}",
        )
        for key, _ in spec.resources.limits
        if key.kind is LimitKind.INSTANCE_TYPE and key.name not in sold
    ]


def _as_served(checkpoint: ModelShape, served: ServedModel, spec: Spec) -> ModelShape:
    own = served.model_config is not None
    try:
        return with_engine_args(checkpoint, spec.engine.args, own_config=own)
    except InputError as error:
        raise InputError(
            *(f"{spec.path}: engine.args: {text}" for text in error.problems)
        ) from error


def _unmodelled(spec: Spec) -> list[PlanWarning]:
    flags = unmodelled_flags(spec.engine.args)
    if not flags:
        return []
    text = (
        f"engine.args: estimates do not know what {', '.join(flags)} changes; only measuring tells"
    )
    return [PlanWarning(code="engine", message=text)]


def _missing_accelerators(spec: Spec, offers: Sequence[PlannedOffer]) -> list[PlanWarning]:
    sold = {(p.offer.accelerator, p.offer.accelerator_count) for p in offers}
    return [
        PlanWarning(
            code="no-offer",
            message=f"{_spelled(choice)}: no usable offer on the asked infra; left out",
        )
        for choice in spec.resources.accelerators
        if not any(
            name in names_of(choice.name) and choice.count in (None, count) for name, count in sold
        )
    ]


def _plan_config(config: MelangeConfig, name: str, request: PlanRequest) -> Plan:
    """Plan Mélange's own JSON config: costs and throughputs are the file's, names are labels."""
    options = tuple(
        OptionCapacity(
            option=DeploymentOption(
                name=label, accelerator=label, accelerator_count=1, price_usd_per_hour=cost
            ),
            cells=tuple(tuple(_given(rate) for rate in row) for row in rates),
        )
        for label, cost, rates in config.gpus
    )
    solve = replace(request.solve, slice_factor=config.slice_factor)
    problem = Problem(demands=(Demand(name=name, workload=config.workload, options=options),))
    solution = optimize(problem, solve)
    model = ModelPlan(
        name=name,
        model="given",
        slo=SLO(),
        workload=config.workload,
        allocations=solution.allocations[0],
        baselines=baselines(problem, _costs(solution), solve)[0],
        candidates=options,
    )
    return Plan(
        name=name,
        created_at=created_at(),
        models=(model,),
        solver=solution.report,
        warnings=objective_notes(problem, solution, request),
        alternatives=alternative_mixes(solution),
    )


def _costs(solution: Solution) -> tuple[float, ...]:
    return tuple(sum(a.cost_usd_per_hour for a in mine) for mine in solution.allocations)


def _given(rate: float) -> CapacityCell:
    if rate > 0:
        return CapacityCell(max_rate_rps=rate, origin=Origin.GIVEN)
    return CapacityCell(max_rate_rps=None, reason="the config gives no throughput")
