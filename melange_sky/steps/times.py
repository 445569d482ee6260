"""How long one step of a replica takes.

A step costs, in seconds (all terms divided by tensor parallelism where the work is split):

    fixed                     per step and layer, and the latency of two all-reduces per layer
  + sequences × per_sequence  scheduling, sampling, detokenising
  + max(weights read ÷ bandwidth, 2 × parameters × tokens ÷ tensor rate)      the matrix products
  + tokens × per_token_link   all-reduce volume
  + KV tokens read ÷ bandwidth, for decoding sequences
  + (query, key) pairs × FLOPs per pair ÷ (tensor rate × attention), for prefill attention

The roofline of the products is Williams et al., CACM 52(4), 2009; reading weights once per step and
KV once per sequence follows Pope et al., "Efficiently Scaling Transformer Inference",
arXiv 2211.05102, §2. Of a mixture of experts, `tokens` touch 1 − (1 − k/E)^tokens of the experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.accelerators import AcceleratorSpec
    from melange_sky.models import ModelShape
    from melange_sky.steps.generation import Generation

    Floats = NDArray[np.float64]

NVLINK_GBPS = 100.0
"""Interconnects from here on are NVLink or Infinity Fabric; below, PCIe."""


class StepCosts(NamedTuple):
    """The coefficients of a step's time, in seconds (a tuple, so that compiled code takes it).

    `weights_s` reads the weights that every step needs, `experts_s` all routed experts,
    `expert_miss` = 1 − k/E the chance that a token passes an expert by. `window` in tokens (a very
    large number where attention is full), `full_fraction` of the layers that attend to everything.
    """

    fixed_s: float
    sequence_s: float
    weights_s: float
    experts_s: float
    expert_miss: float
    token_flops_s: float
    token_link_s: float
    kv_token_s: float
    pair_s: float
    window: float
    full_fraction: float


def step_seconds(
    costs: StepCosts, sequences: float, tokens: float, context_tokens: float, pairs: float
) -> float:
    """Return the time of one step.

    `sequences` in the step, `tokens` computed (one per decoding sequence + prefill), `context_tokens`
    the KV tokens that the decoding sequences read (already cut to windows), `pairs` the
    (query, key) pairs of prefill attention.
    """
    return (
        costs.fixed_s
        + sequences * costs.sequence_s
        + float(products_s(costs, np.array([tokens]))[0])
        + context_tokens * costs.kv_token_s
        + pairs * costs.pair_s
    )


def products_s(costs: StepCosts, tokens: Floats) -> Floats:
    """Return the time of a step's matrix products and all-reduce volume for `tokens`, same shape."""
    weights: Any = costs.weights_s
    if np.any(costs.experts_s):  # the power is what takes long here
        weights = weights + costs.experts_s * (1.0 - costs.expert_miss**tokens)
    products: Floats = np.maximum(weights, costs.token_flops_s * tokens)
    return products + tokens * costs.token_link_s


def products_table(costs: StepCosts, size: int) -> Floats:
    """Return `products_s` of 0, 1, … size − 1 tokens: what the simulator looks up in each step."""
    return products_s(costs, np.arange(size, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class _Rates:
    """What one accelerator reaches under a generation: bytes/s (weights, KV), FLOP/s (matrix
    products, prefill attention), link bytes/s.
    """

    weights: float
    kv: float
    flops: float
    pairs: float
    link: float


def _rates(model: ModelShape, accelerator: AcceleratorSpec, generation: Generation) -> _Rates:
    efficiency = generation.efficiency(accelerator.name)
    bandwidth = accelerator.bandwidth_gbps * 1e9
    tflops = accelerator.dense_tflops
    if model.fp8_compute and accelerator.fp8_tflops is not None:
        tflops = accelerator.fp8_tflops
    return _Rates(
        weights=bandwidth * efficiency.bandwidth,
        kv=bandwidth * efficiency.attention,
        flops=tflops * 1e12 * efficiency.compute,
        pairs=accelerator.dense_tflops * 1e12 * efficiency.compute * efficiency.attention,
        link=accelerator.interconnect_gbps * 1e9 * generation.overheads.interconnect,
    )


def step_costs(
    model: ModelShape, accelerator: AcceleratorSpec, tensor_parallel: int, generation: Generation
) -> StepCosts:
    """Return the step coefficients of one replica of `model` on `tensor_parallel` GPUs."""
    rates = _rates(model, accelerator, generation)
    overheads = generation.overheads
    dense = model.parameters - model.expert_parameters - model.lookup_parameters
    scale = model.weight_dtype_bytes / tensor_parallel / rates.weights
    active = model.active_parameters - model.lookup_parameters
    kv_split = min(tensor_parallel, model.kv_heads)
    latency, volume = _link(model, accelerator, tensor_parallel, generation)
    routed = model.experts or 1
    return StepCosts(
        fixed_s=overheads.step_s + model.layers * overheads.layer_s + latency,
        sequence_s=overheads.sequence_s + model.vocabulary * overheads.vocabulary_s,
        weights_s=dense * scale,
        experts_s=model.expert_parameters * scale,
        expert_miss=1.0 - (model.experts_per_token or routed) / routed,
        token_flops_s=2.0 * active / tensor_parallel / rates.flops,
        token_link_s=volume / rates.link,
        kv_token_s=model.kv_bytes_per_token / kv_split / rates.kv,
        pair_s=model.pair_flops / min(tensor_parallel, model.heads) / rates.pairs,
        window=float(model.sliding_window or 2**40),
        full_fraction=model.full_attention_fraction,
    )


def _link(
    model: ModelShape, accelerator: AcceleratorSpec, tensor_parallel: int, generation: Generation
) -> tuple[float, float]:
    """Return (all-reduce latency per step in s, all-reduced bytes per token) of a tensor-parallel group.

    Two all-reduces per layer (Shoeybi et al., arXiv 1909.08053, §3); a ring moves 2 (t − 1) / t of the
    data over each link (Patarasuk and Yuan, JPDC 2009).
    """
    if tensor_parallel == 1:
        return 0.0, 0.0
    overheads = generation.overheads
    nvlink = accelerator.interconnect_gbps >= NVLINK_GBPS
    one = overheads.allreduce_nvlink_s if nvlink else overheads.allreduce_pcie_s
    count = 2 * model.layers
    ring = 2.0 * (tensor_parallel - 1) / tensor_parallel
    return count * one * math.log2(tensor_parallel), count * ring * model.hidden_size * 2.0


def windowed(costs: StepCosts, context_tokens: float) -> float:
    """Return the KV tokens that one sequence of `context_tokens` makes a step read.

    >>> costs = StepCosts(0, 0, 0, 0, 0, 0, 0, 0, 0, 4096.0, 0.5)
    >>> windowed(costs, 8192.0)
    6144.0
    """
    seen = min(context_tokens, costs.window)
    return costs.full_fraction * context_tokens + (1.0 - costs.full_fraction) * seen
