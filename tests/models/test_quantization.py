"""Every form of a quantization section: the right bytes, or one line that names it."""

from __future__ import annotations

import pytest

from melange_sky.engines import engine_named
from melange_sky.errors import InputError
from melange_sky.models import Checkpoint, read_model, shape_from_config
from tests.models.test_cases import LLAMA_70B, MOE

ATTENTION = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024)
FEED_FORWARD = 80 * 3 * 8192 * 28672
LINEAR = ATTENTION + FEED_FORWARD
HEAD = 128256 * 8192
NORMS = (2 * 80 + 1) * 8192


def size(section: dict) -> float:
    config = {**LLAMA_70B, "quantization_config": section}
    return read_model(Checkpoint(name="m", config=config, where="config.json")).file_bytes


def grouped(bits: float, scale: float, group: int) -> float:
    """Bytes of a weight of `bits` whose groups have `scale` bits beside."""
    return (bits + scale / group) / 8


def group(bits: int, kind: str = "int", **more) -> dict:
    weights = {"num_bits": bits, "type": kind, "symmetric": True, **more}
    return {"group_0": {"targets": ["Linear"], "weights": weights}}


def compressed(groups: dict, **more) -> dict:
    return {
        "quant_method": "compressed-tensors",
        "config_groups": groups,
        "ignore": ["lm_head"],
        **more,
    }


def torchao(kind: str, **data) -> dict:
    entry = {"_type": kind, "_data": data, "_version": 1}
    return {"quant_method": "torchao", "quant_type": {"default": entry}}


MIXED = {
    "group_0": {"targets": ["re:.*self_attn.*"], "weights": {"num_bits": 8, "type": "float"}},
    "group_1": {
        "targets": ["re:.*mlp.*"],
        "weights": {"num_bits": 4, "type": "float", "group_size": 16},
        "format": "nvfp4-pack-quantized",
    },
}
BY_NAME = {
    "_default": {"_type": "Int8WeightOnlyConfig", "_data": {}},
    "re:.*self_attn.*": None,
}
PLAIN = 2 * (2 * HEAD + NORMS)
CASES = {
    "int4 packed": (
        compressed(group(4, group_size=128, strategy="group"), format="pack-quantized"),
        LINEAR * grouped(4, 16, 128) + PLAIN,
    ),
    "int4 packed, head too": (
        {**compressed(group(4, group_size=128), format="pack-quantized"), "ignore": []},
        (LINEAR + HEAD) * grouped(4, 16, 128) + PLAIN - 2 * HEAD,
    ),
    "int8": (compressed(group(8), format="int-quantized"), LINEAR + PLAIN),
    "float8": (compressed(group(8, "float"), format="float-quantized"), LINEAR + PLAIN),
    "nvfp4": (
        compressed(group(4, "float", group_size=16), format="nvfp4-pack-quantized"),
        LINEAR * grouped(4, 8, 16) + PLAIN,
    ),
    "mxfp4": (
        compressed(group(4, "float", group_size=32), format="mxfp4-pack-quantized"),
        LINEAR * grouped(4, 8, 32) + PLAIN,
    ),
    "mixed groups": (
        compressed(MIXED, format="mixed-precision"),
        ATTENTION + FEED_FORWARD * grouped(4, 8, 16) + PLAIN,
    ),
    "an expression in the ignore list": (
        {
            **compressed(group(8, "float")),
            "ignore": ["lm_head", r"re:model\.layers\.\d+\.self_attn\.[qkvo]_proj$"],
        },
        FEED_FORWARD + 2 * ATTENTION + PLAIN,
    ),
    "torchao int4": (
        torchao("Int4WeightOnlyConfig", group_size=64),
        LINEAR * grouped(4, 32, 64) + PLAIN,
    ),
    "torchao, in words": (
        {
            "quant_method": "torchao",
            "quant_type": "int4_weight_only",
            "quant_type_kwargs": {"group_size": 128},
        },
        LINEAR * grouped(4, 32, 128) + PLAIN,
    ),
    "torchao int4 kept in 8 bits": (
        torchao("Int8DynamicActivationInt4WeightConfig"),
        LINEAR * grouped(8, 16, 32) + PLAIN,
    ),
    "torchao float8": (
        torchao("Float8DynamicActivationFloat8WeightConfig"),
        LINEAR + PLAIN,
    ),
    "torchao by name": (
        torchao("FqnToConfig", fqn_to_config=BY_NAME),
        FEED_FORWARD + 2 * ATTENTION + PLAIN,
    ),
    "mxfp8": (
        {"quant_method": "mxfp8", "ignored_layers": ["lm_head"]},
        LINEAR * grouped(8, 8, 32) + PLAIN,
    ),
    "compressed-tensors mxfp8": (
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": 8,
                        "type": "float",
                        "strategy": "group",
                        "group_size": 32,
                    },
                }
            },
            "ignore": ["lm_head"],
        },
        LINEAR * grouped(8, 8, 32) + PLAIN,
    ),
    "gptq by layers": (
        {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": 128,
            "dynamic": {r"-:.*self_attn.*": {}, r"+:.*down_proj.*": {"bits": 8, "group_size": 64}},
        },
        FEED_FORWARD / 3 * (2 * grouped(4, 20, 128) + grouped(8, 24, 64)) + 2 * ATTENTION + PLAIN,
    ),
    "auto-round in floats": (
        {"quant_method": "auto-round", "bits": 4, "group_size": 32, "data_type": "mx_fp"},
        LINEAR * grouped(4, 8, 32) + PLAIN,
    ),
    "awq, some layers left": (
        {
            "quant_method": "awq",
            "bits": 4,
            "group_size": 128,
            "zero_point": True,
            "modules_to_not_convert": ["self_attn"],
        },
        FEED_FORWARD * grouped(4, 20, 128) + 2 * ATTENTION + PLAIN,
    ),
    "quark": (
        {
            "quant_method": "quark",
            "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}},
            "exclude": ["lm_head"],
        },
        LINEAR + PLAIN,
    ),
    "bitsandbytes": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        LINEAR + PLAIN,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bytes_by_hand(case):
    section, expected = CASES[case]
    assert size(section) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("activations", [None, {"num_bits": 8, "type": "float", "dynamic": True}])
def test_products_run_in_8_bits_only_where_activations_do(activations):
    groups = group(8, "float")
    groups["group_0"]["input_activations"] = activations
    shape = shape_from_config("m", {**LLAMA_70B, "quantization_config": compressed(groups)})
    assert shape.fp8_compute is (activations is not None)


def test_mxfp4_is_of_the_experts_alone():
    config = {**MOE, "quantization_config": {"quant_method": "mxfp4"}}
    read = read_model(Checkpoint(name="m", config=config, where="config.json"))
    experts = read.layers.expert_parameters
    rest = read.layers.parameters - experts
    assert read.file_bytes == pytest.approx(experts * grouped(4, 8, 32) + 2 * rest)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"quant_method": "hqq", "quant_config": {}},
            "quantization_config.quant_method: 'hqq' is a method that no engine here serves",
        ),
        ({"quant_method": "aqlm"}, "'aqlm' is a method that no engine here serves"),
        ({"group_size": 64, "bits": 4}, "no 'quant_method', as in checkpoints for MLX"),
        ({"quant_method": "brand-new"}, "unknown quantization 'brand-new'"),
        (torchao("UIntXWeightOnlyConfig"), "TorchAO's 'UIntXWeightOnlyConfig' is not supported"),
        (torchao("FqnToConfig"), "no 'fqn_to_config'"),
        (
            {**torchao("Int8WeightOnlyConfig"), "include_input_output_embeddings": True},
            "'include_input_output_embeddings': quantized embeddings are not supported",
        ),
        (
            {**compressed(group(4)), "sparsity_config": {"format": "sparse-24-bitmask"}},
            "sparsity_config: 'format': sparse weights are not supported",
        ),
        (
            {**compressed(group(4)), "ignore": ["re:(a+)+$"]},
            r"'re:\(a\+\)\+\$' names modules in a way that is not supported",
        ),
        (
            {**compressed(group(4)), "ignore": ["re:["]},
            "names modules in a way that is not supported",
        ),
        (
            {**compressed(group(4)), "ignore": [7]},
            "'7' names modules in a way that is not supported",
        ),
        ({"quant_method": "bitsandbytes"}, "neither 'load_in_4bit' nor 'load_in_8bit' is true"),
    ],
)
def test_what_is_not_read_is_named(section, message):
    with pytest.raises(InputError, match=message) as caught:
        size(section)
    assert "\n" not in str(caught.value)


def test_vllm_does_not_serve_bitsandbytes():
    section = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    shape = shape_from_config("m", {**LLAMA_70B, "quantization_config": section})
    with pytest.raises(
        InputError, match=r"vLLM cannot serve this checkpoint, .* kept as bitsandbytes"
    ):
        engine_named("vllm").held(shape, ())
