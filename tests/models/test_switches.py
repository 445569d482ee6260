"""Fields that say no more than yes, one or none: read, told or known to change nothing, never passed in silence."""

from __future__ import annotations

import pytest

from melange_sky.errors import InputError
from melange_sky.models import read_layers
from tests.models.test_cases import LLAMA_70B, TIED_TWICE
from tests.models.test_families import FAMILIES, VARIED
from tests.models.test_goldens import GOLDENS, checkpoint

STRUCTURAL = [
    "use_shared_expert",
    "enable_moe",
    "is_moe",
    "use_gqa",
    "use_mla",
    "use_mamba",
    "hybrid",
    "use_linear_attention",
    "use_adapter",
    "share_kv",
    "cross_layer_kv_sharing",
    "tie_layers",
    "recurrent",
    "gated_attention",
    "attn_output_gate",
    "has_vision",
    "use_audio_tower",
    "use_parallel_ffn",
    "factorized_embeddings",
    "use_short_conv",
    "dense_residual",
    "differential_attention",
    "use_double_wide_mlp",
]


@pytest.mark.parametrize("name", STRUCTURAL)
def test_a_switch_that_nothing_reads_is_told_and_widens_the_band(name):
    layers = read_layers({**LLAMA_70B, name: True})
    assert layers.warnings == (f"fields that may change the structure and are not read: {name}",)
    assert layers.doubtful


@pytest.mark.parametrize("value", [False, None, 0, [], {}])
def test_a_switch_that_is_off_changes_nothing(value):
    layers = read_layers({**LLAMA_70B, "use_shared_expert": value})
    assert layers.warnings == ()
    assert not layers.doubtful


def test_one_part_that_nothing_reads_is_told():
    layers = read_layers({**LLAMA_70B, "num_memory_blocks": 1})
    assert layers.warnings == (
        "fields that may change the structure and are not read: num_memory_blocks",
    )


def test_a_switch_of_no_known_kind_is_told_as_unknown():
    layers = read_layers({**LLAMA_70B, "use_zeppelin": True})
    assert layers.warnings == ("unknown fields, assumed to change no size: use_zeppelin",)
    assert not layers.doubtful


HARMLESS = [
    "block_use_swiglu",
    "block_use_xavier_init",
    "conv_use_xavier_init",
    "use_pos_enc",
    "do_image_splitting",
    "use_image_special_tokens",
    "use_thumbnail",
    "mtp_share_layers",
    "masked_softmax_fusion",
    "apply_residual_connection_post_layernorm",
    "skip_bias_add",
    "attention_softmax_in_fp32",
    "apply_query_key_layer_scaling",
    "bias_dropout_fusion",
    "fp32_residual_connection",
    "original_rope",
    "post_layer_norm",
    "rmsnorm",
    "use_dynamic_ntk",
    "use_logn_attn",
    "use_flash_attn",
    "bf16",
    "fp16",
    "scale_attn_weights",
    "onnx_safe",
    "no_bias",
    "bias",
    "slice_mode",
    "batch_vision_input",
    "use_image_id",
    "norm_topk_prob",
    "seq_aux",
    "use_mamba_kernels",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "calc_logits_for_entire_prompt",
    "use_rotary_pos_emb",
    "enable_lm_head_fp32",
    "use_qk_norm",
    "moe_use_aux_free",
    "moe_norm_gate_logits",
    "enable_delay_scale_loss",
    "rope_3d",
    "fuse_rms_norm",
    "weight_share_add_bias",
    "token_balance_loss",
    "need_fp32_gate",
    "attn_temperature_tuning",
    "use_parallel_block",
    "use_parallel_embedding",
    "dynamic_image_size",
    "attention_layer_norm",
    "use_position_ids",
    "float32_attention",
    "mla_scale_q_lora",
    "mla_scale_kv_lora",
    "moe_router_enable_expert_bias",
    "mup_use_scaling",
    "pre_allocate_kv_cache",
    "validate_runner_input",
    "flash_attn",
    "training_softmax_in_fp32",
    "use_moe_router_bias",
    "mla_use_nope",
    "moe_renormalize",
    "use_grouped_topk",
    "return_dict",
    "use_cache",
    "rope_interleave",
    "indexer_rope_interleave",
    "use_routing_bias",
    "use_gemma_norm",
    "use_unified_vision_chunk",
    "multimodal_projector_bias",
    "use_mem_rope",
    "use_xavier_init",
    "clip_qkv_enabled",
    "do_sample",
    "early_stopping",
    "verbose",
    "tie_encoder_decoder",
    "qk_layernorm",
    "qkv_bias",
    "attention_bias",
    "mlp_bias",
    "scale_attn_by_inverse_layer_idx",
]
"""What published configs hold as true: InternVL, Bloom, ChatGLM, Qwen, Ernie, Hunyuan, Cohere, LFM2, Kimi and others."""


@pytest.mark.parametrize("name", HARMLESS)
def test_what_adds_no_part_is_not_told(name):
    assert read_layers({**LLAMA_70B, name: True}).warnings == ()


REAL = [
    *((golden["name"], checkpoint(golden).config) for golden in GOLDENS),
    *((family["type"], family["config"]) for family in FAMILIES),
    *((model["architecture"], model["config"]) for model in VARIED),
]


@pytest.mark.parametrize(("name", "config"), REAL, ids=[name for name, _ in REAL])
def test_no_real_config_is_told_of_fields_or_doubted(name, config):
    layers = read_layers(config)
    assert not [text for text in layers.warnings if "are not read" in text]
    assert not layers.doubtful


GEMMA = next(f["config"] for f in FAMILIES if f["type"] == "gemma4_text")


@pytest.mark.parametrize(("switch", "experts"), [(False, 8), (True, None)])
def test_a_switch_of_experts_that_contradicts_their_number_is_refused(switch, experts):
    """`transformers` goes by the switch, vLLM by the number."""
    config = {**GEMMA, "enable_moe_block": switch, "num_experts": experts, "top_k_experts": 2}
    with pytest.raises(InputError, match=r"'enable_moe_block' .* contradicts 'num_experts'"):
        read_layers({**config, "moe_intermediate_size": 64})


def test_a_switch_of_experts_that_agrees_with_their_number_is_followed():
    more = {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 64}
    with_experts = read_layers({**GEMMA, **more, "enable_moe_block": True})
    without = read_layers({**GEMMA, "enable_moe_block": False})
    assert with_experts.resident_parameters > without.resident_parameters
    assert with_experts.warnings == without.warnings == ()


def test_a_head_that_engines_would_seek_in_vain_is_told():
    """Written by `transformers` 4 as its section says; engines go by the outer config, as 5 does."""
    (line,) = [t for t in read_layers(TIED_TWICE).warnings if "tie_word_embeddings" in t]
    assert "engines go by the outer one and may find no output head" in line
    for agreed in (True, False):
        text = {**TIED_TWICE["text_config"], "tie_word_embeddings": agreed}
        layers = read_layers({**TIED_TWICE, "tie_word_embeddings": agreed, "text_config": text})
        assert not [t for t in layers.warnings if "tie_word_embeddings" in t]


@pytest.mark.parametrize(("section", "told"), [(True, 1), (False, 0)])
def test_a_class_that_ties_no_head_of_its_own_is_told_where_only_the_section_ties_it(section, told):
    config = next(f["config"] for f in FAMILIES if f["type"] == "llama4")
    text = {**config["text_config"], "tie_word_embeddings": section}
    outer = {key: value for key, value in config.items() if key != "tie_word_embeddings"}
    layers = read_layers({**outer, "text_config": text})
    assert layers.tied is section
    assert len([t for t in layers.warnings if "false by the outer config's class" in t]) == told


def test_some_classes_tie_the_head_where_either_config_says_so():
    family = next(f["config"] for f in FAMILIES if f["type"] == "llava")
    text = {**family["text_config"], "tie_word_embeddings": True}
    layers = read_layers({**family, "tie_word_embeddings": False, "text_config": text})
    assert layers.tied
    plain = read_layers({**family, "tie_word_embeddings": False})
    head = plain.vocabulary * plain.hidden_size
    assert plain.resident_parameters - layers.resident_parameters == head


@pytest.mark.parametrize("gate", [True, False])
def test_a_gate_on_the_heads_that_a_config_takes_away_is_not_counted(gate):
    config = next(checkpoint(golden).config for golden in GOLDENS if "Step-3.7" in golden["name"])
    text = dict(config.get("text_config", config))
    stated = {**text, "use_head_wise_attn_gate": gate}
    both = [
        read_layers({**config, "text_config": section} if "text_config" in config else section)
        for section in (text, stated)
    ]
    assert (both[0].parameters == both[1].parameters) is gate
