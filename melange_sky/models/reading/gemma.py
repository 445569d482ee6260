"""Gemma 3n and Gemma 4: layers that share keys, sizes by kind of layer, embeddings per layer."""

from __future__ import annotations

import dataclasses

from melange_sky.errors import InputError
from melange_sky.models.fields import Fields
from melange_sky.models.layers import Layer, Matrix, norm
from melange_sky.models.reading.attention import AttentionTraits, Heads, grouped
from melange_sky.models.reading.core import Core, Mixed, read_core
from melange_sky.models.reading.decoder import Decoder, is_tied, read_outside
from melange_sky.models.reading.family import Family, is_on
from melange_sky.models.reading.feed_forward import Dense, dense
from melange_sky.models.reading.patterns import Mixer, mixers
from melange_sky.models.reading.widths import Fed, expert_count, read_dense, read_experts


def read_gemma4(fields: Fields, family: Family) -> Decoder:
    """Read Gemma 4: full layers have a head size and key heads of their own, values may be the keys."""
    core = read_core(fields, family)
    kinds = mixers(fields, family, core.layers)
    kinds[-1] = "full"  # whatever a file says of its last layer
    count = expert_count(fields, family)
    shared_from = core.layers - _shared_layers(fields, core)
    layers = []
    for number, kind in enumerate(kinds):
        own = number < shared_from
        sizes = _own_sizes(fields, core, kind, number)
        attention, attending = _gemma4_attention(kind, own, fields, family, sizes)
        fed, feeding = _gemma4_dense(own, fields, family, core, number)
        beside = 4 * core.hidden
        routed: tuple[Matrix, ...] = ()
        if count:
            fed, routed = read_experts(fields, family, core, count)
            beside += 3 * core.hidden + core.hidden + count
        layers.append(
            Layer(
                attention=attention,
                feed_forward=fed,
                matrices=(
                    *attending,
                    *feeding,
                    *routed,
                    norm("norms", beside),
                    *_per_layer_inputs(fields, core),
                ),
            )
        )
    decoder = Decoder(core=core, layers=layers, outside=read_outside(fields, family, core))
    decoder.tied = is_tied(fields, family)
    decoder.outside += _per_layer_embeddings(fields, core)
    return decoder


def _shared_layers(fields: Fields, core: Core) -> int:
    shared = fields.maybe("num_kv_shared_layers") or 0
    if shared > core.layers:
        raise InputError(
            f"{fields.where}: 'num_kv_shared_layers' is {shared} of {core.layers} layers"
        )
    return shared


def _own_sizes(fields: Fields, core: Core, kind: Mixer, number: int) -> Core:
    """Return the head sizes of one layer: those of full layers, or what the file says of this one."""
    head_dim, kv_heads = core.head_dim, core.kv_heads
    fields.read.update(("global_head_dim", "num_global_key_value_heads"))
    listed = fields.section("per_layer_config")
    if kind == "full":
        stated = "per_layer_config" not in fields.raw or fields.has("global_head_dim")
        head_dim = (fields.maybe("global_head_dim") if stated else None) or head_dim
        if fields.flag("attention_k_eq_v"):
            kv_heads = fields.maybe("num_global_key_value_heads") or kv_heads
    if listed is not None:
        for name in (str(number), f"{number:02d}", f"{number:03d}"):
            entry = listed.section(name)
            if entry is not None:
                head_dim = entry.maybe("head_dim") or head_dim
                kv_heads = entry.maybe("num_key_value_heads") or kv_heads
    return dataclasses.replace(core, head_dim=head_dim, kv_heads=kv_heads)


def _gemma4_attention(kind: Mixer, own: bool, fields: Fields, family: Family, core: Core) -> Mixed:
    keys_as_values = kind == "full" and fields.flag("attention_k_eq_v")
    traits = AttentionTraits(
        qkv_bias=is_on(fields, family.qkv_bias),
        o_bias=is_on(fields, family.o_bias),
        head_norm="head",
        values_are_keys=keys_as_values,
        own_keys=own,
    )
    heads = Heads(
        hidden=core.hidden, heads=core.heads, kv_heads=core.kv_heads, head_dim=core.head_dim
    )
    if kind == "sliding":
        return grouped(heads, traits, "sliding", fields.whole("sliding_window"))
    return grouped(heads, traits)


def _gemma4_dense(own: bool, fields: Fields, family: Family, core: Core, number: int) -> Fed:
    if not own and fields.flag("use_double_wide_mlp"):
        width = 2 * fields.whole("intermediate_size")
        return dense(Dense(hidden=core.hidden, width=width))
    return read_dense(fields, family, core, number)


def _per_layer_inputs(fields: Fields, core: Core) -> tuple[Matrix, ...]:
    width = fields.maybe("hidden_size_per_layer_input")
    if width is None:
        return ()
    return (
        Matrix(name="per_layer_input_gate", part="adapter", outputs=width, inputs=core.hidden),
        Matrix(name="per_layer_projection", part="adapter", outputs=core.hidden, inputs=width),
        norm("post_per_layer_input_norm", core.hidden),
    )


def _per_layer_embeddings(fields: Fields, core: Core) -> list[Matrix]:
    width = fields.maybe("hidden_size_per_layer_input")
    fields.read.add("vocab_size_per_layer_input")
    if width is None:
        return []
    total = core.layers * width
    rows = fields.maybe("vocab_size_per_layer_input") or core.vocabulary
    return [
        Matrix(
            name="model.language_model.embed_tokens_per_layer",
            part="embedding",
            outputs=rows,
            inputs=total,
            linear=False,
        ),
        Matrix(
            name="model.language_model.per_layer_model_projection",
            part="adapter",
            outputs=total,
            inputs=core.hidden,
            extra=width,
        ),
    ]


def read_gemma3n(fields: Fields, family: Family) -> Decoder:
    """Read Gemma 3n: alternating updates, low-rank residuals, and keys shared by the last layers."""
    core = read_core(fields, family)
    kinds = mixers(fields, family, core.layers)
    shared_from = core.layers - _shared_layers(fields, core)
    streams = fields.whole("altup_num_inputs", 4)
    residuals = _gemma3n_residuals(fields, core.hidden, streams)
    layers = []
    for number, kind in enumerate(kinds):
        attention, attending = _gemma3n_attention(kind, number < shared_from, fields, core)
        fed, feeding = read_dense(fields, family, core, number)
        per_layer = _per_layer_inputs(fields, core)
        layers.append(
            Layer(
                attention=attention,
                feed_forward=fed,
                matrices=(*attending, *feeding, *residuals, *per_layer),
            )
        )
    decoder = Decoder(core=core, layers=layers, outside=read_outside(fields, family, core))
    decoder.tied = is_tied(fields, family)
    decoder.outside += _per_layer_embeddings(fields, core)
    decoder.outside += _stream_projections(core.hidden, streams)
    return decoder


def _gemma3n_attention(kind: Mixer, own: bool, fields: Fields, core: Core) -> Mixed:
    traits = AttentionTraits(head_norm="head", own_keys=own)
    window = fields.whole("sliding_window") if kind == "sliding" else None
    heads = Heads(
        hidden=core.hidden, heads=core.heads, kv_heads=core.kv_heads, head_dim=core.head_dim
    )
    return grouped(heads, traits, "sliding" if window else "full", window)


def _gemma3n_residuals(fields: Fields, hidden: int, streams: int) -> tuple[Matrix, ...]:
    """Return what a layer holds for its `streams` of state and its low-rank residual, with its norms."""
    rank = fields.whole("laurel_rank", 64)
    beside = 4 * hidden + (hidden if fields.flag("altup_correct_scale", True) else 0)
    beside += streams * streams + streams**3 + hidden + hidden
    return (
        Matrix(
            name="altup.modality_router",
            part="adapter",
            outputs=streams,
            inputs=hidden,
            linear=False,
        ),
        Matrix(name="laurel.linear_left", part="adapter", outputs=rank, inputs=hidden),
        Matrix(name="laurel.linear_right", part="adapter", outputs=hidden, inputs=rank),
        norm("norms", beside),
    )


def _stream_projections(hidden: int, streams: int) -> list[Matrix]:
    """Return what leads from the embedding to the further streams of state, and back."""
    return [
        Matrix(
            name=f"model.language_model.altup_{way}_projections.0",
            part="adapter",
            outputs=hidden,
            inputs=hidden,
            copies=streams - 1,
        )
        for way in ("", "unembed")
        if streams > 1
    ]
