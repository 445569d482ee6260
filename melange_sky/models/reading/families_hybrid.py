"""Families in which layers with a state stand beside layers with a cache."""

from __future__ import annotations

from melange_sky.models.reading.family import ExpertTraits, Family

_QWEN_EXPERTS = ExpertTraits(
    shared_width="shared_expert_intermediate_size",
    shared_gate=True,
    shared_module="shared_expert",
)

HYBRID: tuple[Family, ...] = (
    Family(
        types=("qwen3_next", "qwen3_5_moe_text", "qwen3_5_moe"),
        architectures=("Qwen3NextForCausalLM", "Qwen3_5MoeForCausalLM"),
        linear="delta_net",
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        head_norm="head",
        gate="query",
        experts=_QWEN_EXPERTS,
    ),
    Family(
        types=("qwen3_5_text", "qwen3_5"),
        architectures=("Qwen3_5ForCausalLM",),
        linear="delta_net",
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        head_norm="head",
        gate="query",
    ),
    Family(
        types=("olmo_hybrid",),
        architectures=("OlmoHybridForCausalLM",),
        linear="delta_net",
        head_norm="width",
    ),
    Family(
        types=("nemotron_h",),
        architectures=("NemotronHForCausalLM", "NemotronHPuzzleForCausalLM"),
        reader="single_mixer",
        linear="mamba2",
        gated=False,
        mlp_bias="mlp_bias",
        read_only=("attention_bias",),
        norms=1,
        own_head=True,
        experts=ExpertTraits(
            shared_width="moe_shared_expert_intermediate_size",
            module="mixer",
            dense_module="mixer",
        ),
        prefix="backbone.layers.{i}.",
        module="mixer",
    ),
    Family(
        types=("granitemoehybrid",),
        architectures=("GraniteMoeHybridForCausalLM",),
        linear="mamba2",
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        shared_dense="shared_intermediate_size",
        experts=ExpertTraits(width="intermediate_size", module="block_sparse_moe"),
    ),
    Family(
        types=("bamba",),
        architectures=("BambaForCausalLM",),
        linear="mamba2",
        all_linear=True,
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        mlp_bias="mlp_bias",
        mlp_module="feed_forward",
    ),
    Family(
        types=("falcon_h1",),
        architectures=("FalconH1ForCausalLM",),
        reader="parallel_mixers",
        linear="mamba2",
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        mlp_bias="mlp_bias",
        mlp_module="feed_forward",
    ),
    Family(
        types=("jamba",),
        architectures=("JambaForCausalLM",),
        linear="mamba1",
        experts=ExpertTraits(
            width="intermediate_size", module="feed_forward", dense_module="feed_forward"
        ),
    ),
    Family(
        types=("zamba2",),
        architectures=("Zamba2ForCausalLM",),
        reader="zamba2",
        linear="mamba2",
        norms=1,
        read_only=(
            "state_size",
            "ffn_hidden_size",
            "kv_channels",
            "use_shared_mlp_adapter",
            "gated_linear_unit",
        ),
    ),
    Family(
        types=("lfm2",),
        architectures=("Lfm2ForCausalLM",),
        linear="short_conv",
        head_norm="head",
        mlp_module="feed_forward",
        read_only=("block_dim", "conv_dim", "conv_dim_out", "num_heads", "block_use_swiglu"),
    ),
    Family(
        types=("lfm2_moe",),
        architectures=("Lfm2MoeForCausalLM",),
        linear="short_conv",
        head_norm="head",
        experts=ExpertTraits(
            router_bias="use_expert_bias", module="feed_forward", dense_module="feed_forward"
        ),
    ),
    Family(
        types=("kimi_linear",),
        architectures=("KimiLinearForCausalLM",),
        attention="latent",
        linear="kda",
        norms_field=("attn_res_block_size", 6),
        own_head=True,
        experts=ExpertTraits(),
    ),
    Family(
        types=("bailing_hybrid",),
        architectures=("BailingHybridForCausalLM", "BailingMoeV3ForCausalLM"),
        attention="latent",
        linear="kda",
        gate="head",
        own_head=True,
        read_only=("no_kda_lora",),
        experts=ExpertTraits(shared_width="moe_shared_expert_intermediate_size"),
    ),
)
