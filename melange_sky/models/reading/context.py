"""How long a context an engine serves: the smallest stated length, scaled as its rotary embedding is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from melange_sky.models.fields import Fields

LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
ALREADY_SCALED = frozenset(
    {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}
)
DEFAULT_TOKENS = 2048


def context_tokens(fields: Fields, outer: Mapping[str, Any]) -> tuple[int, str | None]:
    """Return the longest context that an engine derives, and what was assumed where nothing says it.

    As `_get_and_verify_max_len`: a factor of the rotary embedding multiplies the length, but for the
    kinds whose length is stated scaled already.
    """
    stated = [fields.whole(key) for key in LENGTHS if fields.raw.get(key) is not None]
    nested = fields.raw.get("attn_config")
    if not stated and not isinstance(nested, Mapping):
        default = fields.get("max_position_embeddings")
        stated = [default] if isinstance(default, int) and default > 0 else []
    longest = min(stated, default=0)
    override = fields.maybe("model_max_length") if fields.raw.get("model_max_length") else None
    longest = override or longest
    if not longest:
        return (
            DEFAULT_TOKENS,
            f"context of {DEFAULT_TOKENS} tokens, assumed as none is stated",
        )
    model_type = str(outer.get("model_type", ""))
    factor = 1.0 if "gemma3" in model_type else _factor(outer)
    return int(longest * factor), None


def _factor(outer: Mapping[str, Any]) -> float:
    factor = 1.0
    for parameters in _rotary(outer):
        kind = parameters.get("rope_type", parameters.get("type"))
        value = parameters.get("factor")
        if not isinstance(kind, str) or kind in ALREADY_SCALED | {"default", "mrope"}:
            continue
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 10**4:
            factor = float(value)
    return factor


def _rotary(outer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key in ("rope_scaling", "rope_parameters"):
        section = outer.get(key)
        if not isinstance(section, Mapping):
            continue
        nested = [value for value in section.values() if isinstance(value, Mapping)]
        yield from nested or [section]
