"""What one GPU of a group does in a step: products in their number formats, all-reduces, moving data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from melange_sky.accelerators import AcceleratorSpec
    from melange_sky.models import ModelShape
    from melange_sky.models.layer_group import LayerGroup, Weights
    from melange_sky.steps.generation import Generation, Products

_RESIDUAL_VALUES = 8.0
"""Values of `hidden_size` that two norms with their residual sums read and write."""

_FEWER_BITS_BYTES = 1.9
"""Weights of fewer bytes are not kept in 16 bits."""

_FOUR_BITS_BYTES = 0.75
"""Weights of fewer bytes are kept in 4 bits with their scales."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductCosts:
    """Seconds to read weights once, seconds of computing a token, and how the two meet."""

    read_s: float
    token_s: float
    sharpness: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCosts:
    """All-reduces of a step: latency, seconds per token, and how the two meet."""

    latency_s: float = 0.0
    token_s: float = 0.0
    sharpness: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Formats:
    """Products of weights in 16 bits, and in fewer where they were measured apart."""

    plain: Products
    fp8: Products | None = None
    int4: Products | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """Bytes of weights read, parameters that a token passes, and bytes of a weight, on each GPU."""

    read_bytes: float
    parameters: float
    weight_bytes: float


def product_costs(
    model: ModelShape, accelerator: AcceleratorSpec, tensor_parallel: int, generation: Generation
) -> tuple[ProductCosts, ProductCosts]:
    """Return what the dense products and those of routed experts cost on each GPU.

    The output head is read among the dense ones; what computing it costs is `head_s`.
    """
    efficiency = generation.efficiency(accelerator.name)
    read = model.total(lambda g: g.dense_bytes(tensor_parallel))
    dense = _Work(
        read_bytes=read + model.head.bytes / tensor_parallel,
        parameters=model.total(lambda g: g.dense.parameters) / tensor_parallel,
        weight_bytes=_bytes_of_a_weight(model, lambda g: g.dense),
    )
    experts = _Work(
        read_bytes=model.total(lambda g: g.experts.bytes) / tensor_parallel,
        parameters=model.total(lambda g: g.active_experts) / tensor_parallel,
        weight_bytes=_bytes_of_a_weight(model, lambda g: g.experts),
    )
    unpack = generation.overheads.weight_only
    formats = _Formats(plain=efficiency.dense, fp8=efficiency.fp8)
    costs = _costs(model, accelerator, dense, formats, unpack)
    if efficiency.experts is not None:
        formats = _Formats(
            plain=efficiency.experts, fp8=efficiency.experts_fp8, int4=efficiency.experts_int4
        )
    return costs, _costs(model, accelerator, experts, formats, unpack)


def tensor_tflops(model: ModelShape, accelerator: AcceleratorSpec) -> float:
    """Return the tensor rate of unquantised values: in 16 bits, or in 32 where the model holds them so."""
    wide = model.value_bytes > 2.0
    return accelerator.float32_tflops if wide else accelerator.dense_tflops


def head_s(
    model: ModelShape, accelerator: AcceleratorSpec, tensor_parallel: int, generation: Generation
) -> float:
    """Return the seconds that computing the output head for one sequence takes, in 16 bits."""
    compute = generation.efficiency(accelerator.name).compute
    flops = 2.0 * model.head.parameters / tensor_parallel
    return flops / (tensor_tflops(model, accelerator) * 1e12 * compute)


def _bytes_of_a_weight(model: ModelShape, weights: Callable[[LayerGroup], Weights]) -> float:
    linear = model.total(lambda g: float(weights(g).linear))
    return model.total(lambda g: weights(g).linear_bytes) / linear if linear else 2.0


def _costs(
    model: ModelShape,
    accelerator: AcceleratorSpec,
    work: _Work,
    formats: _Formats,
    unpack: float,
) -> ProductCosts:
    """Return the costs of products: in fp8 where model and chip have it, else of unpacked weights."""
    chosen, tflops = formats.plain, tensor_tflops(model, accelerator)
    if work.weight_bytes < _FEWER_BITS_BYTES:
        if model.fp8_compute and accelerator.fp8_tflops is not None:
            chosen, tflops = formats.fp8 or chosen, accelerator.fp8_tflops
        elif work.weight_bytes < _FOUR_BITS_BYTES and formats.int4 is not None:
            chosen = formats.int4
        else:
            chosen = dataclasses.replace(chosen, compute=chosen.compute * unpack)
    return ProductCosts(
        read_s=work.read_bytes / (accelerator.bandwidth_gbps * 1e9 * chosen.bandwidth),
        token_s=2.0 * work.parameters / (tflops * 1e12 * chosen.compute),
        sharpness=chosen.sharpness,
    )


def elementwise_s(
    model: ModelShape, accelerator: AcceleratorSpec, tensor_parallel: int, efficiency: float
) -> float:
    """Return the seconds that moving a token through norms, activations and caches takes.

    Residuals lie on every GPU; of each product's inputs and outputs it holds its part.
    """
    if not efficiency:
        return 0.0
    hidden = model.hidden_size
    values = _RESIDUAL_VALUES * hidden * model.layers
    values += model.total(lambda g: g.dense.parameters) / hidden / tensor_parallel
    return model.value_bytes * values / (accelerator.bandwidth_gbps * 1e9 * efficiency)


def all_reduce_costs(
    model: ModelShape, accelerator: AcceleratorSpec, tensor_parallel: int, generation: Generation
) -> LinkCosts:
    """Return the all-reduces of a step: one after each attention and each feed-forward.

    (Shoeybi et al., arXiv 1909.08053, §3.) Measured ones by links and GPUs where the generation has
    them; else a ring, which moves 2 (t − 1) / t of the data over each link (Patarasuk and Yuan, JPDC
    2009), and one latency per doubling of the group.
    """
    if tensor_parallel == 1:
        return LinkCosts()
    count, volume = model.mixers, model.hidden_size * model.value_bytes
    rate = accelerator.interconnect_gbps * 1e9
    measured = generation.links.get(accelerator.links)
    if measured:
        # the next larger group that was measured, else the largest
        one = measured[min((g for g in measured if g >= tensor_parallel), default=max(measured))]
        return LinkCosts(
            latency_s=count * one.latency_s,
            token_s=count * volume / (rate * one.fraction),
            sharpness=one.sharpness,
        )
    overheads = generation.overheads
    nvlink = accelerator.links == "nvlink"
    latency_s = overheads.allreduce_nvlink_s if nvlink else overheads.allreduce_pcie_s
    ring = 2.0 * (tensor_parallel - 1) / tensor_parallel
    return LinkCosts(
        latency_s=count * latency_s * math.log2(tensor_parallel),
        token_s=count * ring * volume / (rate * overheads.interconnect),
    )
