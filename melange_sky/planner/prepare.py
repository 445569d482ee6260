"""What the optimizer needs of a spec: usable offers, options with capacities, and what is odd about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from melange_sky.engines import engine_named
from melange_sky.errors import InfeasibleError, did_you_mean
from melange_sky.names.accelerators import names_of
from melange_sky.names.limits import LimitKind
from melange_sky.optimizer import Demand, Problem
from melange_sky.planner.assumed_splits import without_assumed
from melange_sky.planner.checkpoints import spec_forms
from melange_sky.planner.confidence import at_confidence
from melange_sky.planner.constraints import constraints_of
from melange_sky.planner.found_offers import FoundOffers, find_offers, spelled
from melange_sky.planner.instance_splits import SplitRules
from melange_sky.planner.notes import rate_notes
from melange_sky.planner.options import build_options
from melange_sky.planner.reservations import groups_of, reserved_offers
from melange_sky.planner.step_log import log_options
from melange_sky.plans import PlanWarning
from melange_sky.profiles import CapacityLookup, CapacityQuery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from melange_sky.capacities import OptionCapacity
    from melange_sky.engines import EngineChoice
    from melange_sky.models import ModelShape
    from melange_sky.offers import Offer
    from melange_sky.planner.options import BuiltOptions, PlannedOffer
    from melange_sky.planner.request import PlanRequest
    from melange_sky.plans import ModelForm, ModelPlan
    from melange_sky.spec import ServedModel, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedProblem:
    """The optimizer's problem, what it was made of, and what else a plan holds of each served model.

    `offers` and `splits` are those that options were built of.
    `forms`, `queries` (what was asked of the capacities of the first form), `lookups` (what answered,
    where one form is asked for) and `warnings` are by model, in the order of the problem's demands.
    """

    problem: Problem
    offers: tuple[PlannedOffer, ...]
    splits: SplitRules
    forms: tuple[tuple[ModelForm, ...], ...]
    queries: tuple[CapacityQuery, ...]
    lookups: tuple[CapacityLookup | None, ...]
    warnings: tuple[tuple[PlanWarning, ...], ...]
    shared_warnings: tuple[PlanWarning, ...]
    snapshot: str | None


def problem_for(spec: Spec, request: PlanRequest) -> Problem:
    """Return the optimizer's problem of an already checked spec."""
    return without_assumed(prepare_problem(spec, request).problem, spec.resources.assumed_splits)


def prepare_problem(spec: Spec, request: PlanRequest) -> PreparedProblem:
    """Read prices and models, build the options and look their capacities up.

    Raises InputError, InfeasibleError where no offer or option is left, SourceUnavailableError.
    """
    return prepare_with(spec, request, find_offers(spec, request))


def prepare_with(spec: Spec, request: PlanRequest, found: FoundOffers) -> PreparedProblem:
    """Read models, build the options of offers and look their capacities up; raises what `prepare_problem` does."""
    models = [spec_forms(served, spec, request) for served in spec.models]
    offers, book = list(found.offers), found.book
    shared = [*book.warnings, *found.rejected, *_missing_accelerators(spec, offers)]
    shared += [*_engine_notes(spec), *_limits_of_nothing(spec, book.offers)]
    reserved, notes = reserved_offers(offers, spec.resources.fixed, request)
    offers, shared = [*offers, *reserved], [*shared, *notes]
    splits = _split_rules(spec)

    @cache
    def build(query: CapacityQuery, form: str | None) -> BuiltOptions:
        """Build the options once for all models that ask the same of capacities."""
        return build_options(offers, query, splits, form=form)

    rows = [
        _prepare_model(served, spec, request, forms, build)
        for served, (forms, _) in zip(spec.models, models, strict=True)
    ]
    for row in rows:
        log_options(row.demand)
    return PreparedProblem(
        problem=Problem(
            demands=tuple(row.demand for row in rows),
            headroom=spec.headroom,
            constraints=constraints_of(spec, groups_of(row.demand for row in rows)),
        ),
        offers=tuple(offers),
        splits=splits,
        forms=tuple(forms for forms, _ in models),
        queries=tuple(
            capacity_query(served, spec, request, forms[0])
            for served, (forms, _) in zip(spec.models, models, strict=True)
        ),
        lookups=tuple(row.lookup for row in rows),
        warnings=tuple(
            (*of_forms, *row.warnings) for (_, of_forms), row in zip(models, rows, strict=True)
        ),
        shared_warnings=tuple(shared),
        snapshot=book.snapshot,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PreparedModel:
    """One model's demand, what is odd about it, and the lookup of its capacities where it has one form."""

    demand: Demand
    warnings: list[PlanWarning]
    lookup: CapacityLookup | None


def _prepare_model(
    served: ServedModel,
    spec: Spec,
    request: PlanRequest,
    forms: Sequence[ModelForm],
    build: Callable[[CapacityQuery, str | None], BuiltOptions],
) -> _PreparedModel:
    options: list[OptionCapacity] = []
    notes: list[PlanWarning] = []
    lookup: CapacityLookup | None = None
    for form in forms:
        query = capacity_query(served, spec, request, form)
        bounded = request.as_needed and len(forms) == 1 and not request.hits
        query = replace(query, bounded=bounded)
        built = build(query, form.name or None)
        options += _with_hits(built.options, query, request.hits.get(served.name))
        told = built.warnings
        notes += told if len(forms) == 1 else [_of_form(note, form) for note in told]
        lookup = built.lookup if len(forms) == 1 else None
    if not options:
        why = ("does-not-fit", "pcie-tensor-parallel")
        reasons = "; ".join(w.message for w in notes if w.code in why) or "no option"
        raise InfeasibleError(f"{served.name}: the model fits on no accelerator: {reasons}")
    warnings = [PlanWarning(code="workload", message=text) for text in served.workload.warnings]
    warnings += rate_notes(served.workload)
    warnings += _model_notes(served, forms[0].shape)
    demand = Demand(
        name=served.name,
        workload=served.workload,
        options=at_confidence(options, request.confidence),
        target=None if served.attainment_per_bucket else served.slo.attainment,
    )
    return _PreparedModel(
        demand=demand,
        warnings=[*warnings, *_image_notes(served), *_reuse_notes(served, request), *notes],
        lookup=lookup,
    )


def _split_rules(spec: Spec) -> SplitRules:
    return SplitRules(
        over_pcie=spec.resources.pcie_tensor_parallel, nodes=spec.resources.max_nodes_per_replica
    )


def capacity_query(
    served: ServedModel, spec: Spec, request: PlanRequest, form: ModelForm
) -> CapacityQuery:
    """Return what is asked of the capacities of a model in one form."""
    asked = query_of(
        served, form.shape, spec.engine, generation_of(spec, request), form.quantization
    )
    return replace(asked, progress=request.progress)


def query_of(
    served: ServedModel | ModelPlan,
    shape: ModelShape,
    choice: EngineChoice,
    generation: str,
    quantization: str | None,
) -> CapacityQuery:
    """Return what is asked of the capacities of a model that is held so, for its traffic and SLO."""
    workload, engine, args = served.workload, engine_named(choice.name), choice.args
    prompts = workload.as_prompts()
    if quantization is not None:
        args = (*args, engine.flags.quantization, quantization)
    return CapacityQuery(
        model=shape,
        slo=served.slo,
        input_sizes=prompts.input_sizes,
        output_sizes=workload.output_sizes,
        needed=tuple(tuple(rate > 0 for rate in row) for row in workload.rates_rps),
        longest_request_tokens=prompts.input_edges[-1] + workload.output_edges[-1],
        engine=engine,
        generation=generation,
        engine_args=args,
        max_model_len=engine.longest_admitted(args),
        levels=not served.attainment_per_bucket,
        reuse=workload.reuse,
    )


def _of_form(note: PlanWarning, form: ModelForm) -> PlanWarning:
    return replace(note, message=f"{note.message} (in {form.name or form.shape.dtype})")


def _model_notes(served: ServedModel, shape: ModelShape) -> list[PlanWarning]:
    """Return what is odd about the model, and how to plan its images where these are left out."""
    open_images = "vision" in shape.inputs and served.workload.images is None
    hint = "; workload.images: {per_request, tokens} plans images"
    return [
        PlanWarning(
            code="model",
            message=f"{served.model}: {text}{hint if open_images and 'only their text' in text else ''}",
        )
        for text in shape.notes
    ]


def _with_hits(
    options: Sequence[OptionCapacity],
    query: CapacityQuery,
    hits: Mapping[str, Sequence[float]] | None,
) -> Sequence[OptionCapacity]:
    if not hits:
        return options
    from melange_sky.planner.hits import with_hits  # numpy is not wanted where nothing is shared

    return with_hits(options, query, hits)


def _reuse_notes(served: ServedModel, request: PlanRequest) -> list[PlanWarning]:
    """Say where what prompts share is not counted on."""
    if served.workload.reuse is None or request.hits:
        return []
    message = (
        f"{served.model}: capacities are those of prompts that find nothing in a prefix cache, although workload.reuse "
        "tells that some of them would"
    )
    return [PlanWarning(code="reuse", message=message)]


def _image_notes(served: ServedModel) -> list[PlanWarning]:
    """Say how images are planned, and what of them is not."""
    images = served.workload.images
    if images is None:
        return []
    message = (
        f"{served.model}: every prompt is planned with {images.prompt_tokens} tokens of images beside its text "
        f"({images.per_request:g} × {images.tokens}); buckets are those of the text, which is what the gateway "
        "counts; the encoder's own time is not counted"
    )
    return [PlanWarning(code="images", message=message)]


def generation_of(spec: Spec, request: PlanRequest) -> str:
    """Return the engine generation to estimate with: the one asked for, else that of the version rendered."""
    engine = engine_named(spec.engine.name)
    return request.engine_generation or engine.generation_of(spec.engine.version)


def _limits_of_nothing(spec: Spec, offers: Iterable[Offer]) -> list[PlanWarning]:
    """Warn of limits on instance types that nobody sells: a slip there would bind nothing."""
    sold = {offer.instance_type for offer in offers}
    return [
        PlanWarning(
            code="limit",
            message=f"resources.limits: no instance type '{key}' is offered on the requested infra, so "
            f"its limit has no effect{did_you_mean(key.name, sold)}",
        )
        for key, _ in spec.resources.limits
        if key.kind is LimitKind.INSTANCE_TYPE and key.name not in sold
    ]


def _engine_notes(spec: Spec) -> list[PlanWarning]:
    """Warn of what the estimates do not know of the engine and its flags."""
    engine = engine_named(spec.engine.name)
    notes = [] if engine.generation_note is None else [f"engine: {engine.generation_note}"]
    flags = engine.flags.unmodelled_in(spec.engine.args)
    if flags:
        notes.append(
            f"engine.args: estimates ignore {', '.join(flags)}; only measuring shows the effect"
        )
    return [PlanWarning(code="engine", message=note) for note in notes]


def _missing_accelerators(spec: Spec, offers: Sequence[PlannedOffer]) -> list[PlanWarning]:
    sold = {(p.offer.accelerator, p.offer.accelerator_count) for p in offers}
    return [
        PlanWarning(
            code="no-offer",
            message=f"{spelled(choice)}: no usable offer on the requested infra; left out",
        )
        for choice in spec.resources.accelerators
        if not any(
            name in names_of(choice.name) and choice.count in (None, count) for name, count in sold
        )
    ]
