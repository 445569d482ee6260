"""What fits: weights, activations and the KV cache in the memory of a replica's GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.accelerators import AcceleratorSpec
    from melange_sky.models import ModelShape
    from melange_sky.steps.generation import Generation

GIB = 2.0**30
RUNTIME_BYTES = 0.6 * GIB
"""CUDA context, libraries and NCCL buffers per GPU that the engine's share does not hold."""

ACTIVATION_VALUES = 10.0
"""Values of `hidden_size` alive per batched token at the peak of a forward pass: residual, norm, the
two wide feed-forward halves (3.5 × hidden each on Llama shapes) and the product: about 10."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPool:
    """The KV cache of one replica: `blocks` of `block_tokens` tokens."""

    blocks: int
    block_tokens: int

    @property
    def tokens(self) -> int:
        """Tokens that the cache holds."""
        return self.blocks * self.block_tokens


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


def kv_pool(
    model: ModelShape, accelerator: AcceleratorSpec, tensor_parallel: int, generation: Generation
) -> KvPool | Misfit:
    """Return the KV cache that is left beside weights and activations, or what is missing.

    As engines count: utilisation × device memory − weights − peak of the profiling pass. At least one
    block per 16 sequences' worth (1 % of nothing) is no cache, so fewer than 32 blocks is a misfit.
    """
    schedule = generation.schedule
    large = large_memory(accelerator)
    share = usable_bytes(accelerator) * schedule.gpu_memory_utilization
    activations = (
        schedule.budget(large, model.context_tokens) * ACTIVATION_VALUES * model.hidden_size * 2.0
    )
    logits = schedule.sequences(large) * model.vocabulary * 4.0 / tensor_parallel
    per_gpu = share - RUNTIME_BYTES - activations - logits - model.weight_bytes / tensor_parallel
    per_block = (
        model.kv_bytes_per_token / min(tensor_parallel, model.kv_heads) * schedule.block_tokens
    )
    blocks = int(per_gpu // per_block)
    if blocks < 32:
        return Misfit(missing_bytes=(32 * per_block - per_gpu) * tensor_parallel)
    return KvPool(blocks=blocks, block_tokens=schedule.block_tokens)
