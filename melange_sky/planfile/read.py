"""Read a `plan.json` back; anything wrong in it is one InputError that names the key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from melange_sky.capacities import (
    CapacityCell,
    DeploymentOption,
    OptionCapacity,
)
from melange_sky.engines import EngineChoice, engine_named
from melange_sky.errors import InputError
from melange_sky.hub.reference import COMMIT
from melange_sky.planfile import PLAN_FILE
from melange_sky.planfile.documents import (
    AllocationDocument,
    CandidateDocument,
    EngineChoiceDocument,
    GuardDocument,
    ListedPlanDocument,
    MaybeRows,
    PlanDocument,
)
from melange_sky.planfile.meaning import check_plan
from melange_sky.planfile.shared import with_whole_candidates
from melange_sky.plans import (
    NO_GUARD,
    SCHEMA_VERSION,
    Allocation,
    GuardRails,
    ModelForm,
    ModelPlan,
    ModelSource,
    Plan,
    SkyFields,
    sky_problems,
)
from melange_sky.slo import SLO
from melange_sky.workload import Matrix

MAX_BYTES = 256 * 1024 * 1024


def load_plan(path: Path) -> Plan:
    """Read a `plan.json`, or the one inside a plan folder; anything wrong is one InputError."""
    file = path / PLAN_FILE if path.is_dir() else path
    document, _ = load_document(file)
    return parse_plan(document, where=str(file))


def load_document(file: Path) -> tuple[object, bytes]:
    """Return what a JSON file holds, and its bytes; anything wrong is one InputError."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{file}: larger than {MAX_BYTES} bytes, not a plan")
        content = file.read_bytes()
        return json.loads(content.decode("utf-8")), content
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{file}: is not JSON ({type(error).__name__}); give a plan.json"
        ) from error


def parse_plan(document: object, where: str) -> Plan:
    """Turn a parsed document into a plan; `where` names it in messages."""
    if not isinstance(document, dict):
        raise InputError(f"{where}: is not a plan: expected a JSON object")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{where}: schema_version must be {SCHEMA_VERSION}; plan again with this version"
        )
    document = with_whole_candidates(document, where)
    try:
        if "models" in document:
            plan = _listed_plan(ListedPlanDocument.model_validate(document), where)
        else:
            plan = _plan(PlanDocument.model_validate(document), where)
    except ValidationError as error:
        lines = [
            f"{where}: {_path(problem['loc'])}: {problem['msg']}" for problem in error.errors()
        ]
        raise InputError(*lines[:10]) from error
    check_plan(plan, where)
    return plan


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "top level"


def _listed_plan(document: ListedPlanDocument, where: str) -> Plan:
    plans = [_plan(model, f"{where}: models.{i}") for i, model in enumerate(document.models)]
    return Plan(
        name=document.name,
        created_at=document.created_at,
        models=tuple(replace(p.models[0], warnings=p.warnings) for p in plans),
        solver=document.report(),
        lists_models=True,
        headroom=plans[0].headroom,
        constraints=document.constraints,
        price_snapshot=plans[0].price_snapshot,
        warnings=document.warnings,
        alternatives=document.alternatives,
        sensitivity=document.sensitivity,
        confidence=document.confidence,
        form_gain=document.form_gain,
        current=document.current,
        fleet_id=document.fleet_id,
        guard=_guard(document.guard, where),
        elastic=None if document.elastic is None else document.elastic.elastic(),
    )


def _plan(document: PlanDocument, where: str) -> Plan:
    return Plan(
        name=document.name,
        created_at=document.created_at,
        models=(_model(document, where),),
        solver=document.report(),
        headroom=document.headroom,
        constraints=document.constraints,
        price_snapshot=document.price_snapshot,
        warnings=document.warnings,
        alternatives=document.alternatives,
        sensitivity=document.sensitivity,
        confidence=document.confidence,
        form_gain=document.form_gain,
        current=document.current,
        fleet_id=document.fleet_id,
        guard=_guard(document.guard, where),
        elastic=None if document.elastic is None else document.elastic.elastic(),
    )


def _guard(document: GuardDocument | None, where: str) -> GuardRails:
    if document is None:
        return NO_GUARD
    try:
        return document.rails()
    except ValueError as error:
        raise InputError(f"{where}: guard.hours: {error}") from error


def _model(document: PlanDocument, where: str) -> ModelPlan:
    workload = document.workload
    shape = len(workload.input_edges) - 1, len(workload.output_edges) - 1
    for key in ("rates_rps", "input_sizes", "output_sizes"):
        _check_shape(getattr(workload, key), shape, f"{where}: workload.{key}")
    candidates = {c.option: _candidate(c, shape, where) for c in document.candidates}
    if len(candidates) < len(document.candidates):
        names = [c.option for c in document.candidates]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where}: candidates.{twice[:60]}: is there twice")
    slo = document.slo
    return ModelPlan(
        name=document.name,
        model=document.model,
        slo=SLO(
            tpot_s=None if slo.tpot_ms is None else slo.tpot_ms / 1000,
            ttft_s=None if slo.ttft_ms is None else slo.ttft_ms / 1000,
            attainment=slo.attainment,
        ),
        workload=workload,
        allocations=tuple(_allocation(a, candidates, shape, where) for a in document.allocations),
        baselines=document.baselines,
        candidates=tuple(candidates.values()),
        model_shape=document.model_shape,
        model_source=_checked(document.model_source, f"{where}: model_source"),
        forms=_forms(document, where),
        engine=_engine_choice(document.engine, where),
        engine_generation=document.engine_generation,
        spot=document.constraints.spot,
        verification=document.verification,
        reuse=document.reuse,
        rate_profile=document.rate_profile,
        attainment_per_bucket=document.attainment_per_bucket,
        sky=_sky(document.sky, where),
    )


def _sky(block: dict[str, Any], where: str) -> SkyFields:
    """Return the user's own SkyPilot fields; what a spec may not say no plan may either."""
    problem = next(sky_problems(block), None)
    if problem is not None:
        path, what = problem
        raise InputError(f"{where}: sky.{'.'.join(map(str, path))[:200]}: {what}")
    return SkyFields.read(block)


def _forms(document: PlanDocument, where: str) -> tuple[ModelForm, ...]:
    """Return the forms; every candidate's must be among them."""
    for form in document.forms:
        _checked(form.source, f"{where}: forms.{form.name[:60]}.source")
    known = {form.name for form in document.forms}
    for candidate in document.candidates:
        if candidate.form is not None and candidate.form not in known:
            named = f"{where}: candidates.{candidate.option[:60]}"
            raise InputError(f"{named}.form: '{candidate.form[:60]}' is not among the forms")
    return document.forms


def _checked(source: ModelSource | None, where: str) -> ModelSource | None:
    """Return the source; its revision becomes a word of a command, so it must be a commit."""
    if source is not None and source.revision is not None and not COMMIT.fullmatch(source.revision):
        raise InputError(f"{where}.revision: must be a commit of 40 hex digits")
    return source


def _engine_choice(document: EngineChoiceDocument, where: str) -> EngineChoice:
    try:
        engine = engine_named(document.name)
    except InputError as error:
        raise InputError(f"{where}: engine.name: {error}") from error
    return EngineChoice(
        name=engine.name,
        version=document.version,
        args=tuple(document.args),
        env=tuple(document.env.items()),
        setup=document.setup,
    )


def _check_shape(rows: Any, shape: tuple[int, int], where: str) -> None:
    if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
        raise InputError(
            f"{where}: must have {shape[0]} rows of {shape[1]} values, as the edges say"
        )


def _candidate(document: CandidateDocument, shape: tuple[int, int], where: str) -> OptionCapacity:
    option = DeploymentOption(
        name=document.option,
        accelerator=document.accelerator_name,
        accelerator_count=document.accelerator_count,
        price_usd_per_hour=document.price_usd_per_hour,
        use_spot=document.use_spot,
        offer=document.offer,
        fallbacks=document.fallbacks,
        figures=document.figures,
        form=document.form,
        reserved=document.reserved,
        engine=document.engine,
    )
    cells = _cells(document, shape, where)
    if document.engines > 1:
        cells = tuple(tuple(cell.scaled(document.engines) for cell in row) for row in cells)
    return OptionCapacity(option=option, cells=cells)


def _cells(
    document: CandidateDocument, shape: tuple[int, int], where: str
) -> tuple[tuple[CapacityCell, ...], ...]:
    unknown: MaybeRows = [[None] * shape[1] for _ in range(shape[0])]
    low, high = document.low_rps or unknown, document.high_rps or unknown
    alone = document.ttft_alone_s or unknown
    named = f"{where}: candidates.{document.option[:60]}"
    _check_shape(document.max_rate_rps, shape, f"{named}.max_rate_rps")
    _check_shape(document.origin, shape, f"{named}.origin")
    _check_shape(document.reasons, shape, f"{named}.reasons")
    _check_shape(low, shape, f"{named}.low_rps")
    _check_shape(high, shape, f"{named}.high_rps")
    _check_shape(alone, shape, f"{named}.ttft_alone_s")
    for level in document.levels:
        _check_shape(level.max_rate_rps, shape, f"{named}.levels")
    return tuple(
        tuple(
            CapacityCell(
                max_rate_rps=document.max_rate_rps[i][j],
                origin=document.origin[i][j],
                reason=document.reasons[i][j],
                low_rps=low[i][j],
                high_rps=high[i][j],
                levels=tuple(
                    (level.attainment, rate)
                    for level in document.levels
                    if (rate := level.max_rate_rps[i][j])
                ),
                alone_ttft_s=alone[i][j],
            )
            for j in range(shape[1])
        )
        for i in range(shape[0])
    )


def _allocation(
    document: AllocationDocument,
    candidates: dict[str, OptionCapacity],
    shape: tuple[int, int],
    where: str,
) -> Allocation:
    named = f"{where}: allocations.{document.option[:60]}"
    if document.option not in candidates:
        raise InputError(f"{named}: is not among the candidates")
    _check_shape(document.shares, shape, f"{named}.shares")
    shares: Matrix = tuple(tuple(row) for row in document.shares)
    for part in document.late_shares:
        _check_shape(part.shares, shape, f"{named}.late_shares")
    return Allocation(
        candidate=candidates[document.option],
        instances=document.instances,
        fixed_instances=document.fixed_instances,
        load_fraction=document.load_fraction,
        rate_rps=document.rate_rps,
        shares=shares,
        level=document.level,
        late=tuple((p.attainment, tuple(map(tuple, p.shares))) for p in document.late_shares),
    )
