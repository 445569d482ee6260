"""Shapes of published configs that were read wrongly once, and what their fields mean to engines."""

from __future__ import annotations

from typing import Any

import pytest

from melange_sky.errors import InputError
from melange_sky.models import read_layers
from tests.models.test_cases import LLAMA_70B
from tests.models.test_families import FAMILIES


def config_of(family: str) -> dict[str, Any]:
    return dict(next(f["config"] for f in FAMILIES if f["type"] == family))


QWEN = {
    "architectures": ["QWenLMHeadModel"],
    "model_type": "qwen",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "kv_channels": 128,
    "vocab_size": 151936,
    "seq_length": 8192,
    "no_bias": True,
    "tie_word_embeddings": False,
}


def test_the_width_of_qwen_1_counts_gate_and_up_together():
    """Qwen-1.8B, 1,836,828,672 values by its makers' code: `w1` and `w2` are half as wide as stated."""
    assert read_layers(QWEN).resident_parameters == 1_836_828_672


MPT = {
    "architectures": ["MPTForCausalLM"],
    "model_type": "mpt",
    "d_model": 4096,
    "n_heads": 32,
    "n_layers": 32,
    "expansion_ratio": 4,
    "max_seq_len": 2048,
    "no_bias": True,
    "learned_pos_emb": True,
    "vocab_size": 50432,
}
ALIBI = {"attn_type": "multihead_attention", "alibi": True, "attn_impl": "torch"}


def mpt(**attention: Any) -> dict[str, Any]:
    return {**MPT, "attn_config": {**ALIBI, **attention}}


def test_heads_of_mpt_are_those_of_its_kind_of_attention():
    whole = read_layers(mpt())
    assert whole.resident_parameters == 6_649_286_656  # published as MPT-7B: 6.65 B
    assert whole.warnings == ()
    for changed, heads in (
        ({"attn_type": "multiquery_attention"}, 1),
        ({"attn_type": "grouped_query_attention", "kv_n_heads": 8}, 8),
    ):
        layers = read_layers(mpt(**changed))
        assert layers.kv_bytes_per_token == 32 * 2 * heads * 128 * 2
        assert len(layers.warnings) == 1  # the class of transformers builds all heads


def test_positions_of_mpt_are_learned_where_no_slope_stands_for_them():
    more = read_layers(mpt(alibi=False)).resident_parameters
    assert more - read_layers(mpt()).resident_parameters == 2048 * 4096


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"attn_config": {**ALIBI, "attn_type": "grouped_query_attention"}}, "kv_n_heads"),
        ({"attn_config": {**ALIBI, "attn_type": "other"}}, "attn_type"),
        ({"attn_config": {**ALIBI, "sliding_window_size": 512}}, "sliding_window_size"),
        ({"ffn_config": {"ffn_type": "mb_moe"}}, "ffn_type"),
        ({"ffn_config": {"ffn_type": "mptmlp", "ffn_hidden_size": 99}}, "ffn_hidden_size"),
        ({"no_bias": False}, "no_bias"),
    ],
)
def test_what_mpt_has_and_nothing_reads_is_refused_by_name(change, named):
    with pytest.raises(InputError, match=named):
        read_layers({**mpt(), **change})


def test_minicpm_may_have_experts():
    """MiniCPM-MoE-8x2B: 13.6 B, experts as wide as its dense layers."""
    dense = {
        "architectures": ["MiniCPMForCausalLM"],
        "model_type": "minicpm",
        "hidden_size": 2304,
        "intermediate_size": 5760,
        "num_hidden_layers": 40,
        "num_attention_heads": 36,
        "num_key_value_heads": 36,
        "vocab_size": 122753,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }
    layers = read_layers({**dense, "num_experts": 8, "num_experts_per_tok": 2})
    assert layers.resident_parameters == pytest.approx(13.87e9, rel=0.01)
    assert layers.warnings == ()
    more = 40 * (7 * 3 * 2304 * 5760 + 8 * 2304)
    assert layers.resident_parameters - read_layers(dense).resident_parameters == more


def test_one_word_that_every_model_of_a_family_holds_is_read_and_another_refused():
    config = config_of("starcoder2")
    assert read_layers({**config, "mlp_type": "default"}).warnings == ()
    with pytest.raises(InputError, match="'mlp_type'"):
        read_layers({**config, "mlp_type": "gated"})


ALWAYS_TIED = ["cohere", "cohere2", "gemma2", "lfm2", "zamba2"]
NEVER_TIED = ["afmoe", "axk1", "glm4_moe", "jamba", "minimax_m2", "olmoe", "qwen3_next"]


@pytest.mark.parametrize("family", ALWAYS_TIED + NEVER_TIED)
def test_a_tie_that_no_engine_follows_is_told(family):
    """vLLM 0.32: these hold no head of their own, or always hold one."""
    ignored = family in NEVER_TIED
    config = config_of(family)
    for tied in (True, False):
        warnings = read_layers({**config, "tie_word_embeddings": tied}).warnings
        assert len([t for t in warnings if "output head" in t]) == (tied is ignored)


def test_layers_with_a_window_that_an_engine_chooses_by_number_are_told():
    config = config_of("gpt_oss")
    full = ["full_attention"] * config["num_hidden_layers"]
    (line,) = read_layers({**config, "layer_types": full}).warnings
    assert "not every other layer with a window" in line
    assert read_layers(config).warnings == ()


def test_index_keys_that_an_engine_caches_though_the_config_shares_them_are_told():
    config = config_of("glm_moe_dsa")
    kinds = ["full" if i % 2 else "shared" for i in range(config["num_hidden_layers"])]
    (line,) = read_layers({**config, "indexer_types": kinds}).warnings
    assert "'indexer_types' is not what" in line


def test_a_part_that_a_section_holds_unread_is_told_and_widens_the_band():
    config = config_of("qwen3_vl")
    vision = {**config["vision_config"], "moe_num_experts": 8}
    layers = read_layers({**config, "vision_config": vision})
    assert layers.warnings == (
        "fields of sections that may change the structure and are not read: vision_config.moe_num_experts",
    )
    assert layers.doubtful


@pytest.mark.parametrize("name", ["gemma3", "gemma4", "cohere2_vision"])
def test_a_head_that_only_the_section_unties_is_told_where_the_outer_class_ties_it(name):
    config = config_of(name)
    outer = {key: value for key, value in config.items() if key != "tie_word_embeddings"}
    text = {**outer["text_config"], "tie_word_embeddings": False}
    warnings = read_layers({**outer, "text_config": text}).warnings
    assert [t for t in warnings if "true by the outer config's class" in t]


def test_either_ties_where_the_section_does_so_by_default():
    """transformers 5.19 of PaddleOCR-VL: the outer word alone unties nothing."""
    config = config_of("paddleocr_vl")
    assert read_layers({**config, "tie_word_embeddings": False}).tied


@pytest.mark.parametrize("name", ["is_llama_config", "transformers.js_config", "mup_denominator"])
def test_fields_of_published_configs_that_change_no_size_are_not_told(name):
    value = {"dtype": "q4"} if name.endswith("js_config") else 32
    assert read_layers({**LLAMA_70B, name: value}).warnings == ()


def test_dense_layers_that_a_list_and_a_number_say_differently_are_told():
    """vLLM 0.32 finds the layers of A.X K1 by `first_k_dense_replace` alone, 1 where it is left out."""
    config = config_of("axk1")
    number = config["num_hidden_layers"]
    agreed, other = ["dense"] + ["sparse"] * (number - 1), ["dense"] * 2 + ["sparse"] * (number - 2)
    assert read_layers({**config, "mlp_layer_types": agreed}).warnings == ()
    (line,) = read_layers({**config, "mlp_layer_types": other}).warnings
    assert "'mlp_layer_types' is not what 'first_k_dense_replace' (1) makes" in line


def test_key_value_heads_follow_the_heads_where_the_class_leaves_them_to_be():
    config = config_of("qwen2_5_vl")
    text = {
        "model_type": "aria_text",
        "num_attention_heads": 64,
        "moe_num_experts": 8,
        "moe_topk": 2,
    }
    aria = {"architectures": ["AriaForConditionalGeneration"], "model_type": "aria"}
    layers = read_layers({**aria, "text_config": text, "vision_config": config["vision_config"]})
    assert {layer.attention.kv_heads for layer in layers.layers} == {64}


MICRO = {
    "architectures": ["GraniteMoeHybridForCausalLM"],
    "model_type": "granitemoehybrid",
    "hidden_size": 2560,
    "intermediate_size": 8192,
    "shared_intermediate_size": 8192,
    "layer_types": ["attention"] * 40,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "mamba_d_conv": 4,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_n_heads": 80,
    "vocab_size": 100352,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}

PLAIN = {
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "vocab_size": 73448,
    "max_position_embeddings": 65536,
}


def test_sizes_of_layers_and_experts_that_a_model_has_none_of_are_no_unread_structure():
    """Granite 4.0 Micro, of whose hybrid family it has attention alone."""
    layers = read_layers(MICRO)
    per_layer = 2560 * (2 * 2560 + 2 * 512) + 3 * 2560 * 8192 + 2 * 2560
    assert layers.resident_parameters == 40 * per_layer + 100352 * 2560 + 2560
    assert layers.warnings == ()
    dense = {**PLAIN, "model_type": "hunyuan_v1_dense", "head_dim": 128, "num_experts": 1}
    assert read_layers({**dense, "architectures": ["HunYuanDenseV1ForCausalLM"]}).warnings == ()


@pytest.mark.parametrize(
    "change",
    [{"layer_types": None}, {"mamba_new_inner_size": 640}],
    ids=["kinds unknown", "field unknown"],
)
def test_sizes_of_such_layers_refuse_where_they_may_be_of_others(change: dict[str, Any]):
    with pytest.raises(InputError, match="may change the model's structure"):
        read_layers({**MICRO, **change})


def test_engines_attend_to_all_whatever_minicpm_4_1_chooses():
    plain = {**PLAIN, "model_type": "minicpm", "architectures": ["MiniCPMForCausalLM"]}
    sparse = {**plain, "sparse_config": {"kernel_size": 32, "topk": 64, "dense_len": 8192}}
    assert read_layers(sparse) == read_layers(plain)


DEEPSEEK_VL2 = {
    "architectures": ["DeepseekVLV2ForCausalLM"],
    "model_type": "deepseek_vl_v2",
    "candidate_resolutions": [[384, 384], [384, 768]],
    "global_view_pos": "head",
    "tile_tag": "2D",
    "language_config": {
        "model_type": "deepseek_v2",
        "architectures": ["DeepseekV2ForCausalLM"],
        "first_k_dense_replace": 1,
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "kv_lora_rank": 512,
        "q_lora_rank": None,
        "lm_head": True,
        "rm_head": False,
        "use_mla": True,
        "max_position_embeddings": 4096,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 27,
        "num_key_value_heads": 16,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "vocab_size": 102400,
    },
    "projector_config": {"model_type": "mlp_projector", "n_embed": 2048},
    "vision_config": {
        "layers": 27,
        "mlp_ratio": 3.7362,
        "model_name": "siglip_so400m_patch14_384",
        "model_type": "vision",
        "patch_size": 14,
        "width": 1152,
    },
}


def test_switches_that_repeat_what_is_read_are_not_told():
    """DeepSeek-VL2 Small, published as 16.1 B."""
    layers = read_layers(DEEPSEEK_VL2)
    assert layers.resident_parameters == pytest.approx(16.1e9, rel=0.005)
    assert layers.warnings == ()


def test_sizes_that_a_tower_repeats_are_not_told():
    """The section of Kimi K2.5's tower."""
    tower = {
        "vt_hidden_size": 1152,
        "vt_intermediate_size": 4304,
        "vt_num_hidden_layers": 27,
        "patch_size": 14,
        "init_pos_emb_height": 64,
        "init_pos_emb_width": 64,
        "merge_kernel_size": [2, 2],
    }
    repeated = {
        "vt_num_attention_heads": 16,
        "mm_hidden_size": 1152,
        "text_hidden_size": 2048,
        "video_attn_type": "spatial_temporal",
    }
    kimi = {
        "architectures": ["KimiK25ForConditionalGeneration"],
        "model_type": "kimi_k25",
        "text_config": DEEPSEEK_VL2["language_config"],
        "vision_config": tower,
    }
    assert read_layers({**kimi, "vision_config": {**tower, **repeated}}) == read_layers(kimi)
