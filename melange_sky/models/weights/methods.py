"""Quantization methods: from what a section of each says to the formats of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from melange_sky.errors import InputError, did_you_mean
from melange_sky.models.fields import Fields, shown
from melange_sky.models.weights import formats
from melange_sky.models.weights.formats import VALUE_BYTES, WeightFormat
from melange_sky.models.weights.patterns import Names
from melange_sky.models.weights.scheme import DECODER_PARTS, Scheme

Section = Mapping[str, Any]

_ALL_LINEAR = DECODER_PARTS | {"tower", "projector"}
_IGNORE_KEYS = ("ignore", "exclude_modules", "modules_to_not_convert", "ignored_layers", "exclude")


def _ignored(fields: Fields, *, contains: bool = False) -> Names:
    patterns: list[object] = []
    for key in _IGNORE_KEYS:
        patterns += fields.items(key) or []
    return Names(patterns, contains=contains)


def _scheme(fields: Fields, method: str, dtype: str, **more: Any) -> Scheme:
    value_bytes = VALUE_BYTES["bfloat16" if dtype in ("float32", "float") else dtype]
    return Scheme(method=method, dtype=dtype, value_bytes=value_bytes, section=fields.where, **more)


def _fp8(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    block = fields.wholes("weight_block_size")
    form = formats.FP8_TENSOR
    if block:
        if len(block) != 2 or min(block) < 1:
            raise InputError(f"{fields.where}: 'weight_block_size' must be two sizes")
        form = formats.fp8_block(block[0], block[1])
    elif method == "fbgemm_fp8":
        form = formats.FP8_CHANNEL
    by_part: dict[str, WeightFormat] = {}
    if config.get("expert_dtype") == "fp4" or fields.raw.get("expert_dtype") == "fp4":
        nvidia = fields.text("moe_quant_algo").upper() == "NVFP4"
        by_part["experts"] = formats.NVFP4 if nvidia else formats.MXFP4
    ignored = _ignored(fields, contains=True)
    if fields.raw.get("moe_quant_algo") is not None:
        ignored = Names(())  # the ignored modules of the experts' format keep 8 bits
    return _scheme(
        fields,
        method,
        dtype,
        default=form,
        by_part=by_part,
        ignored=ignored,
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


def _modelopt(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    nested = fields.section("quantization")
    inner = fields if nested is None or not nested.raw.get("quant_algo") else nested
    algorithm = inner.text("quant_algo").upper()
    common = {"ignored": _ignored(inner), "kv_cache": _modelopt_cache(inner, fields)}
    if algorithm == "MIXED_PRECISION":
        rules = _layer_rules(inner)
        if not rules:
            raise InputError(
                f"{inner.where}: no 'quantized_layers', which say what MIXED_PRECISION keeps in which format"
            )
        return _scheme(inner, "modelopt_mixed", dtype, rules=rules, **common)
    form, name = _algorithm(inner, "quant_algo", algorithm)
    return _scheme(inner, name, dtype, default=form, parts=_ALL_LINEAR, **common)


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


def _compressed_cache(scheme: object) -> str | None:
    """Return the KV cache of compressed-tensors: engines take symmetric 8-bit floats alone."""
    if scheme is None:
        return None
    taken = (
        isinstance(scheme, Mapping)
        and scheme.get("type") == "float"
        and scheme.get("num_bits") == 8
        and scheme.get("strategy") in ("tensor", "attn_head")
        and bool(scheme.get("symmetric"))
    )
    return "fp8" if taken else "other"


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
        (Names(names), _algorithm(section, "quant_algo", algorithm)[0])
        for algorithm, names in grouped.items()
    )


def _compressed_tensors(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    groups = fields.section("config_groups")
    if groups is None or not groups.raw:
        raise InputError(f"{fields.where}: no 'config_groups': they say how many bits a weight has")
    default: WeightFormat | None = None
    rules: list[tuple[Names, WeightFormat | None]] = []
    for name in groups.raw:
        group = groups.section(str(name))
        if group is None:
            continue
        form = _group_format(group, fields.text("format"))
        targets = group.words("targets") or ["Linear"]
        if any(target in ("Linear", "re:.*") for target in targets):
            default = form
        else:
            rules.append((Names(targets), form))
    ignored = _ignored(fields)
    guarded = [(ignored, None), *rules] if rules else []
    return _scheme(
        fields,
        method,
        dtype,
        default=default,
        parts=_ALL_LINEAR if default is not None else frozenset(),
        rules=tuple(guarded),
        ignored=ignored,
        kv_cache=_compressed_cache(fields.raw.get("kv_cache_scheme")),
    )


def _group_format(group: Fields, outer_format: str) -> WeightFormat | None:
    weights = group.section("weights")
    if weights is None:
        return None
    bits = weights.number("num_bits", 8.0)
    if not 1 <= bits <= 16:
        raise InputError(f"{weights.where}: 'num_bits' is {bits:g}, which is impossible")
    kind = group.text("format") or outer_format
    size = weights.raw.get("group_size")
    width = size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None
    is_float = weights.text("type", "int") == "float"
    if "mxfp4" in kind:
        return formats.MXFP4
    if "nvfp4" in kind or (is_float and bits == 4):
        return formats.MXFP4 if width == 32 else formats.NVFP4
    if is_float and bits == 8:
        if weights.text("strategy") == "block":
            block = weights.wholes("block_structure") or [128, 128]
            return formats.fp8_block(max(1, block[0]), max(1, block[-1]))
        return formats.FP8_CHANNEL
    zero_point = weights.raw.get("symmetric") is False
    return formats.integers(bits, width, zero_point)


def _bits(fields: Fields, *keys: str, default: float) -> float:
    for key in keys:
        if fields.raw.get(key) is not None:
            bits = fields.number(key, default)
            if not 1 <= bits <= 16:
                raise InputError(f"{fields.where}: '{key}': {bits:g} bits per weight is impossible")
            return bits
    return default


def _check_bits(fields: Fields, method: str, bits: float, known: tuple[int, ...]) -> None:
    """Refuse widths that the engines' kernels of a method do not hold."""
    if bits not in known:
        raise InputError(
            f"{fields.where}: {bits:g} bits per weight are not served: engines run {method} of "
            f"{' and '.join(map(str, known))} bits"
        )


def _group(fields: Fields, *keys: str, default: int | None = 128) -> int | None:
    for key in keys:
        value = fields.raw.get(key)
        if value is None:
            continue
        if value == -1:
            return None
        return fields.whole(key)
    return default


def _awq(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    bits = _bits(fields, "bits", "w_bit", default=4)
    _check_bits(fields, "AWQ", bits, (4,))
    form = formats.integers(
        bits,
        _group(fields, "group_size", "q_group_size"),
        fields.flag("zero_point", True),
    )
    return _scheme(fields, method, dtype, default=form, ignored=_ignored(fields, contains=True))


def _gptq(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    bits, group = _bits(fields, "bits", default=4), _group(fields, "group_size")
    _check_bits(fields, "GPTQ", bits, (4, 8))
    form = formats.integers(bits, group, True, order=True)
    rules: list[tuple[Names, WeightFormat | None]] = []
    for key in ("dynamic", "extra_config"):
        section = fields.section(key)
        if section is None:
            continue
        for pattern, entry in section.raw.items():
            text = str(pattern)
            prefix = "" if key == "extra_config" else "re:"
            if text.startswith("-:"):
                rules.append((Names([f"re:{text[2:]}"]), None))
            elif isinstance(entry, Mapping):
                own = Fields(entry, f"{fields.where}: {key}")
                own_bits = _bits(own, "bits", default=bits)
                chosen = (
                    None
                    if own_bits >= 16
                    else formats.integers(
                        own_bits, _group(own, "group_size", default=group), True, order=True
                    )
                )
                rules.append((Names([prefix + text.removeprefix("+:")]), chosen))
    parts = DECODER_PARTS | {"head"} if fields.flag("lm_head") else DECODER_PARTS
    return _scheme(
        fields,
        method,
        dtype,
        default=form,
        parts=parts,
        rules=tuple(rules),
        ignored=_ignored(fields, contains=True),
    )


def _bitsandbytes(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    skipped = Names(fields.items("llm_int8_skip_modules") or [], contains=True)
    if fields.flag("load_in_4bit"):
        scale = 8.25 if fields.flag("bnb_4bit_use_double_quant") else 32
        form = WeightFormat(name="nf4", bits=4 + scale / 64, group=None, scale_bits=0)
    elif fields.flag("load_in_8bit"):
        form = formats.INT8_CHANNEL
    else:
        raise InputError(f"{fields.where}: neither 'load_in_4bit' nor 'load_in_8bit' is true")
    return _scheme(fields, method, dtype, default=form, parts=_ALL_LINEAR, ignored=skipped)


def _mxfp4(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    """GPT-OSS: the experts alone are kept in 4 bits."""
    return _scheme(fields, method, dtype, default=formats.MXFP4, parts=frozenset({"experts"}))


def _quark(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    default = _quark_format(fields.section("global_quant_config"))
    rules: list[tuple[Names, WeightFormat | None]] = []
    layers = fields.section("layer_quant_config")
    if layers is not None:
        for name in layers.raw:
            entry = layers.section(str(name))
            rules.append((Names([str(name)]), _quark_format(entry)))
    if default is None and not rules:
        raise InputError(f"{fields.where}: no 'global_quant_config': it says how weights are kept")
    ignored = _ignored(fields)
    return _scheme(
        fields,
        method,
        dtype,
        default=default,
        parts=_ALL_LINEAR if default is not None else frozenset(),
        rules=((ignored, None), *rules) if rules else (),
        ignored=ignored,
    )


def _quark_format(section: Fields | None) -> WeightFormat | None:
    weight = None if section is None else section.section("weight")
    if weight is None:
        return None
    kind = weight.text("dtype")
    size = weight.raw.get("group_size")
    width = size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None
    known = {
        "fp8_e4m3": formats.FP8_CHANNEL,
        "fp4": formats.MXFP4,
        "mxfp4": formats.MXFP4,
        "fp6_e2m3": formats.MXFP6,
        "fp6_e3m2": formats.MXFP6,
        "int8": formats.integers(8, width, False),
        "int4": formats.integers(4, width, False),
        "uint4": formats.integers(4, width, True),
    }
    if kind not in known:
        raise InputError(f"{weight.where}: 'dtype' holds '{shown(kind)}', which is not supported")
    return known[kind]


READERS: dict[str, Callable[[Fields, Section, str, str], Scheme]] = {
    "fp8": _fp8,
    "deepseek_v4_fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "modelopt_mxfp8": _modelopt,
    "modelopt_mixed": _modelopt,
    "compressed-tensors": _compressed_tensors,
    "awq": _awq,
    "awq_marlin": _awq,
    "auto_awq": _awq,
    "gptq": _gptq,
    "gptq_marlin": _gptq,
    "auto_gptq": _gptq,
    "inc": _gptq,
    "bitsandbytes": _bitsandbytes,
    "mxfp4": _mxfp4,
    "gpt_oss_mxfp4": _mxfp4,
    "quark": _quark,
}
"""Name of a method → what reads its section: (section, config, method, dtype) → scheme."""
