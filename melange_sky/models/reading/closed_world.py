"""Fields that were not read: those that may change a model's structure refuse it, others are told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

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
    r"score_func|scoring_func|^use_(qk_norm|gemma_norm)|cache_dtype|norm_type|norm_before|norm_after|swiglu_|short_conv|"
    r"use_(sliding_window|bidirectional)|max_window_layers|sliding_window_pattern|full_attention_interval|hidden_act|"
    r"attention_chunk_size|seconds|tiles?$|tile_|dynamic_patch|downsample_ratio|^template$|resolutions|global_view|^encoder_patch_size$|pixels|^pool_type$|^position_|^max_position_embedding$|^group_norm_size$|layer_norm|layernorm|rms_norm|first_attn|expert_selection|n_routed_groups|"
    r"output_gate_type|mtp_use_dedicated|mamba_(chunk|dt_(max|min|init|scale)|norm|proj_bias|conv_bias|expand|hidden_act|"
    r"ssm)|^chunk_|num_expert_group|moe_shared_expert_overlap|use_unified|merge_|mask|^org_vocab_size$|^(select|vision_feature)_layers?$|^moe_every_n_layer$|^summary_|"
    r"^scale_(depth|emb)$|^dim_model_base$|^spatial_pool_|^linear_(a_log|dt)_|combination_strategy$|^is_llama_config$|js_config$|clip_qkv|^normalization_function$|interleaved_layers$|^mup_|"
    r"^bskcn_|^attention_method$|^n_ctx$|^num_media_embeds$"
)
"""Fields that change no size and no cache: tokens, initial values, rotary settings, training, sampling."""

_SWITCHES = (
    rf"{_STRUCTURE}|gqa|mqa|mla|query|gate|gating|hybrid|tie|reuse|router|yoco|parallel_(mlp|ffn|block)|vision|audio|"
    r"short_conv|bidirectional|causal"
)
"""Names that stand for structure where their field says no more than yes: also some that are harmless with a number."""

_HARMLESS_SWITCHES = (
    r"^output_|bias$|skip_bias|share_add_bias|qk_norm|_norm$|^norm_|norm_gate|prenorm|layer_?norm|rms_?norm|_init|^init|"
    r"fp32|float32|bf16|fp16|upcast|seq_aux|aux_free|loss|renormalize|topk|router_logits|shared_expert_overlap|"
    r"^scale_attn|layer_scaling|^mla_scale|logn|ntk|rope|rotary|nope$|pos_enc|^learned_pos_emb$|temperature|mup|"
    r"kernel|flash|^fuse|mambapy|scan$|exact$|eigval$|swiglu|silu$|safe_gate|^reorder|recompute|gradient_|pre_allocate|"
    r"mtp|^summary_|thumbnail|pruning|eplb|expert_parallel|sequence_parallel|parallel_(attn|residual|embedding)|"
    r"image|^(video|vision|audio|batch)_|vision_chunk|slice_mode|token|pad_tok|_ids?$|^resid_|residual_(in|conn)|"
    r"dropout|^use_cache|^use_parallel_block$|return_dict|^is_decoder$|^tie_encoder|^tf_|^remove_invalid|onnx|^validate_|^clip_|^verbose$"
)
"""Switches that add no part to a model, or one as small as a norm or a bias, whatever else their names hold."""

_COUNTS = r"^(num|n)_.*(layers|blocks|experts|heads|modules|adapters|towers|streams)$"

_SIZES = r"(hidden|embed|model|intermediate)_(size|dim)$|(num|n)_(hidden_)?layers$|^(depth|layers|width|n_embd|d_model)$"
_SHAPING_WORDS = r"pattern|schedule|(layer|block|attn|mlp|ffn|mixer|moe)s?_(block_)?types?$"
_SHAPING_FACTORS = r"^(mlp|ffn|ffw|expansion|expand|hidden|intermediate)[a-z_]*(ratio|mult|multiplier|factor)$|^expand$"
"""Words and factors that decide sizes, whatever else their names look like."""


_TRUE_SHAPES = frozenset({"add_cross_attention"})
"""Fields that add a part to any decoder where they are true."""


def is_harmless(name: str) -> bool:
    """Return whether a field of this name changes no size."""
    return re.search(_HARMLESS, name.lower()) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """Names of fields that nothing has read: those that may change the structure, and others.

    `switched` may change it too, but say no more than yes, one or none: refusing them would refuse too
    many configs that only repeat what they are.
    """

    structural: list[str] = field(default_factory=list)
    switched: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def __add__(self, more: Unread) -> Unread:
        return Unread(
            structural=self.structural + more.structural,
            switched=self.switched + more.switched,
            other=self.other + more.other,
        )


_OF_TOWERS = frozenset(
    {
        "fullatt_block_indexes",
        "head_dim",
        "max_position_embeddings",
        "num_attention_heads",
        "num_heads",
        "num_key_value_heads",
        "vocab_size",
        "window_size",
    }
)
"""Fields of encoders that change no size where their reader asks for none of them."""


def unread_within(fields: Fields, text: str = "") -> list[str]:
    """Return what the sections that were read hold unread that may change the structure, as `section.field`.

    `text`: the section of the language model, which is looked at by itself.
    """
    names = []
    for key, section in fields.sections.items():
        if key == text:
            continue
        found = unread(section, _OF_TOWERS)
        names += [f"{key}.{name}" for name in (*found.structural, *found.switched)]
        names += [f"{key}.{name}" for name in unread_within(section)]
    return names


def unread(fields: Fields, passed: Iterable[str] = ()) -> Unread:
    """Return the fields that nothing has read, by what they may change.

    A field that is null, false, zero, empty, 1 or true changes nothing where its class says the same, or
    knows nothing of it and it is neither true nor counts one part.
    """
    found, allowed = Unread(), {*fields.read, *passed}
    for key, value in fields.raw.items():
        name = str(key)
        if name not in allowed and (rows := _rows_of(found, fields, name, value)) is not None:
            rows.append(shown(name))
    return found


def _rows_of(found: Unread, fields: Fields, name: str, value: object) -> list[str] | None:
    """Return the list that a field belongs to, None where it changes no size."""
    folded = name.lower()
    if value is True and name in _TRUE_SHAPES:
        return found.structural
    if _is_idle(value):
        return _rows_of_idle(found, fields, name, value)
    if _is_shaping(folded, value):
        return found.structural
    if is_harmless(name):
        return None
    if not isinstance(value, (str, float)) and re.search(_STRUCTURE, folded):
        return found.structural
    return found.other


def _rows_of_idle(found: Unread, fields: Fields, name: str, value: object) -> list[str] | None:
    """Return the same of a field that says yes, one, no or nothing."""
    default = fields.defaults.get(name, fields.withheld.get(name))
    if default is not None and not _is_idle(default):
        return None if is_harmless(name) else found.switched
    if value is not True:
        is_one = value == 1 and not isinstance(value, bool)
        return found.switched if is_one and re.search(_COUNTS, name.lower()) else None
    if default is True or re.search(_HARMLESS_SWITCHES, name.lower()):
        return None
    if re.search(_SWITCHES, name.lower()):
        return found.switched
    return None if is_harmless(name) else found.other


def _is_shaping(name: str, value: object) -> bool:
    """Return whether a field holds a whole part of a model, or a word or factor that shapes one."""
    if isinstance(value, Mapping):
        return any(
            isinstance(size, int) and size > 1 and re.search(_SIZES, str(key))
            for key, size in value.items()
        )
    if isinstance(value, str):
        return bool(re.search(_SHAPING_WORDS, name))
    return isinstance(value, float) and bool(re.search(_SHAPING_FACTORS, name))


def _is_idle(value: object) -> bool:
    return value in (None, False, 0, "", 1) or value in ([], {}, ())
