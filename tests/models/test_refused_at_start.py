"""Configs that an engine refuses when it starts: refused here too, or told, in one line that names the field.

What vLLM 0.32 says of each was asked of its `ModelConfig`.
"""

from __future__ import annotations

import pytest

from melange_sky.errors import InputError
from melange_sky.models import Checkpoint, ReadModel, read_model
from tests.factories import LLAMA_CONFIG

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}


def read(**over: object) -> ReadModel:
    config = {k: v for k, v in {**LLAMA_CONFIG, **over}.items() if v != "absent"}
    return read_model(Checkpoint(name="org/m", config=config, where="config.json"))


REFUSED = [
    ({"architectures": "LlamaForCausalLM"}, "'architectures' must be a list"),
    ({"architectures": [3]}, "'architectures' must be a list"),
    ({"architectures": ["LlamaForCausalLM", None]}, "'architectures' must be a list"),
    (
        {"rope_scaling": {"rope_type": "magic", "factor": 4.0}},
        "'rope_scaling.rope_type' holds 'magic'",
    ),
    ({"rope_scaling": {"rope_type": "linaer", "factor": 4.0}}, "did you mean 'linear'"),
    ({"rope_scaling": {"rope_type": "linear"}}, "'rope_scaling' of type linear has no 'factor'"),
    ({"rope_scaling": {"type": "dynamic"}}, "of type dynamic has no 'factor'"),
    ({"rope_scaling": {"rope_type": "yarn"}}, "of type yarn has no 'factor'"),
    ({"rope_scaling": {"rope_type": ["linear"]}}, "'rope_scaling.rope_type' must be text"),
    ({"rope_scaling": {"rope_type": "linear", "factor": "4"}}, "'rope_scaling.factor' must be"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "'rope_scaling.factor' must be"),
    ({"rope_scaling": {"rope_type": "linear", "factor": -2.0}}, "'rope_scaling.factor' must be"),
    ({"rope_scaling": {"rope_type": "linear", "factor": float("nan")}}, "'rope_scaling.factor'"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 1e9}}, "the rotary 'factor' 1e+09"),
    ({"rope_scaling": [4.0]}, "'rope_scaling' must be a mapping"),
    ({"rope_parameters": "linear"}, "'rope_parameters' must be a mapping"),
    ({"num_attention_heads": 0}, "'num_attention_heads' must be a whole number"),
    ({"num_key_value_heads": 0}, "'num_key_value_heads' must be a whole number"),
    ({"num_key_value_heads": -1}, "'num_key_value_heads' must be a whole number"),
    ({"num_key_value_heads": 6}, "num_attention_heads (32) is not a multiple"),
    ({"head_dim": -4}, "'head_dim' must be a whole number"),
    ({"hidden_size": 0}, "'hidden_size' must be a whole number"),
    ({"vocab_size": -5}, "'vocab_size' must be a whole number"),
    ({"max_position_embeddings": 0}, "'max_position_embeddings' must be a whole number"),
    ({"max_position_embeddings": "4096"}, "'max_position_embeddings' must be a whole number"),
    (
        {"quantization_config": {**GPTQ, "group_size": 96}},
        "the 4096 inputs of self_attn.q_proj are no whole number of groups of 96",
    ),
    (
        {"quantization_config": {**FP8, "activation_scheme": "magic"}},
        "'activation_scheme' holds 'magic'",
    ),
    (
        {
            "quantization_config": {
                **FP8,
                "activation_scheme": "static",
                "weight_block_size": [128, 128],
            }
        },
        "'activation_scheme' static is not served with a 'weight_block_size'",
    ),
]


@pytest.mark.parametrize(("over", "told"), REFUSED, ids=[row[1] for row in REFUSED])
def test_what_no_engine_starts_is_refused_by_the_fields_name(over, told):
    with pytest.raises(InputError) as refused:
        read(**over)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


TOLD = [
    ({"architectures": []}, "'architectures' is empty: read as LlamaForCausalLM"),
    ({"architectures": None}, "'architectures' is empty"),
    ({"model_type": "absent"}, "no 'model_type'"),
    ({"max_position_embeddings": "absent"}, "no 'max_position_embeddings': a context of 2048"),
    ({"max_position_embeddings": None}, "no 'max_position_embeddings'"),
    ({"model_max_length": 524288}, "'model_max_length' (524288) exceeds"),
    ({"hidden_size": 4100}, "'hidden_size' (4100) is not a multiple of 'num_attention_heads'"),
    (
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        "has no 'low_freq_factor' and 'high_freq_factor'",
    ),
    ({"rope_scaling": {"type": "longrope"}}, "has no 'short_factor' and 'long_factor'"),
    ({"quantization_config": {**GPTQ, "sym": False}}, "'sym' is false"),
]


@pytest.mark.parametrize(("over", "told"), TOLD, ids=[row[1] for row in TOLD])
def test_what_is_assumed_is_told_with_the_plan(over, told):
    model = read(**over)
    (line,) = [text for text in model.warnings if told in text]
    assert line in model.shape.notes


def test_a_context_that_is_not_stated_is_that_of_the_class():
    model = read(
        model_type="qwen2", architectures=["Qwen2ForCausalLM"], max_position_embeddings="absent"
    )
    assert model.shape.context_tokens == 32768
    (line,) = model.warnings
    assert line.startswith("no 'max_position_embeddings': a context of 32768 tokens is assumed")


@pytest.mark.parametrize(
    ("over", "tokens"),
    [
        (
            {"rope_scaling": {"factor": 4.0}},
            4 * 131072,
        ),  # no kind: as the default one with a factor
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, 65536),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, 131072),
        ({"rope_scaling": {}}, 131072),
    ],
)
def test_odd_rotary_settings_that_engines_take(over, tokens):
    model = read(**over)
    assert model.shape.context_tokens == tokens
    assert model.warnings == ()


def test_the_first_architecture_that_is_supported_is_taken_as_engines_do():
    model = read(architectures=["OwnForCausalLM", "LlamaForCausalLM"])
    assert model.layers.architecture == "LlamaForCausalLM"
    with pytest.raises(InputError, match="architecture 'OwnForCausalLM' is not a supported model"):
        read(architectures=["OwnForCausalLM", "OtherForCausalLM"])


def test_an_empty_section_of_quantization_is_none():
    assert read(quantization_config={}).scheme.method == ""
