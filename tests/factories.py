"""Small, valid nouns for tests; every field can be overridden."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from melange_sky.capacities import (
    CapacityCell,
    DeploymentOption,
    EngineSettings,
    OptionCapacity,
    Origin,
)
from melange_sky.constraints import Constraints
from melange_sky.models import find_model
from melange_sky.offers import Offer
from melange_sky.plans import Allocation, Baseline, ModelPlan, Plan, PlanWarning, SolverReport
from melange_sky.profiletable import MeasuredCell
from melange_sky.slo import SLO
from melange_sky.workload import Workload


def make_offer(**over: Any) -> Offer:
    values: dict[str, Any] = {
        "cloud": "aws",
        "region": "us-east-1",
        "instance_type": "g5.xlarge",
        "accelerator": "A10G",
        "accelerator_count": 1,
        "price_usd_per_hour": 1.006,
        "spot_usd_per_hour": 0.4,
        "source": "embedded",
        "as_of": "2026-09-01",
        "vcpus": 4,
        "memory_gib": 16,
    }
    return Offer(**(values | over))


def make_engine(**over: Any) -> EngineSettings:
    values: dict[str, Any] = {
        "tensor_parallel": 1,
        "data_parallel": 1,
        "max_model_len": 18000,
        "max_num_seqs": 64,
        "kv_cache_tokens": 40000,
    }
    return EngineSettings(**(values | over))


def make_measured(
    input_tokens: int, output_tokens: int, rate: float | None, **over: Any
) -> MeasuredCell:
    values: dict[str, Any] = {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "slo": SLO(tpot_s=0.06, ttft_s=2.0),
        "max_rate_rps": rate,
        "reason": "bounds within tolerance",
        "resolved": True,
        "low_rps": rate and rate * 0.98,
        "high_rps": rate and rate * 1.03,
        "knee_rps": None,
        "seconds": 1.0,
        "measured_at": "2026-11-20T00:00:00Z",
    }
    return MeasuredCell(**(values | over))


def make_option(name: str = "a10g", **over: Any) -> DeploymentOption:
    values: dict[str, Any] = {
        "name": name,
        "accelerator": "A10G",
        "accelerator_count": 1,
        "price_usd_per_hour": 1.006,
        "offer": make_offer(),
        "engine": make_engine(),
    }
    return DeploymentOption(**(values | over))


def make_capacity(
    rates: list[list[float | None]], option: DeploymentOption | None = None
) -> OptionCapacity:
    """Capacities of one option; None cannot serve, with a reason."""
    return OptionCapacity(
        option=option or make_option(),
        cells=tuple(
            tuple(
                CapacityCell(
                    max_rate_rps=rate,
                    origin=Origin.ESTIMATED,
                    low_rps=rate * 0.7,
                    high_rps=rate * 1.3,
                )
                if rate is not None
                else CapacityCell(max_rate_rps=None, reason="does not fit")
                for rate in row
            )
            for row in rates
        ),
    )


def make_workload(rates: list[list[float]] | None = None, **over: Any) -> Workload:
    rows = rates or [[2.0, 1.0], [0.5, 0.0]]
    inputs = tuple(100 * i for i in range(len(rows) + 1))
    outputs = tuple(50 * j for j in range(len(rows[0]) + 1))
    values: dict[str, Any] = {
        "input_edges": inputs,
        "output_edges": outputs,
        "rates_rps": tuple(map(tuple, rows)),
        "input_sizes": tuple(
            tuple(float(inputs[i + 1]) for _ in rows[0]) for i in range(len(rows))
        ),
        "output_sizes": tuple(tuple(float(edge) for edge in outputs[1:]) for _ in rows),
    }
    return Workload(**(values | over))


LLAMA_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
"""The sizes of Llama-3.1-8B as a `config.json`."""

LLAMA_8B = find_model("meta-llama/Llama-3.1-8B-Instruct")


def make_model_plan(**over: Any) -> ModelPlan:
    """Two options that serve `make_workload()` between them."""
    small = make_capacity([[4.0, 2.0], [None, None]], make_option("a10g"))
    large_offer = make_offer(
        instance_type="a2-ultragpu-1g",
        cloud="gcp",
        region="us-central1",
        accelerator="A100-80GB",
        price_usd_per_hour=5.07,
    )
    large = make_capacity(
        [[20.0, 10.0], [5.0, 4.0]],
        make_option("a100", accelerator="A100-80GB", price_usd_per_hour=5.07, offer=large_offer),
    )
    values: dict[str, Any] = {
        "name": "chat",
        "model": LLAMA_8B.name,
        "slo": SLO(tpot_s=0.06, ttft_s=2.0, attainment=0.95),
        "workload": make_workload(),
        "allocations": (
            Allocation(
                candidate=small,
                instances=1,
                load_fraction=0.5,
                rate_rps=2.0,
                shares=((1.0, 0.0), (0.0, 0.0)),
            ),
            Allocation(
                candidate=large,
                instances=1,
                load_fraction=0.2,
                rate_rps=1.5,
                shares=((0.0, 1.0), (1.0, 0.0)),
            ),
        ),
        "baselines": (
            Baseline(
                accelerator="A100-80GB",
                feasible=True,
                reason=None,
                instances=1,
                cost_usd_per_hour=5.07,
                saving_fraction=-0.2,
            ),
            Baseline(
                accelerator="A10G",
                feasible=False,
                reason="no",
                instances=None,
                cost_usd_per_hour=None,
                saving_fraction=None,
            ),
        ),
        "candidates": (small, large),
        "model_shape": LLAMA_8B,
        "engine_generation": "vllm",
    }
    return ModelPlan(**(values | over))


def make_plan(**over: Any) -> Plan:
    """The plan of `make_model_plan()` alone; fields of either can be overridden."""
    shared = {field.name for field in fields(Plan)}
    own = {name: over.pop(name) for name in list(over) if name not in shared}
    values: dict[str, Any] = {
        "name": "chat",
        "created_at": "2026-11-01T00:00:00Z",
        "solver": SolverReport(status="optimal", mip_gap=0.0, solve_seconds=0.01, solver="highs"),
        "headroom": 0.1,
        "constraints": Constraints(),
        "warnings": (PlanWarning(code="embedded-prices", message="prices are old"),),
        "price_snapshot": "embedded",
        **over,
    }
    model = make_model_plan(name=values["name"], spot=values["constraints"].spot, **own)
    return Plan(**({"models": (model,)} | values))
