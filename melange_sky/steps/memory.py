"""What fits: weights, activations and the KV cache in the memory of a replica's GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.steps.pool import BlockLayout, KvPool, block_layout, whole_layout

if TYPE_CHECKING:
    from melange_sky.accelerators import AcceleratorSpec
    from melange_sky.models import ModelShape
    from melange_sky.steps.generation import Generation

GIB = 2.0**30
RUNTIME_BYTES = 0.6 * GIB
"""Libraries and NCCL's buffers on each GPU of a group; alone it holds what its schedule says."""

ACTIVATION_VALUES = 10.0
"""Values of `hidden_size` alive per batched token at the peak of a forward pass: residual, norm, the
two wide feed-forward halves (3.5 × hidden each on Llama shapes) and the product: about 10."""


STEPS_IN_FLIGHT = 2
"""Engines schedule the next step while one runs; until both are settled no window gives up their tokens."""

SHORTEST_TOKENS = 512
"""The sequence that a cache must hold to be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Why a model does not fit: bytes missing over all GPUs of the replica."""

    missing_bytes: float


def large_memory(accelerator: AcceleratorSpec) -> bool:
    """Return whether engines give this GPU their larger batch defaults (≥ 70 GiB and not an A100)."""
    return accelerator.memory_gib >= 70 and not accelerator.name.startswith("A100")


def usable_bytes(accelerator: AcceleratorSpec) -> float:
    """Return the device memory that a program can have, which is less than the name says."""
    return accelerator.usable_gib * GIB


def layout_of(
    model: ModelShape, accelerator: AcceleratorSpec, tensor_parallel: int, generation: Generation
) -> BlockLayout:
    """Return the blocks that an engine of this generation keeps the model's cache in.

    Engines before chunked prefill kept every token of every layer.
    """
    schedule = generation.schedule
    if not schedule.chunked:
        return whole_layout(model, tensor_parallel, schedule.block_tokens)
    budget = schedule.budget(large_memory(accelerator), model.context_tokens)
    return block_layout(model, tensor_parallel, schedule.block_tokens, STEPS_IN_FLIGHT * budget)


def kv_pool(
    model: ModelShape,
    accelerator: AcceleratorSpec,
    tensor_parallel: int,
    generation: Generation,
    *,
    alone: bool = True,
) -> KvPool | Misfit:
    """Return the KV cache that is left beside weights and activations, or what is missing.

    As engines count: utilisation × device memory − weights − peak of the profiling pass. A cache that
    cannot hold one sequence of 512 tokens is none: that is a misfit. `alone`: no other GPUs than those
    of the tensor-parallel group work on the model.
    """
    schedule, model = generation.schedule, model.on(accelerator.has_bf16)
    large = large_memory(accelerator)
    share = usable_bytes(accelerator) * schedule.gpu_memory_utilization
    batched = schedule.budget(large, model.context_tokens) * model.hidden_size
    activations = batched * ACTIVATION_VALUES * model.value_bytes
    images = 0.0
    if model.image_tokens:  # what the encoder made of a step's images, or of one larger, stays
        seen = max(schedule.budget(large, model.context_tokens), model.image_tokens)
        images = seen * model.hidden_size * model.value_bytes
    logits = schedule.sequences(large) * model.vocabulary * 4.0 / tensor_parallel
    # the sampler runs after the layers, whose memory is free again by then
    sampling = schedule.sequences(large) * model.vocabulary * schedule.sampler_bytes
    peak = max(activations + logits, sampling)
    weights = model.weight_bytes_per_gpu(tensor_parallel)
    weights += model.padding_bytes_per_gpu(tensor_parallel, accelerator.capability)
    single = alone and tensor_parallel == 1
    runtime = schedule.runtime_alone_gib * GIB if single else RUNTIME_BYTES
    per_gpu = share - runtime - peak - images - weights
    layout = layout_of(model, accelerator, tensor_parallel, generation)
    blocks = int(per_gpu // layout.block_bytes)
    fewest = -(-layout.rule.held(SHORTEST_TOKENS) // layout.rule.scale)
    if blocks < fewest:
        missing = (fewest * layout.block_bytes - per_gpu) * tensor_parallel
        return Misfit(missing_bytes=missing)
    return layout.pool(blocks)
