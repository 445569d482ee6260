"""TorchAO's sections: one configuration for all linear modules, or one for each name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from melange_sky.errors import InputError, did_you_mean
from melange_sky.models.fields import Fields, shown
from melange_sky.models.weights import formats
from melange_sky.models.weights.formats import WeightFormat
from melange_sky.models.weights.patterns import Names
from melange_sky.models.weights.scheme import Scheme
from melange_sky.models.weights.section_parts import (
    ALL_LINEAR,
    Section,
    ignored_names,
    make_scheme,
    names_of,
    stated_group,
)

_FP8_ALONE = replace(formats.FP8_CHANNEL, float8=False)
_KINDS: dict[str, WeightFormat | int] = {
    "int4weightonly": 4,
    "int8weightonly": formats.INT8_CHANNEL,
    "int8dynamicactivationint8weight": formats.INT8_CHANNEL,
    "int8dynamicactivationint4weight": 8,  # whose 4 bits are kept in 8
    "float8weightonly": _FP8_ALONE,
    "float8dynamicactivationfloat8weight": formats.FP8_CHANNEL,
    "float8dynamicactivationint4weight": 4,
    "float8staticactivationfloat8weight": formats.FP8_TENSOR,
    "nvfp4weightonly": formats.NVFP4,
    "nvfp4dynamicactivationnvfp4weight": formats.NVFP4,
}
"""Configuration, without `Config` and underscores → its format, or the bits of integers in groups."""

_BY_NAME = ("fqnto", "modulefqnto")


def read_torchao(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    """Return how the weights of a checkpoint of TorchAO are kept."""
    stated = fields.raw.get("quant_type")
    if isinstance(stated, Mapping) and isinstance(stated.get("default"), Mapping):
        entry = Fields(stated["default"], f"{fields.where}: quant_type.default")
        kind, more = entry.text("_type"), entry.section("_data")
    else:
        kind, more = fields.text("quant_type"), fields.section("quant_type_kwargs")
    more = more or Fields({}, fields.where)
    if fields.flag("include_input_output_embeddings"):
        raise InputError(
            f"{fields.where}: 'include_input_output_embeddings': quantized embeddings are not supported"
        )
    ignored = ignored_names(fields, contains=True)
    if _folded(kind) not in _BY_NAME:
        form = _format(kind, more)
        return make_scheme(fields, method, dtype, default=form, parts=ALL_LINEAR, ignored=ignored)
    default, rules = _by_name(more)
    return make_scheme(
        fields,
        method,
        dtype,
        default=default,
        parts=ALL_LINEAR,
        ignored=ignored,
        rules=tuple(rules),
    )


def _folded(kind: str) -> str:
    return kind.lower().replace("_", "").removesuffix("config")


def _by_name(
    section: Fields,
) -> tuple[WeightFormat | None, list[tuple[Names, WeightFormat | None]]]:
    """Return what `_default` says, and a rule for each other module; null leaves a module as it is."""
    listed = section.section("fqn_to_config") or section.section("module_fqn_to_config")
    if listed is None:
        raise InputError(f"{section.where}: no 'fqn_to_config': it says which module is kept how")
    default: WeightFormat | None = None
    rules: list[tuple[Names, WeightFormat | None]] = []
    for name in listed.raw:
        entry = listed.section(str(name))
        form = None
        if entry is not None:
            form = _format(entry.text("_type"), entry.section("_data") or Fields({}, entry.where))
        if name == "_default":
            default = form
        else:
            rules.append((names_of([str(name)], listed), form))
    return default, rules


def _format(kind: str, more: Fields) -> WeightFormat:
    found = _KINDS.get(_folded(kind))
    if found is None:
        raise InputError(
            f"{more.where}: TorchAO's '{shown(kind)}' is not supported{did_you_mean(_folded(kind), _KINDS)}"
        )
    if isinstance(found, WeightFormat):
        return found
    group = stated_group(more, "group_size", default=32 if found == 8 else 128)
    return WeightFormat(name="int4", bits=found, group=group, zero_bits=16 if found == 4 else 0)
