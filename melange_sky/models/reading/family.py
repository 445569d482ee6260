"""What tells one family of models from plain Llama, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from melange_sky.models.fields import Fields
from melange_sky.models.reading.attention import HeadNorm, OutputGate

Switch = bool | str
"""True, False, or the config field that says so."""

Reader = Literal[
    "decoder",
    "single_mixer",
    "nas_blocks",
    "parallel_mixers",
    "gemma3n",
    "gemma4",
    "deepseek_v4",
    "longcat",
    "zamba2",
    "molmo",
    "mpt",
]
AttentionForm = Literal["grouped", "latent", "factored"]
LinearForm = Literal["none", "delta_net", "mamba1", "mamba2", "kda", "lightning", "short_conv"]
WindowRule = Literal[
    "field", "qwen", "alternate", "alternate_always", "pattern", "mimo", "chunks", "ignored"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTraits:
    """How a family reads its experts.

    `width` is the field of an expert's width (`or_dense_width`: without it, experts are as wide as a dense
    layer), `dense_width` that of a dense layer's, `shared_width`
    that of the shared expert's (None: `n_shared_experts` × an expert's width). `always_shared`: there
    is one shared expert whatever the fields say.
    """

    width: str = "moe_intermediate_size"
    or_dense_width: bool = False
    dense_width: str = "intermediate_size"
    shared_width: str | None = None
    always_shared: bool = False
    shared_gate: bool = False
    shared_module: str = "shared_experts"
    bias: bool = False
    norm: bool = False
    router_bias: Switch = False
    module: str = "mlp"
    experts_module: str | None = None
    dense_module: str = "mlp"
    dense_first: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of models: which configs belong to it, and what differs from plain Llama.

    `norm_values` are the values of a norm per hidden unit (2 with a bias, 0 for none at all), `norms`
    how many such norms a layer has. `positions` is what a learned position table has beyond the
    context, None where there is none. `whole_heads`: engines cache its latent attention head by head.
    `own_head`: its class ties no output head to the embedding, whatever a config says. `seeks_head`: engines
    alone do not. `shares_head`: engines always tie it. `square_output`: the output
    of its attention must be as wide as the model. `width_of_both`: the stated width counts
    gate and up together. `extra_words` is the field of words without an output. `required` names fields without which a config of the family
    cannot be sized, beyond those of every decoder.
    """

    types: tuple[str, ...]
    architectures: tuple[str, ...] = ()
    reader: Reader = "decoder"
    attention: AttentionForm = "grouped"
    whole_heads: bool = False
    linear: LinearForm = "none"
    window: WindowRule = "field"
    gated: bool = True
    qkv_bias: Switch = False
    o_bias: Switch = False
    mlp_bias: Switch = False
    head_bias: Switch = False
    own_head: bool = False
    seeks_head: bool = False
    shares_head: bool = False
    square_output: bool = False
    head_norm: HeadNorm = "none"
    head_norm_field: str | None = None
    gate: OutputGate = "none"
    gate_field: str | None = None
    sinks: bool = False
    block_index: bool = False
    norm_values: int = 1
    norms: int = 2
    norms_field: tuple[str, int] | None = None
    final_norm: bool = True
    positions: int | None = None
    embedding_norm: bool = False
    experts: ExpertTraits | None = None
    shared_dense: str | None = None
    width_of_both: bool = False
    extra_per_layer: int = 0
    extra_words: str | None = None
    all_linear: bool = False
    extra_heads: Literal["last", "first", "none"] = "last"
    extra_heads_copies: bool = False
    prefix: str = "model.layers.{i}."
    module: str = "self_attn"
    mlp_module: str = "mlp"
    no_float16: bool = False
    own_code: bool = False
    words: tuple[tuple[str, str], ...] = ()
    """Fields that hold one word in every model of the family: another would be another structure."""
    read_only: tuple[str, ...] = field(default=())
    """Fields that this family states but that change no size, so that they are no unread structure."""


def is_on(fields: Fields, switch: Switch) -> bool:
    """Return whether a trait holds for this config."""
    return fields.flag(switch) if isinstance(switch, str) else switch
