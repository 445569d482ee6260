"""From a Hugging Face `config.json` to the sizes that decide memory and work.

Field names are those of the `transformers` configuration classes. Parameters are counted from the
layer sizes, so that no weight file is needed; tests hold them against the published totals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from melange_sky.errors import InputError, did_you_mean
from melange_sky.models.quantization import weight_format
from melange_sky.models.shape import ModelShape

UNGATED_MLP = frozenset(
    {
        "gpt2",
        "gpt_neox",
        "gpt_bigcode",
        "gptj",
        "opt",
        "bloom",
        "falcon",
        "mpt",
        "phi",
        "starcoder2",
    }
)
"""Model types whose feed-forward has two matrices; all others have three (gate, up, down)."""

QKV_BIAS = frozenset(
    {"qwen2", "qwen2_moe", "gpt2", "gpt_neox", "gpt_bigcode", "opt", "bloom", "starcoder2"}
)
FOUR_NORMS = frozenset({"gemma2", "gemma3_text"})
"""Model types with a norm after attention and feed-forward too."""

TIED_BY_DEFAULT = frozenset(
    {"gemma", "gemma2", "gemma3_text", "cohere", "cohere2", "gpt2", "bloom", "falcon", "opt"}
)
NOT_DECODERS = frozenset(
    {"bert", "roberta", "t5", "bart", "vit", "clip", "whisper", "mamba", "mamba2"}
)

_ALIASES = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "intermediate_size": ("n_inner", "ffn_dim"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "seq_length", "n_ctx"),
    "num_key_value_heads": ("num_kv_heads",),
}
_LARGEST = 10**9


@dataclass(frozen=True, slots=True)
class _Fields:
    """Checked access to a config: a problem names the file and the key."""

    raw: Mapping[str, Any]
    where: str

    def get(self, key: str) -> Any:
        for name in (key, *_ALIASES.get(key, ())):
            if self.raw.get(name) is not None:
                return self.raw[name]
        return None

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.get(key)
        if value is None:
            if default is None:
                raise InputError(
                    f"{self.where}: no '{key}'{did_you_mean(key, map(str, self.raw))}: needed to size the "
                    "model; is this the config.json of a decoder-only model?"
                )
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _LARGEST:
            raise InputError(
                f"{self.where}: '{key}' must be a whole number between 1 and {_LARGEST - 1}"
            )
        return value

    def maybe(self, key: str) -> int | None:
        return None if self.get(key) in (None, 0) else self.whole(key)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        return default if value is None else bool(value)


def shape_from_config(
    name: str, config: Mapping[str, Any], where: str = "config.json"
) -> ModelShape:
    """Return the sizes of the model that `config` describes.

    Raises InputError that names the missing or wrong field.
    """
    if not isinstance(config, Mapping):
        raise InputError(
            f"{where}: not a JSON object; give the config.json of a Hugging Face model"
        )
    text = config.get("text_config")
    if isinstance(text, Mapping):  # a multimodal model: plan its language part
        config = {**text, "quantization_config": config.get("quantization_config")}
    fields = _Fields(config, where)
    model_type = str(config.get("model_type", "llama"))
    if model_type in NOT_DECODERS or fields.flag("is_encoder_decoder"):
        raise InputError(f"{where}: '{model_type[:40]}' is not a decoder-only transformer")
    return _shape(name, fields, model_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """What every transformer's config says: widths, counts of layers and heads, words."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


def _sizes(fields: _Fields) -> _Sizes:
    hidden, layers, heads = (
        fields.whole(k) for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    )
    vocabulary = fields.whole("vocab_size")
    kv_heads = 1 if fields.flag("multi_query") else fields.whole("num_key_value_heads", heads)
    head_dim = fields.whole("head_dim", max(1, hidden // heads))
    if heads % kv_heads:
        raise InputError(
            f"{fields.where}: num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({kv_heads})"
        )
    return _Sizes(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
    )


def _shape(name: str, fields: _Fields, model_type: str) -> ModelShape:
    sizes = _sizes(fields)
    hidden, layers = sizes.hidden, sizes.layers
    attention = _attention(fields, model_type, sizes)
    experts = _experts(fields, model_type, hidden, layers)
    embedding = sizes.vocabulary * hidden
    tied = fields.flag("tie_word_embeddings", model_type in TIED_BY_DEFAULT)
    norms = layers * (4 if model_type in FOUR_NORMS else 2) * hidden + hidden
    linear = layers * attention.parameters + experts.dense
    shared = embedding * (1 if tied else 2) + norms + linear
    parameters = shared + experts.routed
    weights = weight_format(fields.raw, fields.where, (linear + experts.routed) / parameters)
    on_disk = weights.file_bytes_per_parameter
    window, sliding_layers = _window(fields, layers)
    return ModelShape(
        name=name,
        layers=layers,
        hidden_size=hidden,
        heads=sizes.heads,
        kv_heads=1 if attention.latent else sizes.kv_heads,
        head_dim=sizes.head_dim,
        vocabulary=sizes.vocabulary,
        parameters=parameters,
        active_parameters=shared + experts.active,
        kv_values_per_token=layers * attention.kv_values,
        weight_dtype_bytes=weights.bytes_per_parameter,
        kv_dtype_bytes=2.0,
        context_tokens=_context(fields),
        sliding_window=window,
        sliding_layers=sliding_layers,
        experts=experts.count,
        experts_per_token=experts.per_token,
        lookup_parameters=0 if tied else embedding,
        expert_parameters=experts.routed,
        attention_flops_per_pair=layers * attention.pair_flops,
        fp8_compute=weights.fp8_compute,
        dtype=weights.name,
        checkpoint_bytes=on_disk and on_disk * parameters,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attention:
    """Per layer: parameters, cached values per token, FLOPs per (query, key) pair."""

    parameters: int
    kv_values: int
    pair_flops: int
    latent: bool = False


def _attention(fields: _Fields, model_type: str, sizes: _Sizes) -> _Attention:
    if fields.get("kv_lora_rank") is not None:
        return _latent_attention(fields, sizes.hidden, sizes.heads)
    width, kv_width = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    parameters = sizes.hidden * width * 2 + sizes.hidden * kv_width * 2
    if fields.flag("attention_bias", model_type in QKV_BIAS) or fields.flag("qkv_bias"):
        parameters += width + 2 * kv_width
    if model_type.startswith("qwen3"):  # a norm on the heads of queries and of keys
        parameters += 2 * sizes.head_dim
    return _Attention(parameters=parameters, kv_values=2 * kv_width, pair_flops=4 * width)


def _latent_attention(fields: _Fields, hidden: int, heads: int) -> _Attention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, §2.1): only a latent is cached."""
    latent, rope = fields.whole("kv_lora_rank"), fields.whole("qk_rope_head_dim")
    nope, value = fields.whole("qk_nope_head_dim"), fields.whole("v_head_dim")
    query_rank = fields.maybe("q_lora_rank")
    query = heads * (nope + rope)
    parameters = hidden * query if query_rank is None else query_rank * (hidden + query + 1)
    parameters += hidden * (latent + rope) + latent + latent * heads * (nope + value)
    parameters += heads * value * hidden
    return _Attention(
        parameters=parameters,
        kv_values=latent + rope,
        pair_flops=2 * heads * (nope + rope + value),
        latent=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Experts:
    """Feed-forward parameters over all layers: always read, in routed experts, and per token."""

    dense: int
    routed: int
    active: int
    count: int | None
    per_token: int | None


def _experts(fields: _Fields, model_type: str, hidden: int, layers: int) -> _Experts:
    matrices = 2 if model_type in UNGATED_MLP else 3
    count = next(
        (
            n
            for key in ("num_local_experts", "num_experts", "n_routed_experts")
            if (n := fields.maybe(key))
        ),
        None,
    )
    dense_width = fields.whole("intermediate_size", 4 * hidden if matrices == 2 else None)
    if count is None or count == 1:
        dense = layers * matrices * hidden * dense_width
        return _Experts(dense=dense, routed=0, active=0, count=None, per_token=None)
    per_token = fields.maybe("num_experts_per_tok") or fields.whole("experts_per_token")
    if per_token > count:
        raise InputError(f"{fields.where}: {per_token} experts per token of {count} experts")
    sparse = _sparse_layers(fields, layers)
    width = fields.maybe("moe_intermediate_size") or dense_width
    shared_width = fields.maybe("shared_expert_intermediate_size") or width * (
        fields.maybe("n_shared_experts") or 0
    )
    expert = matrices * hidden * width
    dense = (layers - sparse) * matrices * hidden * dense_width
    dense += sparse * (matrices * hidden * shared_width + hidden * count)
    return _Experts(
        dense=dense,
        routed=sparse * count * expert,
        active=sparse * per_token * expert,
        count=count,
        per_token=per_token,
    )


def _sparse_layers(fields: _Fields, layers: int) -> int:
    """Return how many layers have routed experts."""
    first_dense = fields.maybe("first_k_dense_replace") or 0
    step = fields.maybe("decoder_sparse_step") or fields.maybe("moe_layer_freq") or 1
    dense = fields.get("mlp_only_layers")
    dense_count = len(dense) if isinstance(dense, list) else 0
    return max(1, min(layers, (layers - min(first_dense, layers)) // step - dense_count))


def _window(fields: _Fields, layers: int) -> tuple[int | None, int | None]:
    """Return the sliding window and how many layers keep it (None: all)."""
    window = fields.maybe("sliding_window")
    if window is None or fields.raw.get("use_sliding_window") is False:
        return None, None
    kinds = fields.get("layer_types")
    if isinstance(kinds, list) and kinds:
        sliding = sum(kind == "sliding_attention" for kind in kinds)
        return (window, sliding) if sliding else (None, None)
    pattern = fields.maybe("sliding_window_pattern")
    if pattern is not None and pattern > 1:
        return window, layers - math.floor(layers / pattern)
    if fields.raw.get("model_type") == "gemma2":
        return window, layers - layers // 2
    return window, None


def _context(fields: _Fields) -> int:
    """Return the longest context. A YaRN or linear factor counts only where the file scales it in."""
    return fields.whole("max_position_embeddings", 2048)
