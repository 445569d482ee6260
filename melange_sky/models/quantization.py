"""How weights are kept: bytes per parameter and whether products run in fp8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from melange_sky.errors import InputError, did_you_mean
from melange_sky.models.shape import PLAIN_BYTES

METHOD_BITS = {
    "fp8": 8.0,
    "fbgemm_fp8": 8.0,
    "modelopt": 8.0,
    "modelopt_mxfp8": 8.0,
    "deepseek_v4_fp8": 8.0,
    "quark": 8.0,
    "compressed-tensors": 8.0,
    "awq": 4.0,
    "auto_awq": 4.0,
    "awq_marlin": 4.0,
    "gptq": 4.0,
    "auto_gptq": 4.0,
    "gptq_marlin": 4.0,
    "moe_wna16": 4.0,
    "modelopt_fp4": 4.0,
    "inc": 4.0,
    "gpt_oss_mxfp4": 4.0,
    "fp8_per_tensor": 8.0,
    "fp8_per_block": 8.0,
    "fp8_per_channel": 8.0,
    "mxfp8": 8.0,
    "mxfp4": 4.0,
    "experts_int8": 8.0,
    "int8_per_channel_weight_only": 8.0,
}
"""Name of a method of quantisation → bits per quantised weight where the config does not say."""

FP8_METHODS = frozenset(
    {
        "fp8",
        "fbgemm_fp8",
        "modelopt",
        "modelopt_mxfp8",
        "deepseek_v4_fp8",
        "fp8_per_tensor",
        "fp8_per_block",
        "fp8_per_channel",
        "mxfp8",
    }
)
"""Methods whose products run in fp8."""

_ALIKE = (
    {"awq", "auto_awq", "awq_marlin", "moe_wna16"},
    {"gptq", "auto_gptq", "gptq_marlin", "moe_wna16"},
)
_GROUP_OVERHEAD_BITS = 0.16
"""A 16-bit scale and a 4-bit zero point per group of 128 weights: (16 + 4) / 128 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """`bytes_per_parameter` averaged over all parameters, those left in 16 bits included."""

    name: str
    bytes_per_parameter: float
    fp8_compute: bool = False


def are_alike(first: str, second: str) -> bool:
    """Return whether two methods read the same checkpoints."""
    return first == second or any({first, second} <= group for group in _ALIKE)


def quantized(
    method: str,
    linear_fraction: float,
    bits: float | None = None,
    *,
    known: Mapping[str, float] = METHOD_BITS,
    fp8: frozenset[str] = FP8_METHODS,
) -> WeightFormat:
    """Return the format in which the linear layers (a fraction of all parameters) use `method`.

    Embeddings, output head and norms stay in 16 bits. `known`: method → bits where `bits` does not
    say; `fp8`: those whose products run in fp8. Raises InputError for an unknown method.
    """
    if method not in known:
        raise InputError(
            f"unknown quantization '{method[:40]}'{did_you_mean(method, known)}; "
            f"known: {', '.join(sorted(known))}"
        )
    bits = known[method] if bits is None else bits
    if not 1 <= bits <= 16:
        raise InputError(f"quantization '{method}': {bits:g} bits per weight is impossible")
    per_weight = (bits + (_GROUP_OVERHEAD_BITS if bits < 8 else 0.0)) / 8
    average = linear_fraction * per_weight + (1 - linear_fraction) * 2.0
    return WeightFormat(
        name=method, bytes_per_parameter=average, fp8_compute=method in fp8 and bits == 8
    )


def plain(dtype: str, where: str) -> WeightFormat:
    """Return an unquantised format; raise InputError for an unknown dtype."""
    if dtype not in PLAIN_BYTES:
        raise InputError(
            f"{where}: unknown dtype '{dtype[:40]}'{did_you_mean(dtype, PLAIN_BYTES)}; "
            f"known: {', '.join(sorted(PLAIN_BYTES))}"
        )
    return WeightFormat(name=dtype, bytes_per_parameter=PLAIN_BYTES[dtype])
