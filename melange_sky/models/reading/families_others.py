"""Families that few checkpoints use: regional makers, and the language models of single wrappers.

Sources: as for the other families (`families_dense`).
"""

from __future__ import annotations

from melange_sky.models.reading.family import ExpertTraits, Family

OTHERS: tuple[Family, ...] = (
    Family(
        types=("step1",),
        architectures=("Step1ForCausalLM", "TeleFLMForCausalLM"),
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        mlp_bias="mlp_bias",
    ),
    Family(
        types=("telechat2", "telechat"),
        architectures=("TeleChat2ForCausalLM", "TeleChatForCausalLM"),
        o_bias=True,
    ),
    Family(
        types=("plamo3",),
        architectures=("Plamo3ForCausalLM",),
        head_norm="head",
        norms=4,
        window="pattern",
        read_only=("interleaved_sliding_window", "window_size"),
    ),
    Family(
        types=("PanguEmbedded", "pangu_embedded"),
        architectures=("PanguEmbeddedForCausalLM",),
        qkv_bias="bias",
        o_bias="bias",
    ),
    Family(
        types=("pangu_ultra_moe",),
        architectures=("PanguUltraMoEForCausalLM",),
        attention="latent",
        norms_field=("sandwich_norm", 4),
        experts=ExpertTraits(),
    ),
    Family(
        types=("step3_text",),
        seeks_head=True,
        architectures=("Step3TextForCausalLM",),
        attention="factored",
        experts=ExpertTraits(shared_width="share_expert_dim", module="moe"),
    ),
    Family(
        types=("molmo",),
        reader="molmo",
        qkv_bias="qkv_bias",
        head_norm="width",
        head_norm_field="attention_layer_norm",
        extra_words="additional_vocab_size",
    ),
    Family(
        types=("molmo2_text",),
        own_head=True,
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        head_norm="head",
        extra_words="additional_vocab_size",
        read_only=("qk_norm_type", "norm_after", "rope_scaling_layers"),
    ),
    Family(
        types=("aria_text",),
        seeks_head=True,
        architectures=("AriaTextForCausalLM",),
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        experts=ExpertTraits(width="intermediate_size"),
    ),
    Family(
        types=("bailing_moe_v2_5", "bailing_moe_linear"),
        seeks_head=True,
        architectures=("BailingMoeV2_5ForCausalLM",),
        attention="latent",
        linear="lightning",
        experts=ExpertTraits(shared_width="moe_shared_expert_intermediate_size"),
    ),
    Family(
        types=("param2moe",),
        architectures=("Param2MoEForCausalLM",),
        qkv_bias="use_qkv_bias",
        o_bias="use_bias",
        head_norm="head",
        head_norm_field="use_qk_norm",
        experts=ExpertTraits(shared_width="moe_shared_expert_intermediate_size"),
    ),
    Family(
        types=("dots1",),
        architectures=("Dots1ForCausalLM",),
        window="qwen",
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        head_norm="head",
        experts=ExpertTraits(),
    ),
    Family(
        types=("mellum",),
        architectures=("MellumForCausalLM",),
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        head_norm="head",
        experts=ExpertTraits(),
    ),
)
