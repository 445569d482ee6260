"""Models whose blocks were searched or are shared: Nemotron-NAS, LongCat-Flash, Zamba2."""

from __future__ import annotations

import dataclasses

from melange_sky.errors import InputError
from melange_sky.models.fields import MOST_LAYERS, Fields, shown
from melange_sky.models.layers import NO_ATTENTION, NO_FEED_FORWARD, Attention, Layer, Matrix, norm
from melange_sky.models.reading.attention import AttentionTraits, Heads, grouped
from melange_sky.models.reading.core import Core, Mixed, read_core
from melange_sky.models.reading.decoder import Decoder, is_tied, norms_of, read_outside
from melange_sky.models.reading.family import Family
from melange_sky.models.reading.feed_forward import Dense, dense
from melange_sky.models.reading.mixers import mix
from melange_sky.models.reading.widths import Fed, expert_count, read_dense, read_experts


def read_nas_blocks(fields: Fields, family: Family) -> Decoder:
    """Read a Nemotron found by neural architecture search: every block says what it is."""
    core = read_core(fields, family)
    blocks = fields.items("block_configs", core.layers)
    if blocks is None:
        raise InputError(f"{fields.where}: no 'block_configs': they say what each layer is")
    layers = []
    for number, block in enumerate(blocks):
        where = f"{fields.where}: block_configs[{number}]"
        if not isinstance(block, dict):
            raise InputError(f"{where} must be a mapping")
        entry = Fields(block, where)
        attention, attending = _nas_attention(entry, core)
        fed, feeding = _nas_feed_forward(entry, core)
        layers.append(Layer(attention=attention, feed_forward=fed, matrices=(*attending, *feeding)))
    decoder = Decoder(core=core, layers=layers, outside=read_outside(fields, family, core))
    decoder.tied = is_tied(fields, family)
    return decoder


def _replaced(name: str, hidden: int) -> tuple[Matrix, ...]:
    return (
        Matrix(name=name, part="adapter", outputs=hidden, inputs=hidden),
        norm(f"{name}_norm", hidden),
    )


def _nas_attention(entry: Fields, core: Core) -> Mixed:
    part = entry.section("attention")
    if part is None or part.flag("no_op"):
        return NO_ATTENTION, ()
    if part.flag("replace_with_linear"):
        return NO_ATTENTION, _replaced("self_attn.linear_attn", core.hidden)
    kv_heads = max(1, core.heads // part.whole("n_heads_in_group"))
    heads = Heads(hidden=core.hidden, heads=core.heads, kv_heads=kv_heads, head_dim=core.head_dim)
    window = part.maybe("window_length")
    attention, matrices = grouped(heads, AttentionTraits(), "sliding" if window else "full", window)
    return attention, (*matrices, norm("input_layernorm", core.hidden))


def _nas_feed_forward(entry: Fields, core: Core) -> Fed:
    part = entry.section("ffn")
    if part is None or part.flag("no_op"):
        return NO_FEED_FORWARD, ()
    if part.flag("replace_with_linear"):
        return NO_FEED_FORWARD, _replaced("mlp.linear_mlp", core.hidden)
    width = part.maybe("intermediate_size")
    if width is None:
        width = int(2 * part.number("ffn_mult", 0.0) * core.hidden / 3)
        if width <= 0:
            raise InputError(f"{part.where}: no 'ffn_mult': it says how wide the block is")
        width = -(-width // 256) * 256
    fed, matrices = dense(Dense(hidden=core.hidden, width=width))
    return fed, (*matrices, norm("post_attention_layernorm", core.hidden))


def read_longcat(fields: Fields, family: Family) -> Decoder:
    """Read LongCat-Flash: each block has two attentions, two dense feed-forwards and one of experts."""
    core = read_core(fields, family)
    count = expert_count(fields, family)
    if not count:
        raise InputError(f"{fields.where}: no 'n_routed_experts', which LongCat-Flash has")
    blocks = fields.maybe("num_layers") or core.layers  # `num_hidden_layers` may count attentions
    attentions = fields.raw.get("num_hidden_layers")
    if fields.has("num_layers") and attentions not in (None, 2 * blocks):
        fields.told.append(
            f"'num_hidden_layers' ({shown(attentions)}) is not twice 'num_layers' ({blocks}): engines load half as "
            "many blocks as it says"
        )
    if blocks > MOST_LAYERS:
        raise InputError(f"{fields.where}: 'num_layers' is {blocks}; no model has so many")
    layers = []
    for number in range(blocks):
        for half in (0, 1):
            attention, attending = mix("full", fields, family, core, number)
            fed, feeding = read_dense(fields, family, core, number)
            if half:
                fed, routed = read_experts(fields, family, core, count)
                feeding = (*feeding, *routed)
            norms = norms_of(fields, family, core.hidden)
            layers.append(
                Layer(
                    attention=attention,
                    feed_forward=fed,
                    matrices=(*attending, *feeding, *norms),
                )
            )
    decoder = Decoder(core=core, layers=layers, outside=read_outside(fields, family, core))
    decoder.tied = is_tied(fields, family)
    return decoder


def read_zamba2(fields: Fields, family: Family) -> Decoder:
    """Read Zamba2: Mamba-2 layers, some of which call one of a few shared transformer blocks."""
    core = read_core(fields, family)
    calling = _calling_layers(fields, core)
    blocks = min(fields.whole("num_mem_blocks", 1), len(calling))
    rank, width = fields.whole("adapter_rank", 128), fields.whole("intermediate_size")
    attention, attending = _zamba2_attention(fields, core)
    layers = []
    for number in range(core.layers):
        state, mixing = mix("linear", fields, family, core, number)
        matrices = (*mixing, *norms_of(fields, family, core.hidden))
        mixed: Attention = state
        if number in calling:
            mixed = dataclasses.replace(
                attention,
                kind="hybrid",
                state_bytes=state.state_bytes,
                state_values=state.state_values,
            )
            matrices += _zamba2_adapters(fields, core.hidden, rank, width)
        layers.append(Layer(attention=mixed, feed_forward=NO_FEED_FORWARD, matrices=matrices))
    decoder = Decoder(core=core, layers=layers, outside=read_outside(fields, family, core))
    decoder.tied = is_tied(fields, family, default=True)
    for block in range(blocks):
        decoder.outside += _zamba2_block(block, attending, core.hidden, width)
    return decoder


def _zamba2_adapters(fields: Fields, hidden: int, rank: int, width: int) -> tuple[Matrix, ...]:
    """Return what a layer holds of its own to call a shared block."""
    adapters = (
        Matrix(name="linear", part="adapter", outputs=hidden, inputs=hidden),
        Matrix(name="adapter.0", part="adapter", outputs=rank, inputs=hidden),
        Matrix(name="adapter.1", part="adapter", outputs=2 * width, inputs=rank),
    )
    if not fields.flag("use_shared_attention_adapter"):
        return adapters
    attending = (
        Matrix(
            name=f"adapter.{way}",
            part="adapter",
            outputs=2 * hidden,
            inputs=rank,
            copies=2 * 3 // 2,
        )
        for way in ("attention_in", "attention_out")
    )
    return (*adapters, *attending)


def _zamba2_block(
    number: int, attending: tuple[Matrix, ...], hidden: int, width: int
) -> list[Matrix]:
    """Return the weights of one shared block, whose attention has those of `attending`."""
    _, feeding = dense(Dense(hidden=hidden, width=width, module="shared_transformer.feed_forward"))
    norms = norm("shared_transformer.norms", 3 * hidden)
    return [
        dataclasses.replace(matrix, name=f"model.blocks.{number}.{matrix.name}")
        for matrix in (*attending, *feeding, norms)
    ]


def _calling_layers(fields: Fields, core: Core) -> set[int]:
    numbers = fields.wholes("hybrid_layer_ids")
    words = fields.words("layers_block_type") or fields.words("layer_types")
    if words is not None:
        numbers = [i for i, word in enumerate(words[: core.layers]) if word == "hybrid"]
    if numbers is None:
        raise InputError(
            f"{fields.where}: no 'hybrid_layer_ids': they say which layers call the shared block"
        )
    return set(numbers)


def _zamba2_attention(fields: Fields, core: Core) -> Mixed:
    inner = fields.maybe("attention_hidden_size") or 2 * core.hidden
    head_dim = fields.maybe("attention_head_dim") or 2 * core.hidden // core.heads
    heads = Heads(
        hidden=core.hidden,
        heads=core.heads,
        kv_heads=core.kv_heads,
        head_dim=head_dim,
        input_size=inner,
    )
    return grouped(heads, AttentionTraits(module="shared_transformer.self_attn"))
