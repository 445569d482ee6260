"""Write a plan as the document of `plan.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from melange_sky.capacities import INFERRED, Origin, weakest
from melange_sky.constraints import Constraints
from melange_sky.engines import engine_named
from melange_sky.offers import accelerator_spec_text
from melange_sky.planfile.running import elastic_fields, guard_fields
from melange_sky.plans import (
    SCHEMA_VERSION,
    Allocation,
    ExpectedMiss,
    ModelPlan,
    Plan,
    SolverReport,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.capacities import CapacityCell, DeploymentOption, OptionCapacity
    from melange_sky.constraints import Constraints
    from melange_sky.engines import EngineChoice
    from melange_sky.offers import Offer
    from melange_sky.workload import Matrix, Workload


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return the JSON document of a plan (shared fields are described in the README).

    Where the plan lists its models, each is written as a plan of its own under `models`, and what
    holds of all together stands on top, with what their candidates share.
    """
    if not plan.lists_models:
        (model,) = plan.models
        whole = _candidate_documents(model.candidates)
        return {
            "schema_version": SCHEMA_VERSION,
            "fleet_id": plan.fleet_id,
            **guard_fields(plan),
            **elastic_fields(plan),
            **_one_model_document(plan, whole),
        }
    from melange_sky.planfile.shared import SharedParts, Writers  # of several models alone

    parts = SharedParts(
        Writers(
            offer=_offer_document, engine=_flat, rates=_rates_document, option=_own_option_fields
        )
    )
    models = [
        _one_model_document(_apart(plan, model), parts.candidates(model.candidates))
        for model in plan.models
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "fleet_id": plan.fleet_id,
        **guard_fields(plan),
        **elastic_fields(plan),
        "name": plan.name,
        "created_at": plan.created_at,
        **_solver_fields(plan.solver),
        "cost_usd_per_hour": plan.cost_usd_per_hour,
        "models": models,
        "sensitivity": asdict(plan.sensitivity) if plan.sensitivity else None,
        "confidence": plan.confidence,
        "form_gain": asdict(plan.form_gain) if plan.form_gain else None,
        "current": asdict(plan.current) if plan.current else None,
        "alternatives": [asdict(mix) for mix in plan.alternatives],
        "constraints": _constraints_document(plan.constraints),
        "warnings": [asdict(warning) for warning in plan.warnings],
        **parts.document(),
    }


def _apart(plan: Plan, model: ModelPlan) -> Plan:
    """Return a listed model as a plan of its own, without what holds of all models together."""
    return replace(
        plan,
        models=(model,),
        lists_models=False,
        constraints=Constraints(spot=model.spot),
        sensitivity=None,
        form_gain=None,
        current=None,
        alternatives=(),
        warnings=(),
    )


def dump_plan(plan: Plan) -> str:
    """Return the text of `plan.json`: a line per key, and per element of a list of objects."""
    return document_text(plan_document(plan)) + "\n"


def document_text(document: dict[str, Any]) -> str:
    """Return a document as JSON that people can read by line and that is quick to write."""
    rows = [f"  {json.dumps(key)}: {_value_text(value)}" for key, value in document.items()]
    return "{\n" + ",\n".join(rows) + "\n}"


def _value_text(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        rows = [f"    {json.dumps(element, allow_nan=False)}" for element in value]
        return "[\n" + ",\n".join(rows) + "\n  ]"
    return json.dumps(value, allow_nan=False)


def _solver_fields(solver: SolverReport) -> dict[str, Any]:
    return {
        "status": solver.status,
        "mip_gap": solver.mip_gap,
        "solve_seconds": solver.solve_seconds,
        "solver": solver.solver,
        "bound_usd_per_hour": solver.bound_usd_per_hour,
        "limit_prices": dict(solver.limit_prices),
    }


def _one_model_document(plan: Plan, candidates: list[dict[str, Any]]) -> dict[str, Any]:
    (model,) = plan.models
    return {
        "name": model.name,
        "model": model.model,
        "created_at": plan.created_at,
        **_solver_fields(plan.solver),
        "cost_usd_per_hour": plan.cost_usd_per_hour,
        "slo": {
            "tpot_ms": _milliseconds(model.slo.tpot_s),
            "ttft_ms": _milliseconds(model.slo.ttft_s),
            "attainment": model.slo.attainment,
        },
        "attainment_per_bucket": model.attainment_per_bucket,
        "attainment_planned": model.planned_attainment,
        "expected_misses": [_miss_document(model, miss) for miss in model.expected_misses],
        "headroom": plan.headroom,
        "constraints": _constraints_document(plan.constraints),
        "workload": _workload_document(model.workload),
        "rate_profile": asdict(model.rate_profile) if model.rate_profile else None,
        "allocations": [
            _allocation_document(model, allocation) for allocation in model.allocations
        ],
        "baselines": [asdict(baseline) for baseline in model.baselines],
        "sensitivity": asdict(plan.sensitivity) if plan.sensitivity else None,
        "confidence": plan.confidence,
        "form_gain": asdict(plan.form_gain) if plan.form_gain else None,
        "current": asdict(plan.current) if plan.current else None,
        "alternatives": [asdict(mix) for mix in plan.alternatives],
        "verification": asdict(model.verification) if model.verification else None,
        **({"reuse": asdict(model.reuse)} if model.reuse else {}),
        "warnings": [asdict(warning) for warning in (*plan.warnings, *model.warnings)],
        "engine": _engine_document(model.engine),
        "engine_generation": model.engine_generation,
        "sky": model.sky.block(),
        "price_snapshot": plan.price_snapshot,
        "model_shape": asdict(model.model_shape) if model.model_shape else None,
        "model_source": asdict(model.model_source) if model.model_source else None,
        "forms": [asdict(form) for form in model.forms],
        "candidates": candidates,
    }


def _engine_document(engine: EngineChoice) -> dict[str, Any]:
    return {
        "name": engine.name,
        "version": engine.version,
        "args": list(engine.args),
        "env": dict(engine.env),
        "setup": engine.setup,
    }


def _miss_document(model: ModelPlan, miss: ExpectedMiss) -> dict[str, Any]:
    workload = model.workload
    late = model.verification and model.verification.late_size(miss.i, miss.j)
    return {
        "input_edge_tokens": workload.input_edges[miss.i + 1],
        "output_edge_tokens": workload.output_edges[miss.j + 1],
        "fraction": miss.fraction,
        "share": miss.share,
        "rate_rps": miss.fraction * workload.rate_rps,
        "ttft_alone_s": miss.alone_ttft_s,
        "ttft_simulated_s": {"p50": late.ttft_p50_s, "p95": late.ttft_p95_s} if late else None,
    }


def _constraints_document(constraints: Constraints) -> dict[str, Any]:
    limits = [(key.name, most) for key, most in constraints.limits]
    return {**asdict(constraints), "limits": limits}


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 9)


def _workload_document(workload: Workload) -> dict[str, Any]:
    return {
        "rate_rps": workload.rate_rps,
        "input_edges": list(workload.input_edges),
        "output_edges": list(workload.output_edges),
        "rates_rps": _rows(workload.rates_rps),
        "input_sizes": _rows(workload.input_sizes),
        "output_sizes": _rows(workload.output_sizes),
        "source": workload.source,
        "coverage": asdict(workload.coverage) if workload.coverage else None,
        "warnings": list(workload.warnings),
        "images": asdict(workload.images) if workload.images else None,
        **({"reuse": workload.reuse.document} if workload.reuse else {}),
    }


def _rows(matrix: Matrix) -> list[list[float]]:
    return [list(row) for row in matrix]


def _option_fields(option: DeploymentOption) -> dict[str, Any]:
    offer = option.offer
    return {
        "option": option.name,
        "accelerator": accelerator_spec_text(option.accelerator, option.accelerator_count),
        "nodes": option.nodes,
        "price_usd_per_hour": option.price_usd_per_hour,
        "use_spot": option.use_spot,
        "cloud": offer.cloud if offer else None,
        "region": offer.region if offer else None,
        "instance_type": offer.instance_type if offer else None,
        "price_source": offer.source if offer else "given",
        "price_as_of": offer.as_of if offer else None,
        **({"zone": option.reserved.zone} if option.reserved else {}),
    }


def _allocation_document(model: ModelPlan, allocation: Allocation) -> dict[str, Any]:
    origin = allocation_origin(allocation)
    engine = allocation.candidate.option.engine
    return {
        **_option_fields(allocation.candidate.option),
        **_form_fields(model, allocation.candidate.option),
        "instances": allocation.instances,
        "replicas": allocation.instances,
        "fixed_instances": allocation.fixed_instances,
        "cost_usd_per_hour": allocation.cost_usd_per_hour,
        "load_fraction": allocation.load_fraction,
        "rate_rps": allocation.rate_rps,
        "capacity_origin": origin.value if origin else None,
        "engine": _flat(engine) if engine else None,
        "level": allocation.level,
        "shares": _rows(allocation.shares),
        "late_shares": [
            {"attainment": attained, "shares": _rows(shares)}
            for attained, shares in allocation.late
        ],
    }


def _form_fields(model: ModelPlan, option: DeploymentOption) -> dict[str, Any]:
    choice = model.engine_for(option)
    flag = engine_named(choice.name).flags.quantization
    given = engine_named(choice.name).flags.values(choice.args, (flag,))
    return {"checkpoint": model.checkpoint_of(option), "quantization": given.get(flag)}


def allocation_origin(allocation: Allocation) -> Origin | None:
    """Return the weakest origin among the capacities of the buckets that an allocation serves."""
    return weakest(
        Origin.ESTIMATED
        if allocation.late_share(i, j) > 0 and cell.origin not in INFERRED
        else cell.origin
        for i, cells in enumerate(allocation.candidate.cells)
        for j, cell in enumerate(cells)
        if allocation.shares[i][j] > 0 and cell.origin is not None
    )


def _flat(record: Any) -> dict[str, Any]:
    """Return what `asdict` would of a record without records in it, at a tenth of the time."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _offer_document(offer: Offer) -> dict[str, Any]:
    return {**_flat(offer), "flags": [_flat(flag) for flag in offer.flags]}


def _own_option_fields(option: DeploymentOption) -> dict[str, Any]:
    """Return what a candidate is, without its offers and its engine's settings."""
    return {
        **_option_fields(option),
        "accelerator_name": option.accelerator,
        "accelerator_count": option.accelerator_count,
        "figures": option.figures,
        "form": option.form,
        **({"reserved": asdict(option.reserved)} if option.reserved else {}),
    }


def _candidate_documents(candidates: Sequence[OptionCapacity]) -> list[dict[str, Any]]:
    """Return candidates as documents; the rates of one replica in several places are put together once."""
    rates = {id(candidate.cells): candidate.cells for candidate in candidates}
    documents = {key: _rates_document(cells) for key, cells in rates.items()}
    return [_candidate_document(c, documents[id(c.cells)]) for c in candidates]


def _candidate_document(candidate: OptionCapacity, rates: dict[str, Any]) -> dict[str, Any]:
    option = candidate.option
    return {
        **_own_option_fields(option),
        "offer": _offer_document(option.offer) if option.offer else None,
        "fallbacks": [_offer_document(offer) for offer in option.fallbacks],
        "engine": _flat(option.engine) if option.engine else None,
        **rates,
    }


def _rates_document(cells: tuple[tuple[CapacityCell, ...], ...]) -> dict[str, Any]:
    def column(field: str) -> list[list[Any]]:
        return [[getattr(cell, field) for cell in row] for row in cells]

    document: dict[str, Any] = {
        "max_rate_rps": column("max_rate_rps"),
        "origin": [[cell.origin.value if cell.origin else None for cell in row] for row in cells],
        "reasons": column("reason"),
    }
    if any(cell.low_rps is not None for row in cells for cell in row):
        document |= {"low_rps": column("low_rps"), "high_rps": column("high_rps")}
    levels = sorted({a for row in cells for cell in row for a, _ in cell.levels})
    if levels:
        document["levels"] = [
            {
                "attainment": level,
                "max_rate_rps": [[cell.at(level) for cell in row] for row in cells],
            }
            for level in levels
        ]
        document["ttft_alone_s"] = column("alone_ttft_s")
    return document
