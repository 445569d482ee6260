"""What the readers of quantization sections share: lists of modules, bits, groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from melange_sky.errors import InputError
from melange_sky.models.fields import Fields, shown
from melange_sky.models.weights.formats import VALUE_BYTES
from melange_sky.models.weights.patterns import Names
from melange_sky.models.weights.scheme import DECODER_PARTS, Scheme

Section = Mapping[str, Any]

ALL_LINEAR = DECODER_PARTS | {"tower", "projector"}
IGNORE_KEYS = ("ignore", "exclude_modules", "modules_to_not_convert", "ignored_layers", "exclude")


def names_of(patterns: Iterable[object], fields: Fields, *, contains: bool = False) -> Names:
    """Return the modules that a list names. Raises InputError for an expression that cannot be read."""
    names = Names(patterns, contains=contains)
    if names.unreadable:
        raise InputError(
            f"{fields.where}: '{shown(names.unreadable[0], 60)}' names modules in a way that is not supported"
        )
    return names


def ignored_names(fields: Fields, *, contains: bool = False) -> Names:
    patterns: list[object] = []
    for key in IGNORE_KEYS:
        patterns += fields.items(key) or []
    return names_of(patterns, fields, contains=contains)


def make_scheme(fields: Fields, method: str, dtype: str, **more: Any) -> Scheme:
    value_bytes = VALUE_BYTES["bfloat16" if dtype in ("float32", "float") else dtype]
    return Scheme(
        method=method,
        dtype=dtype,
        value_bytes=value_bytes,
        section=fields.where,
        notes=tuple(fields.told),
        **more,
    )


def stated_bits(fields: Fields, *keys: str, default: float) -> float:
    for key in keys:
        if fields.raw.get(key) is not None:
            bits = fields.number(key, default)
            if not 1 <= bits <= 16:
                raise InputError(f"{fields.where}: '{key}': {bits:g} bits per weight is impossible")
            return bits
    return default


def stated_group(fields: Fields, *keys: str, default: int | None = 128) -> int | None:
    for key in keys:
        value = fields.raw.get(key)
        if value is None:
            continue
        if value == -1:
            return None
        return fields.whole(key)
    return default
