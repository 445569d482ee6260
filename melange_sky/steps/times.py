"""How long one step of a replica takes.

A step costs, in seconds (all terms divided by tensor parallelism where the work is split):

    fixed                     the host per step and layer, and starting a layer's kernels, with
                              prompts in the step those of their attention too
  + sequences × per_sequence  scheduling, sampling, detokenising
  + smooth max(weights read ÷ bandwidth, 2 × parameters × tokens ÷ tensor rate)  the dense products
  + experts touched ÷ bandwidth + 2 × active parameters × tokens ÷ tensor rate   those of experts
  + tokens × bytes moved ÷ bandwidth                                           norms, activations
  + smooth max(latency, bytes ÷ link rate)                                     the all-reduces
  + KV tokens read ÷ bandwidth, for decoding sequences, by the windows of the layers
  + (query, key) pairs × FLOPs per pair ÷ (tensor rate × attention), for prefill attention
  + states of linear attention ÷ bandwidth, per sequence, and a share of them per token of a prompt

The roofline of the products is Williams et al., CACM 52(4), 2009; reading weights once per step and
KV once per sequence follows Pope et al., "Efficiently Scaling Transformer Inference",
arXiv 2211.05102, §2. Of a mixture of experts, `tokens` touch 1 − (1 − k/E)^tokens of the experts.
Every term rises with the work and falls with bandwidth and tensor rate, so that a faster chip or
fewer tokens never take longer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from melange_sky.steps.kernels import (
    all_reduce_costs,
    elementwise_s,
    head_s,
    product_costs,
    tensor_tflops,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from melange_sky.accelerators import AcceleratorSpec
    from melange_sky.models import ModelShape
    from melange_sky.models.layer_group import LayerGroup
    from melange_sky.steps.generation import Efficiency, Generation

    Floats = NDArray[np.float64]


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
    whole context, `windows` those of the others. `token_link_s` is the work of a token that only
    moves data. `expert_token_s` computes a token's experts, beyond reading them. `link_s` is the latency of
    all all-reduces of a step, `link_token_s` their volume for a token; see `smooth_max` for both
    kinds of sharpness. `prompts_s` is what a step with prompts in it takes longer to start.
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
    sharpness: float = math.inf
    expert_token_s: float = 0.0
    expert_skew: float = 1.0
    link_s: float = 0.0
    link_token_s: float = 0.0
    link_sharpness: float = 1.0
    prompts_s: float = 0.0


def products_s(costs: StepCosts, tokens: Floats) -> Floats:
    """Return the time of a step's products, element-wise work and all-reduces, same shape as `tokens`."""
    seconds = smooth_max(costs.weights_s, costs.token_flops_s * tokens, costs.sharpness)
    if _any(costs.experts_s):  # the powers are what takes long here
        touched = 1.0 - costs.expert_miss ** (tokens**costs.expert_skew)
        seconds = seconds + costs.experts_s * touched + costs.expert_token_s * tokens
    seconds = seconds + tokens * costs.token_link_s
    if _any(costs.link_s):
        link = smooth_max(costs.link_s, costs.link_token_s * tokens, costs.link_sharpness)
        seconds = seconds + link
    return seconds


def _any(figures: Any) -> bool:
    """Return whether a figure, or any of a column, is not 0."""
    return bool(figures.any() if isinstance(figures, np.ndarray) else figures)


def smooth_max(first: Any, second: Floats, sharpness: Any) -> Floats:
    """Return (first^s + second^s)^(1/s): rising in both, their larger for an infinite s.

    >>> smooth_max(3.0, np.array([0.0, 4.0]), 2.0).tolist()
    [3.0, 5.0]
    """
    larger = np.maximum(first, second)
    ratio = np.minimum(first, second) / np.maximum(larger, 1e-30)
    result: Floats
    if not _any(sharpness != 1.0):  # powers take long
        result = larger * (1.0 + ratio)
    else:
        result = larger * (1.0 + ratio**sharpness) ** (1.0 / sharpness)
    return result


def products_table(costs: StepCosts, size: int) -> Floats:
    """Return `products_s` of 0, 1, … size − 1 tokens: what the simulator looks up in each step."""
    return products_s(costs, np.arange(size, dtype=np.float64))


def step_costs(
    model: ModelShape, accelerator: AcceleratorSpec, tensor_parallel: int, generation: Generation
) -> StepCosts:
    """Return the step coefficients of one replica of `model` on `tensor_parallel` GPUs."""
    model = model.on(accelerator.has_bf16)
    dense, experts = product_costs(model, accelerator, tensor_parallel, generation)
    efficiency, overheads = generation.efficiency(accelerator.name), generation.overheads
    kv_rate = accelerator.bandwidth_gbps * 1e9 * efficiency.attention
    pair_rate = tensor_tflops(model, accelerator) * 1e12 * _prefill_efficiency(efficiency)
    state_s = model.state_bytes_per_sequence / tensor_parallel / accelerator.bandwidth_gbps / 1e9
    layers_s = model.mixers / 2 * (overheads.layer_s + efficiency.layer_s)
    layers_s += model.total(lambda g: float(g.routed > 0)) * efficiency.expert_layer_s
    layers_s += model.total(lambda g: float(g.latent)) * overheads.latent_layer_s
    layers_s += model.total(_if_indexed) * overheads.index_layer_s
    reads = _reads(model, tensor_parallel, kv_rate, pair_rate, efficiency.sinks)
    token_s = efficiency.scan * state_s + model.total(_if_indexed) * overheads.index_token_s
    if token_s:
        reads[_THIS_TOKEN] = 0.0, token_s
    kv_token_s, pair_s = reads.pop(_ENDLESS, (0.0, 0.0))
    link = all_reduce_costs(model, accelerator, tensor_parallel, generation)
    return StepCosts(
        fixed_s=overheads.step_s + layers_s,
        sequence_s=overheads.sequence_s
        + model.vocabulary * overheads.vocabulary_s
        + head_s(model, accelerator, tensor_parallel, generation)
        + 2.0 * state_s / (efficiency.state or efficiency.attention),
        weights_s=dense.read_s,
        experts_s=experts.read_s,
        expert_miss=_expert_miss(model),
        token_flops_s=dense.token_s,
        token_link_s=elementwise_s(model, accelerator, tensor_parallel, overheads.elementwise),
        kv_token_s=kv_token_s,
        pair_s=pair_s,
        windows=_window_costs(reads),
        sharpness=dense.sharpness,
        expert_token_s=experts.token_s,
        expert_skew=overheads.expert_skew,
        link_s=link.latency_s,
        link_token_s=link.token_s,
        link_sharpness=link.sharpness,
        prompts_s=model.total(lambda g: float(g.caches)) * efficiency.prompt_layer_s,
    )


def _if_indexed(group: LayerGroup) -> float:
    """Return 1 for layers whose queries choose the tokens that they attend to by an index, else 0."""
    return float(group.index_flops > 0)


def _prefill_efficiency(efficiency: Efficiency) -> float:
    if efficiency.prefill is not None:
        return efficiency.prefill
    return efficiency.compute * efficiency.attention


def _expert_miss(model: ModelShape) -> float:
    """Return the chance that a token passes a routed expert by, over all expert weights."""
    weights = model.total(lambda g: g.experts.bytes)
    if not weights:
        return 0.0
    passed = model.total(
        lambda g: g.experts.bytes * g.experts_per_token / g.routed if g.routed else 0.0
    )
    return 1.0 - passed / weights


Window = tuple[int, bool]
"""Tokens of a window, and whether they are a chunk."""

_ENDLESS: Window = (0, False)
"""Stands for the layers that attend to the whole context."""

_THIS_TOKEN: Window = (1, False)
"""Stands for what takes as long for each token of a prompt, whatever came before it."""


def _reads(
    model: ModelShape, tensor_parallel: int, kv_rate: float, pair_rate: float, sinks: float
) -> dict[Window, tuple[float, float]]:
    """Return (seconds per KV token, seconds per pair) by window.

    A token is read once, whatever the heads that attend to it: absorbed latents once for all of them,
    whose work may then take longer than the reading.
    """
    found: dict[Window, tuple[float, float]] = {}
    for group in model.groups:
        per_pair = group.count / min(tensor_parallel, max(group.heads, 1)) / pair_rate
        if group.sinks:
            per_pair /= sinks
        for part in _attended(group, model.kv_dtype_bytes):
            read = group.count * part.token_bytes / group.kv_split(tensor_parallel) / kv_rate
            kv_s = max(read, part.decode_flops * per_pair)
            before = found.get(part.window, (0.0, 0.0))
            found[part.window] = before[0] + kv_s, before[1] + part.pair_flops * per_pair
    return found


def _window_costs(reads: Mapping[Window, tuple[float, float]]) -> tuple[WindowCosts, ...]:
    return tuple(
        WindowCosts(tokens=tokens, chunked=chunked, kv_token_s=seconds[0], pair_s=seconds[1])
        for (tokens, chunked), seconds in sorted(reads.items())
    )


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
