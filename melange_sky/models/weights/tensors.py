"""What the files of a checkpoint hold, from their headers: bytes by part, held against what was read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from melange_sky.errors import InputError

TOLERANCE = 0.03
"""How far the bytes that a reader counts may lie from those of the files."""

UNLOADED = 0.35
"""How much more the files may hold where they have parts that engines do not load."""

DTYPE_BYTES = {
    "F64": 8.0,
    "I64": 8.0,
    "U64": 8.0,
    "F32": 4.0,
    "I32": 4.0,
    "U32": 4.0,
    "F16": 2.0,
    "BF16": 2.0,
    "I16": 2.0,
    "U16": 2.0,
    "F8_E4M3": 1.0,
    "F8_E5M2": 1.0,
    "F8_E8M0": 1.0,
    "I8": 1.0,
    "U8": 1.0,
    "BOOL": 1.0,
    "F4": 0.5,
    "F6_E2M3": 0.75,
    "F6_E3M2": 0.75,
}
"""Bytes of a value by the dtype words of safetensors headers."""

_PARTS: tuple[tuple[str, str], ...] = (
    ("extra_heads", r"(^|\.)mtp\.|nextn|shared_head"),
    (
        "vision",
        r"(^|\.)(visual|vision_tower|vision_model|vision_encoder)\.|embed_vision|mm_projector|multi_modal",
    ),
    ("audio", r"(^|\.)(audio_tower|audio_model)\."),
    ("embedding", r"embed_tokens|(^|\.)(wte|wpe|embeddings|word_embeddings|embed_in)\.weight"),
    ("head", r"(^|\.)(lm_head|output|head)\.(weight|bias)$"),
    ("shared_experts", r"shared_expert|shared_mlp"),
    ("experts", r"\.experts\b"),
    ("router", r"\.(gate|router)\.(weight|bias|e_score)|router"),
    (
        "linear_attention",
        r"linear_attn|\.mamba\.|\.conv\.|mixer\.(in_proj|out_proj|conv1d|A_log|D$|dt_bias)",
    ),
    ("attention", r"attn|attention|mixer\.[qkvo]_proj"),
    ("norm", r"norm"),
    ("mlp", r"mlp|feed_forward|ffn|mixer|fc[12]"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorTotals:
    """Bytes of a checkpoint's tensors; `by_part` and `parameters` only where the headers were read."""

    total_bytes: int
    by_part: Mapping[str, float] | None = None
    parameters: int | None = None


def part_of(name: str) -> str:
    """Return what a tensor belongs to, by its name.

    >>> part_of("model.layers.3.mlp.experts.7.up_proj.weight")
    'experts'
    """
    return next((part for part, pattern in _PARTS if re.search(pattern, name)), "other")


def totals_of_header(header: Mapping[str, Any], where: str) -> TensorTotals:
    """Return the totals of one safetensors header: name → {dtype, shape, data_offsets}."""
    by_part: dict[str, float] = {}
    total = parameters = 0.0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        size, values = _tensor(str(name), entry, where)
        by_part[part_of(str(name))] = by_part.get(part_of(str(name)), 0.0) + size
        total += size
        parameters += values
    if total > 2**53:
        raise InputError(f"{where}: its tensors would have {total:.3g} bytes, which is impossible")
    return TensorTotals(total_bytes=int(total), by_part=by_part, parameters=int(parameters))


def _tensor(name: str, entry: object, where: str) -> tuple[float, float]:
    shape = entry.get("shape") if isinstance(entry, Mapping) else None
    kind = entry.get("dtype") if isinstance(entry, Mapping) else None
    if (
        not isinstance(shape, list)
        or not isinstance(kind, str)
        or kind not in DTYPE_BYTES
        or not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**40 for n in shape)
    ):
        raise InputError(f"{where}: the header's entry of '{name[:80]}' is not a tensor")
    values = float(math.prod(shape)) if len(shape) <= 8 else math.inf
    return values * DTYPE_BYTES[kind], values


def totals_of_index(index: Mapping[str, Any], where: str) -> TensorTotals | None:
    """Return the total that an index states, None where it states none."""
    metadata = index.get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, Mapping) else None
    if size is None:
        return None
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < 2**53:
        raise InputError(f"{where}: 'metadata.total_size' is not a number of bytes")
    return TensorTotals(total_bytes=size)


def nearest_count(counts: Iterable[float], totals: TensorTotals) -> float:
    """Return the count that lies nearest to the bytes of the files."""
    return min(counts, key=lambda counted: abs(counted - totals.total_bytes))


def check_bytes(
    name: str, counts: tuple[float, float], totals: TensorTotals, *, has_unloaded: bool = False
) -> None:
    """Refuse a reading that differs from the checkpoint's own bytes by more than `TOLERANCE`.

    Extra heads may have been left out of the files, so that either of two counts may agree, with them
    and without; `has_unloaded`: parts that engines do not load may come on top.
    """
    actual = totals.total_bytes
    nearest = nearest_count(counts, totals)
    if has_unloaded and 0 <= actual - nearest <= UNLOADED * nearest:
        return
    if abs(nearest - actual) > TOLERANCE * actual:
        raise InputError(
            f"{name}: its config reads as {nearest / 1e9:.4g} GB of weights where its files hold "
            f"{actual / 1e9:.4g} GB: the structure is not understood well enough to plan it"
        )
