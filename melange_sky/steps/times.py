"""How long one step of a replica takes.

A step costs, in seconds (all terms divided by tensor parallelism where the work is split):

    fixed                     per step and layer, and the latency of two all-reduces per layer
  + sequences × per_sequence  scheduling, sampling, detokenising
  + max(weights read ÷ bandwidth, 2 × parameters × tokens ÷ tensor rate)      the matrix products
  + tokens × per_token_link   all-reduce volume
  + KV tokens read ÷ bandwidth, for decoding sequences, by the windows of the layers
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
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from melange_sky.accelerators import AcceleratorSpec
    from melange_sky.models import ModelShape
    from melange_sky.models.shape import LayerGroup
    from melange_sky.steps.generation import Generation

    Floats = NDArray[np.float64]

NVLINK_GBPS = 100.0
"""Interconnects from here on are NVLink or Infinity Fabric; below, PCIe."""


class WindowCosts(NamedTuple):
    """What layers of one window cost: seconds per KV token read, and per (query, key) pair.

    A decoding sequence makes them read its last `tokens` tokens at most; `chunked`: those of the chunk
    of so many tokens that it is in.
    """

    tokens: int
    kv_token_s: float
    pair_s: float
    chunked: bool = False


class StepCosts(NamedTuple):
    """The coefficients of a step's time, in seconds.

    `weights_s` reads the weights that every step needs, `experts_s` all routed experts,
    `expert_miss` = 1 − k/E the chance that a token passes an expert by. `sequence_s` holds reading and
    writing the state of linear layers. `kv_token_s` and `pair_s` are those of layers that attend to the
    whole context, `windows` those of the others.
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
    windows: tuple[WindowCosts, ...] = ()


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
    dense = tflops = accelerator.dense_tflops
    if model.value_bytes > 2.0:
        dense = tflops = accelerator.float32_tflops
    elif model.fp8_compute and accelerator.fp8_tflops is not None:
        tflops = accelerator.fp8_tflops
    return _Rates(
        weights=bandwidth * efficiency.bandwidth,
        kv=bandwidth * efficiency.attention,
        flops=tflops * 1e12 * efficiency.compute,
        pairs=dense * 1e12 * efficiency.compute * efficiency.attention,
        link=accelerator.interconnect_gbps * 1e9 * generation.overheads.interconnect,
    )


def step_costs(
    model: ModelShape, accelerator: AcceleratorSpec, tensor_parallel: int, generation: Generation
) -> StepCosts:
    """Return the step coefficients of one replica of `model` on `tensor_parallel` GPUs."""
    model = model.on(accelerator.has_bf16)
    rates = _rates(model, accelerator, generation)
    overheads = generation.overheads
    dense_bytes = model.total(lambda g: g.dense_bytes(tensor_parallel))
    expert_bytes = model.total(lambda g: g.experts.bytes) / tensor_parallel
    active = model.active_parameters - model.lookup.parameters
    state_bytes = model.state_bytes_per_sequence / tensor_parallel
    latency, volume = _link(model, accelerator, tensor_parallel, generation)
    reads = _reads(model, tensor_parallel, rates)
    endless = reads.pop(_ENDLESS, (0.0, 0.0))
    return StepCosts(
        fixed_s=overheads.step_s + _mixers(model) / 2 * overheads.layer_s + latency,
        sequence_s=overheads.sequence_s
        + model.vocabulary * overheads.vocabulary_s
        + 2.0 * state_bytes / rates.kv,
        weights_s=(dense_bytes + model.head.bytes / tensor_parallel) / rates.weights,
        experts_s=expert_bytes / rates.weights,
        expert_miss=_expert_miss(model),
        token_flops_s=2.0 * active / tensor_parallel / rates.flops,
        token_link_s=volume / rates.link,
        kv_token_s=endless[0],
        pair_s=endless[1],
        windows=tuple(
            WindowCosts(tokens=tokens, chunked=chunked, kv_token_s=kv_s, pair_s=pair_s)
            for (tokens, chunked), (kv_s, pair_s) in sorted(reads.items())
        ),
    )


def _expert_miss(model: ModelShape) -> float:
    """Return the chance that a token passes a routed expert by, over all expert weights."""
    weights = model.total(lambda g: g.experts.bytes)
    if not weights:
        return 0.0
    passed = model.total(
        lambda g: g.experts.bytes * g.experts_per_token / g.routed if g.routed else 0.0
    )
    return 1.0 - passed / weights


def _mixers(model: ModelShape) -> float:
    """Return the attentions and feed-forwards of all layers: each ends in an all-reduce."""
    return model.total(lambda g: g.mixers)


Window = tuple[int, bool]
"""Tokens of a window, and whether they are a chunk."""

_ENDLESS: Window = (0, False)
"""Stands for the layers that attend to the whole context."""


def _reads(
    model: ModelShape, tensor_parallel: int, rates: _Rates
) -> dict[Window, tuple[float, float]]:
    """Return (seconds per KV token, seconds per pair) by window.

    A token is read once, whatever the heads that attend to it: absorbed latents once for all of them,
    whose work may then take longer than the reading.
    """
    found: dict[Window, tuple[float, float]] = {}
    for group in model.groups:
        per_pair = group.count / min(tensor_parallel, max(group.heads, 1)) / rates.pairs
        for part in _attended(group, model.kv_dtype_bytes):
            read = group.count * part.token_bytes / group.kv_split(tensor_parallel) / rates.kv
            kv_s = max(read, part.decode_flops * per_pair)
            before = found.get(part.window, (0.0, 0.0))
            found[part.window] = before[0] + kv_s, before[1] + part.pair_flops * per_pair
    return found


class _Attended(NamedTuple):
    """A part of a layer's cache: bytes read per token, work of a prompt's and a decoding token on one."""

    window: Window
    token_bytes: float
    pair_flops: float
    decode_flops: float


def _attended(group: LayerGroup, value_bytes: float) -> Iterator[_Attended]:
    """Yield the parts of a layer's cache: its window, its index, and what it caches without end."""
    pair, decode = float(group.pair_flops), float(group.decode_flops)
    if group.window is not None and group.window_values:
        window = group.window, group.chunked
        yield _Attended(window, group.window_values * value_bytes, pair, decode)
    if group.fixed_bytes:
        work = float(group.index_flops)
        yield _Attended(_ENDLESS, group.fixed_bytes, work, work)
    if group.kv_values:
        window = _ENDLESS if group.selected is None else (group.selected, False)
        share = min(1.0, group.kv_values / group.window_values) if group.window_values else 1.0
        yield _Attended(window, group.kv_values * value_bytes, share * pair, share * decode)


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
    count = _mixers(model)
    ring = 2.0 * (tensor_parallel - 1) / tensor_parallel
    return count * one * math.log2(
        tensor_parallel
    ), count * ring * model.hidden_size * model.value_bytes


def read_s(costs: StepCosts, context_tokens: Floats) -> Floats:
    """Return the seconds that reading the cache of sequences of so many tokens takes, same shape.

    >>> costs = StepCosts(0, 0, 0, 0, 0, 0, 0, 1.0, 0, (WindowCosts(4096, 1.0, 0),))
    >>> read_s(costs, np.array([8192.0])).tolist()
    [12288.0]
    """
    seconds: Floats = costs.kv_token_s * context_tokens
    for window in costs.windows:
        seen = np.minimum(context_tokens, window.tokens)
        # of a chunk half on average, once the first is over
        passed = np.logical_and(window.chunked, context_tokens > window.tokens)
        seconds = seconds + window.kv_token_s * np.where(passed, window.tokens / 2, seen)
    return seconds


def pairs_s(costs: StepCosts, prompt_tokens: Floats) -> Floats:
    """Return the seconds of attention of whole prompts of so many tokens, same shape."""
    seconds: Floats = costs.pair_s * prompt_tokens * prompt_tokens / 2
    for window in costs.windows:
        inside = np.minimum(prompt_tokens, window.tokens)
        beyond = prompt_tokens - inside
        reach = np.where(window.chunked, window.tokens / 2, window.tokens)
        seconds = seconds + window.pair_s * (inside * inside / 2 + beyond * reach)
    return seconds
