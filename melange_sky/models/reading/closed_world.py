"""Fields that were not read: those that may change a model's structure refuse it, others are told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from melange_sky.models.fields import Fields, shown

_STRUCTURE = (
    r"layer|head|expert|moe|hidden|intermediate|width|inner|rank|lora|block|pattern|mamba|ssm|conv|state|"
    r"latent|shared|share|ffn|mlp|attn|attention|kv|cla|window|sliding|chunk|sparse|index|mtp|nextn|memory|altup|"
    r"adapter|ngram|engram|embed|vocab|recurr|linear|compress|loop|stack|residual|hc_|depth|group|cross"
)

_HARMLESS = (
    r"^_|token|_id$|_ids$|_eps$|_epsilon$|dropout|pdrop|drop_|init|rope|rotary|theta|activation|hidden_act|"
    r"_act_fn|act_fn|softcap|_scale$|scaling|multiplier|_factor$|scalar|norm_topk|topk_|scoring|router_(aux|z|jitter|"
    r"dtype|logit|softcap)|aux_loss|z_loss|jitter|use_cache|use_return|output_(attentions|hidden|router|scores)|"
    r"return_dict|torchscript|torch_dtype|^dtype$|transformers_version|architectures|auto_map|label|problem_type|"
    r"tokenizer|pretraining_tp|gradient|flash|attn_implementation|kernel|fused|recompute|parallel|tensor_|"
    r"^use_(mamba_kernels|mem_eff_path|kernel|logn_attn|dynamic_ntk|parallel)|time_step|chunk_size|attention_bias_|"
    r"num_logits_to_keep|cache_implementation|beam|penalty|do_sample|^(max|min)_length$|temperature|top_[kp]$|typical_p|"
    r"length_penalty|ngram_size|diversity|early_stopping|bad_words|prefix$|suppress|forced_|finetuning|task_specific|"
    r"pruned_heads|is_decoder|is_encoder_decoder|cross_attention_hidden_size|tie_encoder|remove_invalid|"
    r"exponential_decay|^tf_|use_bfloat16|^name|^id2|^language|version|license|image_|video_|vision_|audio_|"
    r"^(eos|bos|pad|sep|unk|boi|eoi|boa|eoa)_|ignore_index|^seed$|^training|alibi|parallel_attn|bias_scale|"
    r"residual_in_fp32|rescale_prenorm|sinkhorn|hash_layers|n_group|topk|routed_scaling|ep_size|"
    r"^attn_(pdrop|scale|logit)|logit|query_pre_attn|final_logit|attention_(dropout|multiplier|in_multiplier|"
    r"out_multiplier|value_scale|type$|probs)|_ssm_dtype|moe_router_|moe_apply|moe_(dropout|orthogonal|"
    r"norm|use_hard|gate$|layer_use|group|multimodal|capacity|renorm|impl|quant)|use_(moe_router|routing)_bias|"
    r"scoring_func|^use_(qk_norm|gemma_norm)|cache_dtype|norm_type|norm_before|norm_after|swiglu_|short_conv|"
    r"use_(sliding_window|bidirectional)|max_window_layers|sliding_window_pattern|full_attention_interval|hidden_act|"
    r"attention_chunk_size|seconds|tiles?$|tile_|dynamic_patch|downsample_ratio|^template$|resolutions|global_view|^encoder_patch_size$|pixels|^pool_type$|^position_|^max_position_embedding$|^group_norm_size$|layer_norm|layernorm|rms_norm|first_attn|expert_selection|n_routed_groups|"
    r"output_gate_type|mtp_use_dedicated|mamba_(chunk|dt_(max|min|init|scale)|norm|proj_bias|conv_bias|expand|hidden_act|"
    r"ssm)|^chunk_|num_expert_group|moe_shared_expert_overlap|use_unified|merge_|mask|^org_vocab_size$|^(select|vision_feature)_layers?$|^moe_every_n_layer$"
)
"""Fields that change no size and no cache: tokens, initial values, rotary settings, training, sampling."""

_SIZES = re.compile(
    r"(hidden|embed|model|intermediate)_(size|dim)$|(num|n)_(hidden_)?layers$|^(depth|layers|width|n_embd|d_model)$"
)
_SHAPING_WORDS = re.compile(
    r"pattern|schedule|(layer|block|attn|mlp|ffn|mixer|moe)s?_(block_)?types?$"
)
_SHAPING_FACTORS = re.compile(
    r"^(mlp|ffn|ffw|expansion|expand|hidden|intermediate)[a-z_]*(ratio|mult|multiplier|factor)$|^expand$"
)
"""Words and factors that decide sizes, whatever else their names look like."""


_TRUE_SHAPES = frozenset({"add_cross_attention"})
"""Fields that add a part to any decoder where they are true."""


def is_harmless(name: str) -> bool:
    """Return whether a field of this name changes no size."""
    return re.search(_HARMLESS, name.lower()) is not None


def unread(fields: Fields, passed: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Return (fields that may change the structure, other unknown fields) that nothing has read.

    A field that is null, false, zero, empty, 1 or true changes nothing, but for true where it adds a part.
    """
    structural, other = [], []
    allowed = {*fields.read, *passed}
    for key, value in fields.raw.items():
        name = str(key)
        if name in allowed or (_is_idle(value) and not (value is True and name in _TRUE_SHAPES)):
            continue
        if name in _TRUE_SHAPES or _is_shaping(name.lower(), value):
            structural.append(shown(name))
        elif is_harmless(name):
            continue
        elif isinstance(value, (str, float)):
            other.append(shown(name))
        elif re.search(_STRUCTURE, name.lower()):
            structural.append(shown(name))
        else:
            other.append(shown(name))
    return structural, other


def _is_shaping(name: str, value: object) -> bool:
    """Return whether a field holds a whole part of a model, or a word or factor that shapes one."""
    if isinstance(value, Mapping):
        return any(
            isinstance(size, int) and size > 1 and _SIZES.search(str(key))
            for key, size in value.items()
        )
    if isinstance(value, str):
        return bool(_SHAPING_WORDS.search(name))
    return isinstance(value, float) and bool(_SHAPING_FACTORS.search(name))


def _is_idle(value: object) -> bool:
    return value in (None, False, 0, "", 1) or value in ([], {}, ())
