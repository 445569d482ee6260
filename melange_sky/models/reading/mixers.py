"""The attention of one layer of a config, as its family builds it."""

from __future__ import annotations

from melange_sky.errors import InputError
from melange_sky.models.fields import Fields
from melange_sky.models.layers import AttentionKind, Matrix
from melange_sky.models.reading.attention import (
    AttentionTraits,
    BlockIndex,
    Heads,
    Indexer,
    Latent,
    grouped,
    latent,
    with_block_index,
)
from melange_sky.models.reading.core import Core, Mixed
from melange_sky.models.reading.family import Family, is_on
from melange_sky.models.reading.patterns import Mixer

_GATES: dict[str, str] = {"query": "attn_output_gate", "head": "use_head_wise_attn_gate"}
"""Fields by which a config takes the gate of its family away."""


def mix(kind: Mixer, fields: Fields, family: Family, core: Core, number: int) -> Mixed:
    """Return the attention of layer `number` with its weights."""
    if kind == "linear":
        from melange_sky.models.reading.states import read_linear  # most models have none

        return read_linear(fields, family, core)
    if family.attention == "latent" and not _is_grouped_after_all(fields):
        return _latent(fields, family, core, number)
    if family.attention == "factored":
        return _factored(fields, core)
    return _grouped(kind, fields, family, core, number)


def _grouped(kind: Mixer, fields: Fields, family: Family, core: Core, number: int) -> Mixed:
    window = None
    if kind == "sliding":
        window = fields.whole("sliding_window")
    elif kind == "chunked":
        window = fields.whole("attention_chunk_size")
    heads = _layer_heads(kind, fields, family, core, number)
    if family.square_output and heads.heads * heads.head_dim != core.hidden:
        raise InputError(
            f"{fields.where}: 'num_attention_heads' ({heads.heads}) of {heads.head_dim} values each do not make "
            f"'hidden_size' ({core.hidden}), which {family.types[0]} needs"
        )
    head_norm = family.head_norm
    if family.head_norm_field is not None and not fields.flag(family.head_norm_field):
        head_norm = "none"
    gate = family.gate
    if family.gate_field is not None and fields.get(family.gate_field) not in (
        None,
        True,
        "per-head",
    ):
        gate = "width"
    if gate in _GATES and fields.get(_GATES[gate]) is False:
        gate = "none"
    traits = AttentionTraits(
        module=family.module,
        qkv_bias=is_on(fields, family.qkv_bias),
        o_bias=is_on(fields, family.o_bias),
        head_norm=head_norm,
        gate=gate,
        sinks=family.sinks or _sinks(fields, kind),
    )
    name: AttentionKind = "full"
    if window is not None:
        name = "chunked" if kind == "chunked" else "sliding"
    mixed = grouped(heads, traits, name, window)
    if family.block_index:
        index = _block_index(fields, core, number)
        if index is not None:
            return with_block_index(mixed, core.hidden, index)
    return mixed


def _block_index(fields: Fields, core: Core, number: int) -> BlockIndex | None:
    """Return the index of a layer that attends to chosen blocks (MiniMax-M3)."""
    section = fields.section("sparse_attention_config")
    if section is not None:
        section.read.update(section.raw)
        flags = section.wholes("sparse_attention_freq", core.layers) or [1] * core.layers
        if not section.flag("use_sparse_attention", True) or not flags[number]:
            return None
        chosen, size = section.maybe("sparse_topk_blocks"), section.maybe("sparse_block_size")
        return BlockIndex(
            heads=section.whole("sparse_num_index_heads"),
            head_dim=section.whole("sparse_index_dim"),
            selected=None if chosen is None or size is None else chosen * size,
        )
    types = fields.words("layer_types", core.layers)
    if types is None or types[number] != "minimax_m3_sparse":
        return None
    return BlockIndex(heads=fields.whole("index_n_heads"), head_dim=fields.whole("index_head_dim"))


def _sinks(fields: Fields, kind: Mixer) -> bool:
    key = "add_swa_attention_sink_bias" if kind == "sliding" else "add_full_attention_sink_bias"
    return fields.flag(key)


def _layer_heads(kind: Mixer, fields: Fields, family: Family, core: Core, number: int) -> Heads:
    """Return a layer's heads where sliding layers, or single ones, have sizes of their own."""
    heads, kv_heads, head_dim = core.heads, core.kv_heads, core.head_dim
    value_dim = None if family.attention == "latent" else fields.maybe("v_head_dim")
    listed = fields.wholes("num_attention_heads_per_layer", core.layers)
    if listed is not None:
        heads = max(1, listed[number])
    if kind == "sliding":
        heads = fields.maybe("swa_num_attention_heads") or (
            fields.maybe("num_sliding_attention_heads") or heads
        )
        few = 2 * kv_heads if family.window == "mimo" else kv_heads  # where the file leaves it out
        kv_heads = fields.maybe("swa_num_key_value_heads") or few
        head_dim = fields.maybe("swa_head_dim") or head_dim
        value_dim = fields.maybe("swa_v_head_dim") or value_dim
        other = fields.section("attention_other_setting")
        if other is not None:
            other.read.update(other.raw)
            heads = other.maybe("num_attention_heads") or heads
            kv_heads = other.maybe("num_key_value_heads") or kv_heads
            head_dim = other.maybe("head_dim") or head_dim
    if heads % kv_heads:
        raise InputError(
            f"{fields.where}: {heads} heads of layer {number} are not a multiple of its {kv_heads} key-value heads"
        )
    return Heads(
        hidden=core.hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, value_dim=value_dim
    )


def _is_grouped_after_all(fields: Fields) -> bool:
    """Return whether a config of a family with latent attention has plain heads (DeepSeek-VL2 Tiny)."""
    fields.read.add("use_mla")
    if fields.raw.get("use_mla") is not False and fields.raw.get("kv_lora_rank", 1) is not None:
        return False
    fields.read.update(("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim"))
    fields.read.update(("qk_rope_head_dim", "v_head_dim"))
    return True


def _factored(fields: Fields, core: Core) -> Mixed:
    """Return the attention of Step-3: one key head, and queries through a narrower state."""
    rank = fields.maybe("share_q_dim") or core.head_dim
    heads = Heads(hidden=core.hidden, heads=core.heads, kv_heads=1, head_dim=core.head_dim)
    attention, matrices = grouped(heads, AttentionTraits())
    queries = (
        Matrix(
            name="self_attn.q_proj", part="attention", outputs=rank, inputs=core.hidden, extra=rank
        ),
        Matrix(
            name="self_attn.wq", part="attention", outputs=core.heads * core.head_dim, inputs=rank
        ),
    )
    return attention, (*queries, *matrices[1:])


def _latent(fields: Fields, family: Family, core: Core, number: int) -> Mixed:
    fields.read.update(("qk_head_dim", "head_dim", "num_key_value_heads"))
    sizes = Latent(
        hidden=core.hidden,
        heads=core.heads,
        latent=fields.whole("kv_lora_rank"),
        rope=fields.whole("qk_rope_head_dim"),
        nope=fields.whole("qk_nope_head_dim"),
        value=fields.whole(
            "v_head_dim", core.hidden // core.heads if family.types[0] == "minicpm3" else None
        ),
        query_rank=fields.maybe("q_lora_rank"),
        bias=fields.flag("attention_bias"),
        gate="width" if fields.flag("mla_use_output_gate") else family.gate,
        whole_heads=family.whole_heads,
        module=family.module,
    )
    return latent(sizes, _indexer(fields, core, number))


def _indexer(fields: Fields, core: Core, number: int) -> Indexer | None:
    top = fields.maybe("index_topk")
    heads, head_dim = fields.maybe("index_n_heads"), fields.maybe("index_head_dim")
    if top is None or heads is None or head_dim is None:
        return None
    shared = _shares_index(fields, core, number)
    return Indexer(heads=heads, head_dim=head_dim, top_tokens=top, shared=shared)


def _shares_index(fields: Fields, core: Core, number: int) -> bool:
    """Return whether a layer uses the choice of an earlier one (GLM-5.2) and has no indexer."""
    types = fields.words("indexer_types", core.layers)
    shared = _skips_index(fields, number)
    if types is None:
        return shared
    if (types[number] == "shared") is not shared:
        fields.told.append(
            "'indexer_types' is not what 'index_topk_freq' or 'index_topk_pattern' makes, which engines go by: their "
            "cache of index keys differs"
        )
    return types[number] == "shared"


def _skips_index(fields: Fields, number: int) -> bool:
    """Return the same by the fields that engines read."""
    pattern = fields.text("index_topk_pattern")
    if pattern:
        return number < len(pattern) and pattern[number] == "S"
    frequency = fields.maybe("index_topk_freq") or 1
    offset = fields.maybe("index_skip_topk_offset") or 2
    return max(number - offset + 1, 0) % frequency != 0
