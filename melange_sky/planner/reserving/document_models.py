"""What reserve.json holds model by model: what is served, and how it did in replay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from melange_sky.planner.reserving.asking import Asked
    from melange_sky.planner.reserving.proving import Proof
    from melange_sky.spec import ServedModel

SIMULATED = "simulated: the engine's step times are estimates"


def model_names(asked: Asked) -> str:
    """Return the names that clients use, joined by commas."""
    return ", ".join(served.model for served in asked.spec.models)


def slo_document(served: ServedModel) -> dict[str, Any]:
    """Return the limits asked for."""
    return {
        "tpot_ms": None if served.slo.tpot_s is None else served.slo.tpot_s * 1000,
        "ttft_ms": None if served.slo.ttft_s is None else served.slo.ttft_s * 1000,
        "attainment": served.slo.attainment,
    }


def models_document(asked: Asked) -> list[dict[str, Any]]:
    """Return each model with its limits and its part of the demand."""
    return [
        {
            "name": served.name,
            "model": served.model,
            "slo": slo_document(served),
            "mean_rps": float(rates.mean()),
            "peak_rps": float(rates.max()),
            "rates_rps": rates.tolist() if asked.demand.of_models else None,
        }
        for place, served in enumerate(asked.spec.models)
        for rates in (asked.rates_of(place),)
    ]


def verification_document(asked: Asked, proof: Proof) -> dict[str, Any]:
    """Return what reserve.json holds of the replays: the figures of the model that has least left."""
    whole, run = proof.least.whole, proof.least.one_run
    return {
        "origin": SIMULATED,
        "holds": not proof.missed,
        "attainment": whole.attainment,
        "target": whole.target,
        "fleets": len([fleet for fleet in proof.fleets if fleet.plan is not None]),
        "hours": whole.hours,
        "stretch_s": whole.stretch_s,
        "requests": whole.requests,
        "worst_hour": whole.worst,
        "worst_attainment": whole.worst_attainment,
        "seed": asked.options.seed,
        "missed": list(proof.missed),
        "models": [
            {
                "name": one.name,
                "holds": not one.missed,
                "attainment": one.whole.attainment,
                "in_one_run_attainment": one.one_run.attainment,
                "target": one.whole.target,
            }
            for one in proof.models
        ],
        "in_one_run": {
            "holds": run.holds,
            "attainment": run.attainment,
            "worst_hour": run.worst,
            "worst_attainment": run.worst_attainment,
            "by_hour": list(run.by_step),
            "first_hour": run.first,
            "hours": run.steps,
            "startup_s": run.startup_s,
            "startup_origin": run.startup_origin,
            "ahead_s": run.ahead_s,
            "late_s": run.late_s,
            "span_s": run.span_s,
            "replayed_s": run.replayed_s,
            "requests": run.requests,
            "starts": run.starts,
            "switches": run.switches,
        },
    }
