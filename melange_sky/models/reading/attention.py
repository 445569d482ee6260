"""Attention with keys and values in a cache: grouped heads, or a compressed latent.

Counts follow the tensors of the checkpoints: projections, their biases, norms on the heads, gates on
the output, sinks.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Literal

from melange_sky.models.layers import Attention, AttentionKind, Matrix, norm

HeadNorm = Literal["none", "head", "head_bias", "width", "query"]
"""A norm on queries and keys: of one head's size (with a bias), over all heads, on queries only."""

OutputGate = Literal["none", "query", "head", "width"]
"""A gate on the output: as wide as the queries and fused with them, one value a head, or as wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Sizes of one grouped attention. `value_dim` None: values are as wide as keys."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int | None = None
    input_size: int | None = None

    @property
    def values(self) -> int:
        """Width of one value head."""
        return self.head_dim if self.value_dim is None else self.value_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTraits:
    """What a family adds to plain grouped attention. `own_keys` False: an earlier layer's are used."""

    module: str = "self_attn"
    qkv_bias: bool = False
    o_bias: bool = False
    head_norm: HeadNorm = "none"
    gate: OutputGate = "none"
    sinks: bool = False
    values_are_keys: bool = False
    own_keys: bool = True
    extra_norm: int = 0


def grouped(
    heads: Heads, traits: AttentionTraits, kind: AttentionKind = "full", window: int | None = None
) -> tuple[Attention, tuple[Matrix, ...]]:
    """Return grouped-query attention (Ainslie et al., arXiv 2305.13245) with its weights."""
    source = heads.input_size or heads.hidden
    width, kv_width = heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim
    value_width, out_width = heads.kv_heads * heads.values, heads.heads * heads.values
    gated = width if traits.gate == "query" else 0
    bias = 1 if traits.qkv_bias else 0
    part = functools.partial(_projection, traits.module)
    matrices = [part("q_proj", width + gated, source, bias * (width + gated))]
    if traits.own_keys:
        matrices.append(part("k_proj", kv_width, source, bias * kv_width))
        if not traits.values_are_keys:
            matrices.append(part("v_proj", value_width, source, bias * value_width))
    matrices.append(part("o_proj", heads.hidden, out_width, heads.hidden if traits.o_bias else 0))
    if traits.gate == "head":
        matrices.append(part("g_proj", heads.heads, heads.hidden))
    elif traits.gate == "width":
        matrices.append(part("gate_proj", out_width, heads.hidden))
    beside = _head_norms(heads, traits) + (heads.heads if traits.sinks else 0) + traits.extra_norm
    if beside:
        matrices.append(norm(f"{traits.module}.norms", beside))
    cached = kv_width + value_width if traits.own_keys else 0
    attention = Attention(
        kind=kind,
        heads=heads.heads,
        kv_heads=heads.kv_heads,
        head_dim=heads.head_dim,
        kv_values=0.0 if window else float(cached),
        window_values=cached if window else 0,
        window=window,
        pair_flops=2 * heads.heads * (heads.head_dim + heads.values),
        sinks=traits.sinks,
    )
    return attention, tuple(matrices)


def _projection(module: str, name: str, outputs: int, inputs: int, extra: int = 0) -> Matrix:
    return Matrix(
        name=f"{module}.{name}", part="attention", outputs=outputs, inputs=inputs, extra=extra
    )


def _head_norms(heads: Heads, traits: AttentionTraits) -> int:
    keys = 1 if traits.own_keys else 0
    if traits.head_norm == "head":
        return heads.head_dim * (1 + keys)
    if traits.head_norm == "head_bias":
        return 2 * heads.head_dim * (1 + keys)
    if traits.head_norm == "query":
        return heads.head_dim
    if traits.head_norm == "width":
        return (heads.heads + keys * heads.kv_heads) * heads.head_dim
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Sizes of multi-head latent attention; `query_rank` None where queries are not compressed.

    `whole_heads`: engines have no kernel for its latents and cache the keys and values of every head, values
    as wide as keys.
    """

    hidden: int
    heads: int
    latent: int
    rope: int
    nope: int
    value: int
    query_rank: int | None
    bias: bool = False
    gate: OutputGate = "none"
    extra_norm: int = 0
    whole_heads: bool = False
    module: str = "self_attn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexer:
    """The indexer of sparse attention (DeepSeek-V3.2): which tokens each query attends to.

    Its keys are cached in 8 bits with a 4-byte scale each, whatever the type of the cache. `shared`: it
    is that of an earlier layer.
    """

    heads: int
    head_dim: int
    top_tokens: int
    shared: bool = False

    @property
    def bytes_per_token(self) -> int:
        """Bytes that its keys take in the cache."""
        return self.head_dim + 4


def latent(sizes: Latent, indexer: Indexer | None = None) -> tuple[Attention, tuple[Matrix, ...]]:
    """Return multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, §2.1) with its weights.

    Only the latent and the rotary part of the key are cached, once for all heads.
    """
    bias = 1 if sizes.bias else 0
    part = functools.partial(_projection, sizes.module)
    compressed = sizes.latent + sizes.rope
    matrices = [
        *_latent_queries(sizes),
        part("kv_a_proj_with_mqa", compressed, sizes.hidden, bias * compressed + sizes.latent),
        part("kv_b_proj", sizes.heads * (sizes.nope + sizes.value), sizes.latent),
        part("o_proj", sizes.hidden, sizes.heads * sizes.value, bias * sizes.hidden),
    ]
    if sizes.gate == "width":
        matrices.append(part("g_proj", sizes.heads * sizes.value, sizes.hidden))
    elif sizes.gate == "head":
        matrices.append(part("g_proj", sizes.heads, sizes.hidden))
    if sizes.extra_norm:
        matrices.append(norm(f"{sizes.module}.norms", sizes.extra_norm))
    attention = _cached(sizes)
    if indexer is None:
        return attention, tuple(matrices)
    if indexer.shared:
        return dataclasses.replace(attention, selected=indexer.top_tokens), tuple(matrices)
    return _indexed(attention, indexer), (*matrices, *_indexer(sizes, indexer))


def _cached(sizes: Latent) -> Attention:
    key = sizes.nope + sizes.rope
    wide = 2 * sizes.heads * key
    compressed = sizes.latent + sizes.rope
    return Attention(
        kind="full" if sizes.whole_heads else "latent",
        heads=sizes.heads,
        kv_heads=sizes.heads if sizes.whole_heads else 1,
        head_dim=key if sizes.whole_heads else compressed,
        kv_values=float(wide if sizes.whole_heads else compressed),
        pair_flops=2 * wide if sizes.whole_heads else wide + 2 * sizes.heads * sizes.value,
    )


def _latent_queries(sizes: Latent) -> list[Matrix]:
    """Return the projection of the queries: one matrix, or two with a norm between them."""
    width = sizes.heads * (sizes.nope + sizes.rope)
    rank = sizes.query_rank
    if rank is None:
        return [_projection(sizes.module, "q_proj", width, sizes.hidden)]
    beside = 2 * rank if sizes.bias else rank
    return [
        _projection(sizes.module, "q_a_proj", rank, sizes.hidden, beside),
        _projection(sizes.module, "q_b_proj", width, rank),
    ]


def _indexed(attention: Attention, indexer: Indexer) -> Attention:
    return dataclasses.replace(
        attention,
        kind="sparse",
        fixed_bytes=float(indexer.bytes_per_token),
        selected=indexer.top_tokens,
        index_flops=2 * indexer.heads * indexer.head_dim,
    )


def _indexer(sizes: Latent, indexer: Indexer) -> tuple[Matrix, ...]:
    rank = sizes.query_rank or sizes.hidden
    module = f"{sizes.module}.indexer"
    width = indexer.heads * indexer.head_dim
    return (
        Matrix(name=f"{module}.wq_b", part="attention", outputs=width, inputs=rank),
        Matrix(
            name=f"{module}.wk",
            part="attention",
            outputs=indexer.head_dim,
            inputs=sizes.hidden,
            extra=2 * indexer.head_dim,
        ),
        Matrix(
            name=f"{module}.weights_proj",
            part="attention",
            outputs=indexer.heads,
            inputs=sizes.hidden,
            linear=False,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockIndex:
    """Sizes of an index of blocks of keys. `selected`: tokens of the blocks that it chooses, if known."""

    heads: int
    head_dim: int
    selected: int | None = None


def with_block_index(
    mixed: tuple[Attention, tuple[Matrix, ...]], hidden: int, sizes: BlockIndex
) -> tuple[Attention, tuple[Matrix, ...]]:
    """Add the index by which grouped attention chooses blocks of keys; its keys are cached in 16 bits."""
    attention, matrices = mixed
    heads, head_dim = sizes.heads, sizes.head_dim
    index = (
        Matrix(
            name="self_attn.index_q_proj", part="attention", outputs=heads * head_dim, inputs=hidden
        ),
        Matrix(
            name="self_attn.index_k_proj",
            part="attention",
            outputs=head_dim,
            inputs=hidden,
            extra=2 * head_dim,
        ),
    )
    chosen = dataclasses.replace(
        attention,
        kind="sparse",
        fixed_bytes=2.0 * head_dim,
        selected=sizes.selected,
        index_flops=2 * heads * head_dim,
    )
    return chosen, (*matrices, *index)
