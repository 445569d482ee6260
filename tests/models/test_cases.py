"""Public cases: what others read wrongly, and what is right."""

from __future__ import annotations

import copy

import pytest

from melange_sky.engines import engine_named
from melange_sky.errors import InputError
from melange_sky.models import Checkpoint, find_model, read_layers, read_model, shape_from_config

HYBRID = {
    "model_type": "qwen3_5",
    "text_config": {
        "model_type": "qwen3_5_text",
        "hidden_size": 5120,
        "intermediate_size": 17408,
        "num_hidden_layers": 64,
        "num_attention_heads": 24,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 16,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 48,
        "linear_value_head_dim": 128,
        "attn_output_gate": True,
        "max_position_embeddings": 262144,
        "vocab_size": 248320,
        "dtype": "bfloat16",
    },
    "tie_word_embeddings": False,
}
SCOUT = {
    "model_type": "llama4",
    "text_config": {
        "model_type": "llama4_text",
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_local_experts": 16,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 1,
        "attention_chunk_size": 8192,
        "max_position_embeddings": 1048576,
        "vocab_size": 202048,
    },
}
MOE = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_hidden_layers": 40,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 262144,
    "vocab_size": 248320,
    "tie_word_embeddings": False,
}
FALCON = {
    "model_type": "falcon",
    "hidden_size": 8192,
    "num_hidden_layers": 60,
    "num_attention_heads": 128,
    "vocab_size": 65024,
    "multi_query": True,
    "new_decoder_architecture": True,
    "parallel_attn": True,
    "bias": False,
    "alibi": False,
}
LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def weights(config: dict, side_file: dict | None = None) -> float:
    checkpoint = Checkpoint(name="m", config=config, side_file=side_file, where="config.json")
    return read_model(checkpoint).file_bytes


def test_linear_layers_have_no_cache():
    layers = read_layers(HYBRID)
    assert layers.kv_bytes_per_token == 64 * 1024
    assert layers.parameters == pytest.approx(26.9e9, rel=0.01)
    assert layers.kinds() == [("linear attention + dense", 48), ("full attention + dense", 16)]
    # 48 layers: 3 conv inputs of 10240 values, 48 heads of 128 × 128, all in 16 bits
    assert layers.state_bytes_per_sequence == 48 * 2 * (3 * 10240 + 48 * 128 * 128)


def test_sizes_of_layers_that_a_model_has_not_change_nothing():
    text = HYBRID["text_config"]
    plain = {k: v for k, v in text.items() if k != "layer_types"}
    plain |= {"model_type": "qwen3", "num_hidden_layers": 16, "tie_word_embeddings": False}
    assert read_layers(plain).kv_bytes_per_token == 64 * 1024


def test_the_type_of_the_state_is_read():
    config = copy.deepcopy(HYBRID)
    config["text_config"]["mamba_ssm_dtype"] = "float32"
    assert read_layers(config).state_bytes_per_sequence == 48 * (2 * 3 * 10240 + 4 * 48 * 128 * 128)


@pytest.mark.parametrize(
    ("experts", "step", "billions"), [(16, 1, 107.8), (128, 2, 400.7)], ids=["scout", "maverick"]
)
def test_interleaved_experts(experts, step, billions):
    config = copy.deepcopy(SCOUT)
    config["text_config"] |= {"num_local_experts": experts, "interleave_moe_layer_step": step}
    layers = read_layers(config)
    assert layers.parameters / 1e9 == pytest.approx(billions, abs=0.1)
    assert layers.active_parameters / 1e9 == pytest.approx(17.2, abs=0.1)
    # every 4th layer has no rotary embedding and attends to everything
    assert layers.kv_bytes_per_token == 12 * 2 * 8 * 128 * 2


SECTION = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4,
                "type": "int",
                "group_size": 32,
                "strategy": "group",
                "symmetric": True,
            },
        }
    },
    "ignore": [
        "lm_head",
        "re:.*self_attn.*",
        "re:.*shared_experts.*",
        "re:.*mlp\\.(gate|up|gate_up|down)_proj.*",
    ],
}


def test_a_quantization_section_within_the_text_config():
    text = {
        "model_type": "kimi_k2",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 61,
        "num_attention_heads": 64,
        "num_key_value_heads": 64,
        "n_routed_experts": 384,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "max_position_embeddings": 262144,
        "vocab_size": 163840,
        "tie_word_embeddings": False,
    }
    flat = weights({**text, "quantization_config": SECTION})
    nested = weights(
        {"model_type": "kimi_k25", "text_config": {**text, "quantization_config": SECTION}}
    )
    assert nested == flat
    assert flat / 1e9 == pytest.approx(593.6, abs=1.0)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_experts_per_tok": None, "top_k_experts": 8},
        {"num_experts_per_tok": None, "num_experts_per_token": 8},
        {"intermediate_size": None},
    ],
)
def test_experts_under_every_name(change):
    layers = read_layers({k: v for k, v in {**MOE, **change}.items() if v is not None})
    # 40 × (256 × 3 × 2048 × 512 + shared, router, attention) + two tables of 248320 × 2048
    assert layers.parameters / 1e9 == pytest.approx(34.13, abs=0.01)
    assert layers.layers[0].feed_forward.experts_per_token == 8


def test_a_list_says_which_layers_have_experts():
    layers = read_layers({**MOE, "moe_layer_freq": [0] + [1] * 39})
    assert [layer.feed_forward.kind for layer in layers.layers[:2]] == ["dense", "moe"]


@pytest.mark.parametrize("key", ["num_kv_heads", "n_head_kv"])
def test_falcons_new_form_ignores_multi_query(key):
    assert read_layers({**FALCON, key: 8}).kv_bytes_per_token == 60 * 2 * 8 * 64 * 2


def test_falcons_old_form_has_one_key_head():
    old = {**FALCON, "new_decoder_architecture": False}
    assert read_layers(old).kv_bytes_per_token == 60 * 2 * 64 * 2


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        ({}, 4096),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}, "max_sequence_length": 16384}, 16384),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 8192),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 4096),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 4096),
        ({"rope_scaling": {"type": "longrope", "factor": 32.0}}, 4096),
        ({"rope_scaling": {"type": "linear", "factor": None}}, 4096),
        ({"model_max_length": 131072}, 131072),
        ({"seq_length": 2048}, 2048),
    ],
)
def test_the_context_is_the_one_that_vllm_derives(more, tokens):
    config = {**LLAMA_70B, "max_position_embeddings": 4096, **more}
    assert read_layers(config).context_tokens == tokens


def test_a_feed_forward_of_two_matrices():
    minitron = {
        "model_type": "nemotron",
        "hidden_size": 3072,
        "intermediate_size": 9216,
        "num_hidden_layers": 32,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 256000,
        "max_position_embeddings": 4096,
        "hidden_act": "relu2",
        "tie_word_embeddings": False,
    }
    assert read_layers(minitron).parameters == pytest.approx(4.19e9, rel=0.002)


FP8_GROUP = {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}


@pytest.mark.parametrize(
    ("section", "side_file", "gigabytes"),
    [
        (
            None,
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}},
            72.7,
        ),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}, None, 72.7),
        (
            {
                "config_groups": FP8_GROUP,
                "ignore": ["lm_head"],
                "quant_algo": "FP8",
                "producer": {"name": "modelopt"},
            },
            None,
            72.7,
        ),
        (
            {
                "quant_method": "compressed_tensors",
                "config_groups": FP8_GROUP,
                "ignore": ["lm_head"],
            },
            None,
            72.7,
        ),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}, None, 42.7),
    ],
    ids=["legacy", "with-method", "no-method", "underscore", "nvfp4"],
)
def test_every_form_of_a_quantization_section(section, side_file, gigabytes):
    config = LLAMA_70B if section is None else {**LLAMA_70B, "quantization_config": section}
    assert weights(config, side_file) / 1e9 == pytest.approx(gigabytes, abs=0.2)


def test_a_compression_config():
    section = {
        "quant_method": "compressed-tensors",
        "config_groups": FP8_GROUP,
        "ignore": ["lm_head"],
    }
    assert weights({**LLAMA_70B, "compression_config": section}) / 1e9 == pytest.approx(
        72.7, abs=0.2
    )


def test_the_vision_tower_counts():
    config = {
        "model_type": "qwen3_vl",
        "text_config": {
            "model_type": "qwen3_vl_text",
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 262144,
            "tie_word_embeddings": True,
        },
        "vision_config": {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        "tie_word_embeddings": True,
    }
    layers = read_layers(config)
    assert layers.parameters == 2_127_532_032
    assert layers.active_parameters == 1_720_574_976


AWQ_72B = {
    "model_type": "qwen2",
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "quantization_config": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 128,
        "zero_point": True,
        "version": "gemm",
    },
}


@pytest.mark.parametrize(("width", "splits"), [(29568, []), (29696, [2, 4, 8])])
def test_a_split_never_tears_a_group(width, splits):
    shape = shape_from_config("m", {**AWQ_72B, "intermediate_size": width})
    assert [tp for tp in (2, 4, 8) if shape.splits_over(tp)] == splits
    assert shape.splits_over(1)


@pytest.mark.parametrize(("width", "splits"), [(11008, [2]), (14336, [2, 4, 8])])
def test_a_split_never_tears_a_block(width, splits):
    """vLLM: 'output_partition_size is not divisible by weight quantization block_n'."""
    config = {
        **LLAMA_70B,
        "intermediate_size": width,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    }
    shape = shape_from_config("m", config)
    assert [tp for tp in (2, 4, 8) if shape.splits_over(tp)] == splits


def test_blocks_of_experts_are_refined_but_groups_are_not():
    moe = {
        **MOE,
        "moe_intermediate_size": 768,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    }
    fp8 = shape_from_config(
        "m",
        {**moe, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
    )
    awq = shape_from_config("m", {**moe, "quantization_config": AWQ_72B["quantization_config"]})
    assert fp8.splits_over(4)
    assert [tp for tp in (2, 4, 8) if awq.splits_over(tp)] == [2]


def test_a_family_that_vllm_refuses_in_float16_is_told_apart():
    assert find_model("google/gemma-2-9b").no_float16
    assert not find_model("meta-llama/Llama-3.1-8B").no_float16


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 768},
            "this is an encoder (BertModel), not a decoder-only transformer: nothing to decode",
        ),
        (
            {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
            "this is an encoder-decoder model (T5ForConditionalGeneration), not a decoder-only transformer",
        ),
        (
            {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"},
            "this is a speech model (WhisperForConditionalGeneration), not a decoder-only transformer",
        ),
        (
            {"_class_name": "FluxTransformer2DModel", "_diffusers_version": "0.30"},
            "this is a diffusion model (FluxTransformer2DModel), not a decoder-only transformer",
        ),
        (
            {"architectures": ["Qwen2ForRewardModel"], "model_type": "qwen2"},
            "this is a reward model (Qwen2ForRewardModel), not a decoder-only transformer",
        ),
        (
            {"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"},
            "this is a classifier (LlamaForSequenceClassification), not a decoder-only transformer",
        ),
        (
            {"architectures": ["EagleLlamaForCausalLM"], "model_type": "eagle"},
            "this is a draft model (EagleLlamaForCausalLM), not a decoder-only transformer",
        ),
        (
            {**LLAMA_70B, "architectures": ["SomethingNewForCausalLM"]},
            "architecture 'SomethingNewForCausalLM' is not a supported model, so it cannot be sized",
        ),
        (
            {**LLAMA_70B, "model_type": "brand_new"},
            "model type 'brand_new' is not a supported model, so it cannot be sized",
        ),
        (
            {**LLAMA_70B, "num_memory_layers": 3},
            "'num_memory_layers' may change the model's structure and is not supported for llama",
        ),
        (
            {**LLAMA_70B, "layer_types": ["full_attention"] * 79 + ["retention"]},
            "'layer_types' holds 'retention', an unsupported kind of layer",
        ),
        (
            {**LLAMA_70B, "layer_types": ["full_attention"]},
            "'layer_types' has 1 entries for 80 layers",
        ),
        (
            {**LLAMA_70B, "num_hidden_layers": 10**6},
            "'num_hidden_layers' is 1000000; no model has more than 2000",
        ),
        (
            {**LLAMA_70B, "quantization_config": {"quant_method": "modelopt", "quant_algo": "FP3"}},
            "quantization_config: 'quant_algo': unknown algorithm 'FP3'",
        ),
        (
            {**LLAMA_70B, "quantization_config": {"quant_method": "compressed-tensors"}},
            "quantization_config: no 'config_groups': they say how many bits a weight has",
        ),
    ],
)
def test_what_cannot_be_sized_is_refused_in_one_line(config, message):
    with pytest.raises(InputError) as refused:
        shape_from_config("m", config)
    text = str(refused.value)
    assert message in text
    assert "\n" not in text


def test_an_unknown_harmless_field_only_warns():
    layers = read_layers({**LLAMA_70B, "flavour": "vanilla"})
    assert layers.warnings == ("unknown fields, assumed to change no size: flavour",)


TIED_TWICE = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "model_type": "qwen3_vl",
    "tie_word_embeddings": False,
    "text_config": {
        **LLAMA_70B,
        "model_type": "qwen3_vl_text",
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
}


@pytest.mark.parametrize(("version", "tied"), [("4.57.1", True), ("5.2.0", False), (None, True)])
def test_a_head_stated_twice_is_as_the_writer_took_it(version, tied):
    layers = read_layers({**TIED_TWICE, "transformers_version": version})
    assert layers.tied is tied
    assert any("'tie_word_embeddings' is stated twice" in text for text in layers.assumptions)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"vision_config": {"hidden_size": 1792, "num_hidden_layers": 63}}, "vision_config"),
        ({"audio_encoder_params": {"d_model": 512, "encoder_layers": 6}}, "audio_encoder_params"),
        ({"layer_pattern": "MMAM"}, "layer_pattern"),
        ({"ffn_expansion_ratio": 2.67}, "ffn_expansion_ratio"),
        ({"mixer_type": "hyena"}, "mixer_type"),
    ],
)
def test_what_shapes_a_model_and_is_not_read_is_refused(more, field):
    with pytest.raises(InputError, match=f"'{field}' may change the model's structure"):
        read_layers({**LLAMA_70B, **more})


QWEN = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"quant_method": "awq", "bits": 3, "group_size": 128}, "engines run AWQ of 4 bits"),
        (
            {"quant_method": "gptq", "bits": 3, "group_size": 128},
            "engines run GPTQ of 4 and 8 bits",
        ),
    ],
)
def test_widths_that_no_kernel_holds_are_refused(section: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        shape_from_config("m", {**QWEN, "quantization_config": section})


def test_bitsandbytes_is_refused_by_the_engine_that_lost_it() -> None:
    section = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    shape = shape_from_config("m", {**QWEN, "quantization_config": section})
    with pytest.raises(
        InputError, match="cannot serve this checkpoint, whose weights are kept as bits"
    ):
        engine_named("vllm").held(shape, ())
    assert engine_named("sglang").held(shape, ()) == shape


def test_no_escape_of_a_foreign_file_reaches_the_terminal() -> None:
    with pytest.raises(InputError) as error:
        shape_from_config("m", {**QWEN, "architectures": ["Foo\nbar\x1b[31m"]})
    assert str(error.value).isprintable()
