"""Fields that a class reads otherwise than most do, and those that no model of its class can have."""

from __future__ import annotations

from typing import Any

import pytest

from melange_sky.errors import InputError
from melange_sky.models import read_layers
from tests.models.test_families import FAMILIES


def config_of(family: str) -> dict[str, Any]:
    return dict(next(f["config"] for f in FAMILIES if f["type"] == family))


@pytest.mark.parametrize("family", ["nemotron_h", "kimi_linear", "bailing_hybrid"])
def test_a_head_that_no_engine_ties_is_counted_whatever_the_config_says(family):
    tied, untied = (
        read_layers({**config_of(family), "tie_word_embeddings": word}) for word in (True, False)
    )
    assert tied.resident_parameters == untied.resident_parameters
    assert not tied.tied


def test_latent_attention_without_a_kernel_for_it_is_cached_head_by_head():
    """vLLM 0.32 of MiniCPM3: 40 heads of 96, values padded to the width of keys, in each layer."""
    layers = read_layers(config_of("minicpm3")).layers
    assert {layer.attention.kv_values for layer in layers} == {2 * 40 * 96}
    assert {layer.attention.kv_heads for layer in layers} == {40}


@pytest.mark.parametrize(
    "change", [{"num_attention_heads": 40}, {"head_dim": 64}, {"hidden_size": 5120}]
)
def test_heads_that_do_not_fill_a_square_output_are_refused(change):
    with pytest.raises(InputError, match=r"values each do not make 'hidden_size'"):
        read_layers({**config_of("helium"), **change})


def test_a_head_that_only_the_section_of_step_ties_is_told():
    config = config_of("step3p7")
    config.pop("tie_word_embeddings", None)
    text = {**config["text_config"], "tie_word_embeddings": True}
    layers = read_layers({**config, "text_config": text})
    assert [t for t in layers.warnings if "tie_word_embeddings" in t]


MOLMO = {
    "architectures": ["Molmo2ForConditionalGeneration"],
    "model_type": "molmo2",
    "text_config": {
        "model_type": "molmo2_text",
        "hidden_size": 4096,
        "num_hidden_layers": 8,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 12288,
        "vocab_size": 151936,
        "additional_vocab_size": 128,
        "max_position_embeddings": 36864,
    },
    "adapter_config": {
        "vit_layers": [-3, -9],
        "hidden_size": 1152,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 72,
        "intermediate_size": 12288,
        "text_hidden_size": 4096,
    },
    "vit_config": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 72,
        "image_default_input_size": [378, 378],
        "image_patch_size": 14,
        "image_num_pos": 729,
    },
}


def test_the_older_names_of_a_vision_section_are_read_and_its_idle_layers_left_out():
    older = read_layers(MOLMO)
    vision = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 25,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 72,
        "image_size": [378, 378],
        "patch_size": 14,
        "num_position_embeddings": 729,
    }
    adapter = {key: value for key, value in MOLMO["adapter_config"].items() if key != "vit_layers"}
    newer = {key: value for key, value in MOLMO.items() if key != "vit_config"}
    newer |= {
        "vision_config": vision,
        "adapter_config": {**adapter, "vision_feature_layer": [24, 18]},
    }
    assert older.warnings == read_layers(newer).warnings == ()
    assert older.resident_parameters == read_layers(newer).resident_parameters


@pytest.mark.parametrize("key", ["num_attention_heads", "num_key_value_heads", "head_dim"])
@pytest.mark.parametrize("section", ["vit_config", "adapter_config"])
def test_the_heads_of_a_tower_change_its_size(section, key):
    config = {**MOLMO, section: {**MOLMO[section], key: 2 * MOLMO[section][key]}}
    assert read_layers(config).resident_parameters > read_layers(MOLMO).resident_parameters


LING = {
    "architectures": ["BailingMoeV2ForCausalLM"],
    "model_type": "bailing_moe_v2",
    "hidden_size": 2048,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 5504,
    "vocab_size": 64000,
    "max_position_embeddings": 8192,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 704,
    "num_shared_experts": 2,
    "first_k_dense_replace": 1,
    "moe_router_enable_expert_bias": True,
    "use_qk_norm": True,
    "score_function": "sigmoid",
}


@pytest.mark.parametrize("width", [352, 704, 1408])
def test_shared_experts_are_as_wide_as_their_own_field_says(width):
    """vLLM 0.32: the stated width times the shared experts; without one, as wide as the others."""
    plain = read_layers(LING)
    stated = read_layers({**LING, "moe_shared_expert_intermediate_size": width})
    more = 5 * 2 * 3 * (width - 704) * 2048
    assert stated.resident_parameters - plain.resident_parameters == more
    assert plain.warnings == stated.warnings == ()


def test_the_shared_expert_of_hunyuan_is_as_wide_as_a_dense_layer():
    """735,702,528 values as transformers 5.24 and vLLM 0.32 build it."""
    config = {
        "architectures": ["HunYuanMoEV1ForCausalLM"],
        "model_type": "hunyuan_v1_moe",
        "hidden_size": 2048,
        "num_hidden_layers": 6,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 5504,
        "moe_intermediate_size": 704,
        "vocab_size": 64000,
        "max_position_embeddings": 8192,
        "num_experts": 8,
        "moe_topk": 2,
        "num_shared_expert": 1,
        "tie_word_embeddings": False,
    }
    assert read_layers(config).resident_parameters == 735_702_528


def test_the_state_of_lightning_attention_is_kept_in_the_type_of_the_model():
    """vLLM 0.32: 4 of 6 layers keep 16 heads of 128 by 128 values, 16 bits each."""
    ling = {
        **LING,
        "architectures": ["BailingMoeV2_5ForCausalLM"],
        "model_type": "bailing_moe_v2_5",
        "num_key_value_heads": 16,
        "q_lora_rank": 768,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "layer_group_size": 3,
        "linear_silu": True,
        "moe_shared_expert_intermediate_size": 704,
    }
    layers = read_layers(ling)
    assert layers.state_bytes_per_sequence == 4 * 16 * 128 * 128 * 2
    assert not [text for text in layers.warnings if "linear_silu" in text]


def test_a_count_of_attentions_that_contradicts_the_blocks_of_longcat_is_told():
    longcat = {
        **{key: LING[key] for key in ("hidden_size", "num_attention_heads", "vocab_size")},
        "architectures": ["LongcatFlashForCausalLM"],
        "model_type": "longcat_flash",
        "num_layers": 4,
        "ffn_hidden_size": 4096,
        "expert_ffn_hidden_size": 704,
        "n_routed_experts": 16,
        "zero_expert_num": 8,
        "zero_expert_type": "identity",
        "moe_topk": 4,
        "kv_lora_rank": 512,
        "q_lora_rank": 768,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "max_position_embeddings": 8192,
    }
    assert read_layers(longcat).warnings == ()
    assert read_layers({**longcat, "num_hidden_layers": 8}).warnings == ()
    (line,) = read_layers({**longcat, "num_hidden_layers": 4}).warnings
    assert "is not twice 'num_layers'" in line


def test_null_unties_a_head_as_false_does():
    config = config_of("gemma3")
    written = {**config, "transformers_version": "5.24.0"}
    null, false = (read_layers({**written, "tie_word_embeddings": v}) for v in (None, False))
    assert null.resident_parameters == false.resident_parameters
    assert not null.tied


def test_an_encoder_that_is_null_is_missed_where_its_class_always_has_one():
    config = next(f["config"] for f in FAMILIES if f["type"] == "qwen2_5_vl")
    thinker = {
        **config,
        "architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"],
        "model_type": "qwen2_5_omni_thinker",
        "audio_config": None,
    }
    assert "no 'audio_config': no encoder of audio is counted" in read_layers(thinker).warnings


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
@pytest.mark.parametrize("word", ["relu2", "gelu", "silu"])
def test_the_name_of_an_activation_takes_no_gate_away(family, word):
    config = config_of(family)
    changed = {**config, "hidden_act": word, "hidden_activation": word}
    assert read_layers(changed).resident_parameters == read_layers(config).resident_parameters


@pytest.mark.parametrize("family", ["deepseek_v3", "glm_moe_dsa", "gpt_oss"])
@pytest.mark.parametrize(("word", "told"), [(True, 1), (False, 0)])
def test_a_head_that_engines_hold_though_it_is_tied_is_told(family, word, told):
    """vLLM 0.32 builds it whatever the config says; `transformers` 5.24 does not."""
    layers = read_layers({**config_of(family), "tie_word_embeddings": word})
    assert len([t for t in layers.warnings if "hold an output head" in t]) == told


def test_a_head_that_only_the_outer_config_ties_is_told():
    config = config_of("qwen3_vl")
    text = {**config["text_config"], "tie_word_embeddings": False}
    layers = read_layers({**config, "tie_word_embeddings": True, "text_config": text})
    assert not layers.tied
    assert [t for t in layers.warnings if "engines go by the outer one and hold none" in t]


def test_heads_of_chatglm_make_its_width():
    glm = {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "num_layers": 6,
        "padded_vocab_size": 65024,
        "hidden_size": 2048,
        "ffn_hidden_size": 5504,
        "kv_channels": 128,
        "num_attention_heads": 16,
        "seq_length": 8192,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "add_qkv_bias": True,
    }
    assert read_layers(glm).kv_bytes_per_token == 6 * 2 * 2 * 128 * 2
    with pytest.raises(InputError, match="of 256 values each do not make 'hidden_size'"):
        read_layers({**glm, "kv_channels": 256})


def test_heads_of_linear_layers_that_an_engine_takes_from_the_attention_are_told():
    config = config_of("bailing_hybrid")
    plain = read_layers(config)
    assert plain.warnings == ()
    absent = {name: value for name, value in config.items() if name != "linear_num_heads"}
    assert read_layers(absent).state_bytes_per_sequence == plain.state_bytes_per_sequence
    (line,) = read_layers(
        {**config, "linear_num_heads": 2 * plain.layers[-1].attention.heads}
    ).warnings
    assert "'linear_num_heads'" in line
