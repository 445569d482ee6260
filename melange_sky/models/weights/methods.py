"""Quantization methods: from what a section of each says to the formats of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from melange_sky.errors import InputError
from melange_sky.models.fields import Fields, one_of, shown
from melange_sky.models.weights import formats
from melange_sky.models.weights.formats import WeightFormat
from melange_sky.models.weights.modelopt import read_modelopt
from melange_sky.models.weights.patterns import Names
from melange_sky.models.weights.scheme import DECODER_PARTS, Scheme
from melange_sky.models.weights.section_parts import (
    ALL_LINEAR,
    Section,
    ignored_names,
    make_scheme,
    names_of,
    stated_bits,
    stated_group,
)
from melange_sky.models.weights.torchao import read_torchao


def _fp8(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    block = fields.wholes("weight_block_size")
    form = formats.FP8_TENSOR
    if block:
        if len(block) != 2 or min(block) < 1:
            raise InputError(f"{fields.where}: 'weight_block_size' must be two sizes")
        form = formats.fp8_block(block[0], block[1])
    _check_activations(fields, in_blocks=bool(block))
    if not block and method == "fbgemm_fp8":
        form = formats.FP8_CHANNEL
    by_part: dict[str, WeightFormat] = {}
    if config.get("expert_dtype") == "fp4" or fields.raw.get("expert_dtype") == "fp4":
        nvidia = fields.text("moe_quant_algo").upper() == "NVFP4"
        by_part["experts"] = formats.NVFP4 if nvidia else formats.MXFP4
    ignored = ignored_names(fields, contains=True)
    if fields.raw.get("moe_quant_algo") is not None:
        ignored = Names(())  # the ignored modules of the experts' format keep 8 bits
    return make_scheme(
        fields,
        method,
        dtype,
        default=form,
        by_part=by_part,
        ignored=ignored,
    )


def _check_activations(fields: Fields, *, in_blocks: bool) -> None:
    """Refuse ways to quantize activations that engines do not have, or not with blocks of weights."""
    scheme = fields.text("activation_scheme", "dynamic")
    if scheme not in ("dynamic", "static"):
        raise one_of(fields, "activation_scheme", scheme, ("dynamic", "static"))
    if in_blocks and scheme == "static":
        raise InputError(
            f"{fields.where}: 'activation_scheme' static is not served with a 'weight_block_size'"
        )


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


def _compressed_tensors(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    groups = fields.section("config_groups")
    if groups is None or not groups.raw:
        raise InputError(f"{fields.where}: no 'config_groups': they say how many bits a weight has")
    sparsity = fields.section("sparsity_config")
    if sparsity is not None and sparsity.text("format", "dense") != "dense":
        raise InputError(f"{sparsity.where}: 'format': sparse weights are not supported")
    default: WeightFormat | None = None
    rules: list[tuple[Names, WeightFormat | None]] = []
    for name in groups.raw:
        group = groups.section(str(name))
        if group is None:
            continue
        if "24" in (group.text("format") or fields.text("format")):
            raise InputError(f"{fields.where}: 'format': sparse weights are not supported")
        form = _group_format(group, fields.text("format"))
        targets = group.words("targets") or ["Linear"]
        if any(target in ("Linear", "re:.*") for target in targets):
            default = form
        else:
            rules.append((names_of(targets, groups), form))
    ignored = ignored_names(fields)
    guarded = [(ignored, None), *rules] if rules else []
    return make_scheme(
        fields,
        method,
        dtype,
        default=default,
        parts=ALL_LINEAR | {"head"} if default is not None else frozenset(),
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
        form = formats.FP8_TENSOR if weights.text("strategy") == "tensor" else formats.FP8_CHANNEL
        if width is not None:
            form = formats.MXFP8 if width == 32 else replace(formats.FP8_CHANNEL, group=width)
        return form if group.raw.get("input_activations") else replace(form, float8=False)
    zero_point = weights.raw.get("symmetric") is False
    return formats.integers(bits, width, zero_point)


def _check_bits(fields: Fields, method: str, bits: float, known: tuple[int, ...]) -> None:
    """Refuse widths that the engines' kernels of a method do not hold."""
    if bits not in known:
        raise InputError(
            f"{fields.where}: {bits:g} bits per weight are not served: engines run {method} of "
            f"{' and '.join(map(str, known))} bits"
        )


def _awq(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    bits = stated_bits(fields, "bits", "w_bit", default=4)
    _check_bits(fields, "AWQ", bits, (4,))
    form = formats.integers(
        bits,
        stated_group(fields, "group_size", "q_group_size"),
        fields.flag("zero_point", True),
    )
    return make_scheme(
        fields, method, dtype, default=form, ignored=ignored_names(fields, contains=True)
    )


def _gptq(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    bits, group = stated_bits(fields, "bits", default=4), stated_group(fields, "group_size")
    floats = {"mx_fp": formats.MXFP4, "nv_fp": formats.NVFP4, "nv_fp4": formats.NVFP4}
    if bits == 4 and fields.text("data_type") in floats:  # AutoRound's formats of floats
        return make_scheme(
            fields,
            method,
            dtype,
            default=floats[fields.text("data_type")],
            ignored=ignored_names(fields),
        )
    _check_bits(fields, "GPTQ", bits, (4, 8))
    if method != "inc" and not fields.flag("sym", True):
        fields.told.append("'sym' is false: current engines refuse asymmetric GPTQ")
    parts = DECODER_PARTS | {"head"} if fields.flag("lm_head") else DECODER_PARTS
    return make_scheme(
        fields,
        method,
        dtype,
        default=formats.integers(bits, group, True, order=True),
        parts=parts,
        rules=_gptq_rules(fields, bits, group),
        ignored=ignored_names(fields, contains=True),
    )


def _gptq_rules(
    fields: Fields, bits: float, group: int | None
) -> tuple[tuple[Names, WeightFormat | None], ...]:
    """Return what modules have formats of their own, None for 16 bits: GPTQModel's and AutoRound's."""
    rules: list[tuple[Names, WeightFormat | None]] = []
    for key in ("dynamic", "extra_config"):
        section = fields.section(key)
        if section is None:
            continue
        for pattern, entry in section.raw.items():
            text = str(pattern)
            prefix = "" if key == "extra_config" else "re:"
            if text.startswith("-:"):
                rules.append((names_of([f"re:{text[2:]}"], fields), None))
            elif isinstance(entry, Mapping):
                own = Fields(entry, f"{fields.where}: {key}")
                own_bits = stated_bits(own, "bits", default=bits)
                chosen = (
                    None
                    if own_bits >= 16
                    else formats.integers(
                        own_bits, stated_group(own, "group_size", default=group), True, order=True
                    )
                )
                rules.append((names_of([prefix + text.removeprefix("+:")], fields), chosen))
    return tuple(rules)


def _bitsandbytes(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    skipped = names_of(fields.items("llm_int8_skip_modules") or [], fields, contains=True)
    if fields.flag("load_in_4bit"):
        scale = 8.25 if fields.flag("bnb_4bit_use_double_quant") else 32
        form = WeightFormat(name="nf4", bits=4 + scale / 64, group=None, scale_bits=0)
    elif fields.flag("load_in_8bit"):
        form = formats.INT8_CHANNEL
    else:
        raise InputError(f"{fields.where}: neither 'load_in_4bit' nor 'load_in_8bit' is true")
    return make_scheme(fields, method, dtype, default=form, parts=ALL_LINEAR, ignored=skipped)


def _mxfp4(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    """GPT-OSS: the experts alone are kept in 4 bits."""
    return make_scheme(fields, method, dtype, default=formats.MXFP4, parts=frozenset({"experts"}))


def _mxfp8(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    """MiniMax: 8-bit floats with a scale for each 32 of them."""
    return make_scheme(
        fields, method, dtype, default=formats.MXFP8, ignored=ignored_names(fields, contains=True)
    )


def _quark(fields: Fields, config: Section, method: str, dtype: str) -> Scheme:
    default = _quark_format(fields.section("global_quant_config"))
    rules: list[tuple[Names, WeightFormat | None]] = []
    layers = fields.section("layer_quant_config")
    if layers is not None:
        for name in layers.raw:
            entry = layers.section(str(name))
            rules.append((names_of([str(name)], fields), _quark_format(entry)))
    if default is None and not rules:
        raise InputError(f"{fields.where}: no 'global_quant_config': it says how weights are kept")
    ignored = ignored_names(fields)
    return make_scheme(
        fields,
        method,
        dtype,
        default=default,
        parts=ALL_LINEAR if default is not None else frozenset(),
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
    "modelopt": read_modelopt,
    "modelopt_fp4": read_modelopt,
    "modelopt_mxfp8": read_modelopt,
    "modelopt_mixed": read_modelopt,
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
    "mxfp8": _mxfp8,
    "torchao": read_torchao,
}
"""Name of a method → what reads its section: (section, config, method, dtype) → scheme."""
