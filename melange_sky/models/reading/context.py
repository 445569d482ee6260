"""How long a context an engine serves: the smallest stated length, scaled as its rotary embedding is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from melange_sky.errors import InputError, did_you_mean
from melange_sky.models.fields import LARGEST, Fields, shown
from melange_sky.models.reading.defaults import class_defaults

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
FACTOR_NEEDED = frozenset({"linear", "dynamic", "ntk", "yarn", "deepseek_yarn"})
ROTARY_KINDS = frozenset(
    {
        *ALREADY_SCALED,
        *FACTOR_NEEDED,
        "bailing_mrope",
        "default",
        "mllama4",
        "mrope",
        "openpangu",
        "proportional",
        "xdrope",
    }
)
"""Kinds of rotary embedding that engines have; they refuse any other at start."""

_COMPANIONS = {
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
    "su": ("short_factor", "long_factor"),
}
"""What a kind needs besides, or engines refuse it at start."""

DEFAULT_TOKENS = 2048


def context_tokens(fields: Fields, outer: Fields) -> int:
    """Return the longest context that an engine derives.

    As `_get_and_verify_max_len`: a factor of the rotary embedding multiplies the length, but for the
    kinds whose length is stated scaled already. Raises InputError that names a wrong field.
    """
    factor = _factor(outer)
    stated = [fields.whole(key) for key in LENGTHS if fields.raw.get(key) is not None]
    nested = fields.raw.get("attn_config")
    if not stated and not isinstance(nested, Mapping):
        default = fields.get("max_position_embeddings")
        stated = [default] if isinstance(default, int) and default > 0 else []
    longest = min(stated, default=0)
    override = fields.maybe("model_max_length") if fields.raw.get("model_max_length") else None
    if override is not None and override > longest:
        fields.told.append(
            f"'model_max_length' ({override}) exceeds the other stated lengths ({longest}): engines take it"
        )
    longest = override or longest
    if not longest:
        known = class_defaults(str(fields.raw.get("model_type", ""))).get("max_position_embeddings")
        longest = known if isinstance(known, int) else DEFAULT_TOKENS
        fields.told.append(
            f"no 'max_position_embeddings': a context of {longest} tokens is assumed, as engines do"
        )
    if "gemma3" in str(outer.raw.get("model_type", "")):
        factor = 1.0
    scaled = longest * factor
    if not 1 <= scaled <= LARGEST:
        raise InputError(
            f"{outer.where}: the rotary 'factor' {factor:g} makes {scaled:.3g} of {longest} tokens of context"
        )
    return int(scaled)


def _factor(outer: Fields) -> float:
    factor = 1.0
    for key, parameters in _rotary(outer):
        kind = parameters.get("rope_type", parameters.get("type")) or "default"
        _check_kind(outer, key, kind, parameters)
        value = parameters.get("factor")
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise InputError(f"{outer.where}: '{key}.factor' must be a positive number")
        if kind not in ALREADY_SCALED | {"mrope"}:
            factor = float(value)
    return factor


def _check_kind(outer: Fields, key: str, kind: object, parameters: Mapping[str, Any]) -> None:
    """Refuse a kind that engines have not, and one without its factor; tell what else it lacks."""
    if not isinstance(kind, str):
        raise InputError(f"{outer.where}: '{key}.rope_type' must be text")
    if kind not in ROTARY_KINDS:
        raise InputError(
            f"{outer.where}: '{key}.rope_type' holds '{shown(kind)}'{did_you_mean(kind, ROTARY_KINDS)}: engines "
            "refuse such a rotary embedding"
        )
    if kind in FACTOR_NEEDED and "factor" not in parameters:
        raise InputError(
            f"{outer.where}: '{key}' of type {kind} has no 'factor', which engines need"
        )
    missing = [name for name in _COMPANIONS.get(kind, ()) if name not in parameters]
    if missing:
        names = " and ".join(f"'{name}'" for name in missing)
        outer.told.append(f"'{key}' of type {kind} has no {names}: engines refuse it at start")


def _rotary(outer: Fields) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key in ("rope_scaling", "rope_parameters"):
        section = outer.raw.get(key)
        if section is None:
            continue
        if not isinstance(section, Mapping):
            raise InputError(f"{outer.where}: '{key}' must be a mapping")
        nested = [value for value in section.values() if isinstance(value, Mapping)]
        yield from ((key, part) for part in nested or [section])
