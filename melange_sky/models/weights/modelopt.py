"""ModelOpt's sections: one algorithm for all linear modules, or one for each."""

from __future__ import annotations

from collections.abc import Mapping

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
)

_ALGORITHMS: dict[str, tuple[WeightFormat, str]] = {
    "FP8": (formats.FP8_TENSOR, "modelopt"),
    "FP8_PER_CHANNEL_PER_TOKEN": (formats.FP8_CHANNEL, "modelopt"),
    "FP8_PB_WO": (formats.fp8_block(128, 128), "modelopt"),
    "FP8_PB_REAL": (formats.fp8_block(128, 128), "modelopt"),
    "NVFP4": (formats.NVFP4, "modelopt_fp4"),
    "NVFP4_AWQ": (formats.NVFP4, "modelopt_fp4"),
    "W4A8_NVFP4_FP8": (formats.NVFP4, "modelopt_fp4"),
    "W4A16_NVFP4": (formats.NVFP4, "modelopt_fp4"),
    "MXFP8": (formats.MXFP8, "modelopt_mxfp8"),
    "MXFP4": (formats.MXFP4, "modelopt_mixed"),
    "W4A8_MXFP4_FP8": (formats.MXFP4, "modelopt_mixed"),
    "W4A16_AWQ": (formats.INT4_AWQ, "modelopt_mixed"),
    "W4A8_AWQ": (formats.INT4_AWQ, "modelopt_mixed"),
    "INT4_AWQ": (formats.INT4_AWQ, "modelopt_mixed"),
    "INT8_SQ": (formats.INT8_CHANNEL, "modelopt_mixed"),
}
"""ModelOpt's algorithms → format of a weight, and the engines' name of the method."""


def read_modelopt(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    nested = fields.section("quantization")
    inner = fields if nested is None or not nested.raw.get("quant_algo") else nested
    algorithm = inner.text("quant_algo").upper()
    common = {"ignored": ignored_names(inner), "kv_cache": _modelopt_cache(inner, fields)}
    if algorithm == "MIXED_PRECISION":
        rules = _layer_rules(inner)
        if not rules:
            raise InputError(
                f"{inner.where}: no 'quantized_layers', which say what MIXED_PRECISION keeps in which format"
            )
        return make_scheme(inner, "modelopt_mixed", dtype, rules=rules, **common)
    form, name = _algorithm(inner, "quant_algo", algorithm)
    return make_scheme(inner, name, dtype, default=form, parts=ALL_LINEAR, **common)


def _modelopt_cache(inner: Fields, outer: Fields) -> str | None:
    """Return the KV cache that ModelOpt's section asks for; engines pass over one that they do not know."""
    places = [
        (part, key) for key in ("kv_cache_scheme", "kv_cache_quant_algo") for part in (inner, outer)
    ]
    value = next((part.raw[key] for part, key in places if part.raw.get(key)), None)
    if isinstance(value, Mapping):
        bits = value.get("num_bits") if value.get("type") == "float" else None
        if bits == 8 and value.get("dynamic") is False:
            return "fp8"
        return "nvfp4" if bits == 4 else None
    return {"FP8": "fp8", "NVFP4": "nvfp4"}.get(str(value).upper())


def _algorithm(fields: Fields, key: str, algorithm: str) -> tuple[WeightFormat, str]:
    if algorithm not in _ALGORITHMS:
        raise InputError(
            f"{fields.where}: '{key}': unknown algorithm '{shown(algorithm)}'"
            f"{did_you_mean(algorithm, _ALGORITHMS)}; known: {', '.join(sorted(_ALGORITHMS))}"
        )
    return _ALGORITHMS[algorithm]


def _layer_rules(fields: Fields) -> tuple[tuple[Names, WeightFormat | None], ...]:
    """Return one rule for each algorithm of `quantized_layers`: module name → {quant_algo}."""
    section = fields.section("quantized_layers")
    if section is None:
        return ()
    grouped: dict[str, list[str]] = {}
    for name, entry in section.raw.items():
        algorithm = entry.get("quant_algo") if isinstance(entry, Mapping) else None
        if isinstance(algorithm, str):
            grouped.setdefault(algorithm.upper(), []).append(str(name))
    return tuple(
        (names_of(names, section), _algorithm(section, "quant_algo", algorithm)[0])
        for algorithm, names in grouped.items()
    )
