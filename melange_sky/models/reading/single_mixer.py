"""Decoders whose layers are one thing each (Nemotron-H), or two mixers side by side (Falcon-H1)."""

from __future__ import annotations

import dataclasses

from melange_sky.errors import InputError
from melange_sky.models.fields import MOST_LAYERS, Fields, shown
from melange_sky.models.layers import NO_ATTENTION, NO_FEED_FORWARD, Layer, Matrix
from melange_sky.models.reading.core import Core, read_core
from melange_sky.models.reading.decoder import (
    Decoder,
    is_tied,
    norms_of,
    read_extra_heads,
    read_outside,
)
from melange_sky.models.reading.family import Family
from melange_sky.models.reading.mixers import mix
from melange_sky.models.reading.states import read_mamba2
from melange_sky.models.reading.widths import expert_count, read_dense, read_experts

_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_WORDS = {
    "mamba": "mamba",
    "linear_attention": "mamba",
    "attention": "attention",
    "full_attention": "attention",
    "mlp": "mlp",
    "dense": "mlp",
    "moe": "moe",
    "sparse": "moe",
}


def read_single_mixer(fields: Fields, family: Family) -> Decoder:
    """Read a model whose layers are a mixer or a feed-forward, never both."""
    kinds = _kinds(fields, "hybrid_override_pattern", "layers_block_type", "layer_types")
    if kinds is None:
        raise InputError(
            f"{fields.where}: no 'hybrid_override_pattern' and no 'layers_block_type': they say which "
            "layers attend"
        )
    stated = fields.maybe("num_hidden_layers") or len(kinds)
    if stated > len(kinds) or len(kinds) > MOST_LAYERS:
        raise InputError(
            f"{fields.where}: 'num_hidden_layers' is {stated} where the pattern has {len(kinds)} layers"
        )
    kinds = kinds[:stated]
    core = read_core(fields.changed({"num_hidden_layers": len(kinds)}), family)
    layers = [_layer(kind, fields, family, core) for kind in kinds]
    fields.read.add("intermediate_size")
    decoder = Decoder(core=core, layers=layers, outside=read_outside(fields, family, core))
    decoder.tied = is_tied(fields, family)
    extra = _kinds(fields, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
    if extra is not None and fields.maybe("num_nextn_predict_layers"):
        heads = read_extra_heads(fields, family, core, [_layer("attention", fields, family, core)])
        for kind in extra[1:]:
            heads += _layer(kind, fields, family, core).matrices
        decoder.extra_heads = heads
    return decoder


def _kinds(fields: Fields, *keys: str) -> list[str] | None:
    for key in keys:
        value = fields.get(key)
        if value is None:
            continue
        table = _LETTERS if isinstance(value, str) else _WORDS
        words = list(value) if isinstance(value, str) else fields.words(key) or []
        unknown = next((word for word in words if word not in table), None)
        if unknown is not None:
            raise InputError(
                f"{fields.where}: '{key}' holds '{shown(unknown)}', an unsupported kind of layer"
            )
        return [table[word] for word in words]
    return None


def _layer(kind: str, fields: Fields, family: Family, core: Core) -> Layer:
    norms = norms_of(fields, family, core.hidden)
    if kind == "mamba":
        attention, matrices = mix("linear", fields, family, core, 0)
        return Layer(
            attention=attention,
            feed_forward=NO_FEED_FORWARD,
            matrices=(*_renamed(matrices, "mamba", "mixer"), *norms),
        )
    if kind == "attention":
        attention, matrices = mix("full", fields, family, core, 0)
        return Layer(
            attention=attention, feed_forward=NO_FEED_FORWARD, matrices=(*matrices, *norms)
        )
    if kind == "moe":
        count = expert_count(fields, family)
        if not count:
            raise InputError(f"{fields.where}: no 'n_routed_experts' for its layers of experts")
        fed, matrices = read_experts(fields, family, core, count)
    else:
        fed, matrices = read_dense(fields, family, core)
    return Layer(attention=NO_ATTENTION, feed_forward=fed, matrices=(*matrices, *norms))


def _renamed(matrices: tuple[Matrix, ...], old: str, new: str) -> tuple[Matrix, ...]:
    return tuple(dataclasses.replace(m, name=f"{new}{m.name.removeprefix(old)}") for m in matrices)


def read_parallel_mixers(fields: Fields, family: Family) -> Decoder:
    """Read a model whose layers attend and keep a state at once."""
    core = read_core(fields, family)
    layers = []
    for number in range(core.layers):
        attention, attending = mix("full", fields, family, core, number)
        state, keeping = read_mamba2(fields, core)
        fed, feeding = read_dense(fields, family, core, number)
        both = dataclasses.replace(
            attention, kind="hybrid", state_bytes=state.state_bytes, state_values=state.state_values
        )
        norms = norms_of(fields, family, core.hidden)
        layers.append(
            Layer(
                attention=both,
                feed_forward=fed,
                matrices=(*attending, *keeping, *feeding, *norms),
            )
        )
    decoder = Decoder(core=core, layers=layers, outside=read_outside(fields, family, core))
    decoder.tied = is_tied(fields, family)
    return decoder
