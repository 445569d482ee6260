"""From a Hugging Face `config.json` to the sizes that the planner works with.

The list of layers (`read_layers`) says what a model is; here its layers are gathered by kind, each
with the bytes of its weights in the formats of the checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from melange_sky.errors import InputError
from melange_sky.models.expert_tiles import ExpertSizes
from melange_sky.models.layer_group import LayerGroup, Weights
from melange_sky.models.layers import Attention, Layer, LayerList, Matrix
from melange_sky.models.reading.read import read_layers
from melange_sky.models.shape import ModelShape
from melange_sky.models.weights.scheme import DECODER_PARTS, Scheme, matrix_bytes, weight_sizes
from melange_sky.models.weights.sections import read_scheme
from melange_sky.models.weights.splits import check_groups, split_units

NO_FLOAT16 = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4"})
"""Model types that are numerically unstable in float16, so that a GPU without bfloat16 serves them in no 16 bits."""

_NO_STAGES = frozenset({"gemma3n", "gemma3n_text", "zamba2"})
"""Model types whose layers share weights or caches with distant ones, so that engines run no pipelines of them."""

DOUBT = 1.5
"""By which factor estimates may be off further where a model's structure was not read in full."""

_WHOLE = ("q_a_proj", "kv_a_proj_with_mqa", "wq_a", "wkv")
_KEY_VALUES = ("k_proj", "v_proj")
"""Last words of the names of weights that tensor parallelism does not split as it splits the others."""


def shape_from_config(
    name: str,
    config: Mapping[str, Any],
    where: str = "config.json",
    side_file: Mapping[str, Any] | None = None,
) -> ModelShape:
    """Return the sizes of the model that `config` describes.

    `side_file`: what the `hf_quant_config.json` beside it holds. Raises InputError that names the
    missing or wrong field.
    """
    layers = read_layers(config, where)
    scheme = read_scheme(config, side_file, where)
    check_groups(name, layers, scheme)
    return shape_of(name, layers, scheme)


def shape_of(name: str, model: LayerList, scheme: Scheme) -> ModelShape:
    """Return the sizes of a model from its layers and the formats of its weights."""
    groups = layer_groups(model, scheme)
    caching = [group for group in groups if group.caches]
    if not caching:
        raise InputError(f"{name}: no layer keeps a KV cache; such models are not planned")
    outside = [(matrix.name, matrix) for matrix in model.outside]
    towers = [(matrix.name, matrix) for tower in model.towers for matrix in tower.matrices]
    return ModelShape(
        name=name,
        groups=groups,
        head=_weights([row for row in outside if not model.is_lookup(row[1])], scheme),
        lookup=_weights([row for row in outside if model.is_lookup(row[1])], scheme),
        towers=_weights(towers, scheme),
        hidden_size=model.hidden_size,
        heads=max(group.heads for group in caching),
        kv_heads=min(group.kv_heads for group in caching),
        vocabulary=model.vocabulary,
        context_tokens=model.context_tokens,
        fp8_compute=scheme.default is not None and scheme.default.float8,
        dtype=_form(scheme),
        no_float16=model.model_type in NO_FLOAT16,
        checkpoint_bytes=_checkpoint_bytes(model, scheme),
        split_units=split_units(model, scheme),
        architecture=model.architecture,
        config_type=model.model_type,
        doubt=DOUBT if model.doubtful else 1.0,
        inputs=tuple(dict.fromkeys(tower.kind for tower in model.towers)),
        in_stages=model.model_type not in _NO_STAGES,
        notes=(*_notes(model), *scheme.notes),
    )


def layer_groups(model: LayerList, scheme: Scheme) -> tuple[LayerGroup, ...]:
    """Return the layers of a model by kinds, in order of first appearance.

    Layers are of one kind where they cache and compute alike and hold weights of the same bytes.
    """
    counts: dict[LayerGroup, int] = {}
    known: dict[int, LayerGroup] = {}
    for number, layer in enumerate(model.layers):
        group = None if scheme.method else known.get(id(layer))
        if group is None:
            group = known[id(layer)] = _group(
                layer, model.prefix.replace("{i}", str(number)), scheme
            )
        counts[group] = counts.get(group, 0) + 1
    return tuple(dataclasses.replace(group, count=count) for group, count in counts.items())


def _group(layer: Layer, prefix: str, scheme: Scheme) -> LayerGroup:
    attention, fed = layer.attention, layer.feed_forward
    named = [(prefix + matrix.name, matrix) for matrix in layer.matrices]
    expert_rows = [row for row in named if row[1].part == "experts"]
    dense = [row for row in named if row[1].part != "experts"]
    mixers = int(attention.kind != "none") + int(fed.kind != "none")
    return LayerGroup(
        count=1,
        heads=attention.heads,
        kv_heads=attention.kv_heads if _caches(attention) else 0,
        kv_values=attention.kv_values,
        window_values=attention.window_values,
        window=attention.window if attention.window_values else None,
        chunked=attention.kind == "chunked",
        selected=attention.selected,
        latent=_is_latent(attention),
        fixed_bytes=attention.fixed_bytes,
        state_bytes=attention.state_bytes,
        state_values=attention.state_values,
        pair_flops=attention.pair_flops if _caches(attention) else 0,
        decode_flops=_decode_flops(attention),
        index_flops=attention.index_flops,
        sinks=attention.sinks,
        routed=fed.experts,
        experts_per_token=fed.experts_per_token,
        dense=_weights(dense, scheme),
        experts=_weights(expert_rows, scheme),
        expert_sizes=_expert_sizes(expert_rows, scheme),
        whole=_linear(m for _, m in dense if _is_whole(m)),
        key_values=_linear(
            m for _, m in dense if m.part == "attention" and _last(m) in _KEY_VALUES
        ),
        mixers=mixers,
    )


def _expert_sizes(rows: list[tuple[str, Matrix]], scheme: Scheme) -> ExpertSizes | None:
    """Return the sizes of one expert, of the first layer of experts where they differ."""
    rising = [row for row in rows if _last(row[1]) != "down_proj"]
    if not rising:
        return None
    chosen = scheme.format_of(*rising[0])
    return ExpertSizes(
        form="" if chosen is None else chosen.name,
        hidden=rising[0][1].inputs,
        width=rising[0][1].outputs,
        gated=len(rising) > 1,
    )


def _caches(attention: Attention) -> bool:
    return bool(attention.kv_values or attention.window_values)


def _is_latent(attention: Attention) -> bool:
    return attention.kv_heads == 1 and attention.kv_values == attention.head_dim


def _decode_flops(attention: Attention) -> int:
    """Return the work of a decoding token on one cached token.

    Absorbed latents are used as keys and as values by every head (DeepSeek-V2, arXiv 2405.04434, §2.1).
    """
    if not _caches(attention):
        return 0
    if _is_latent(attention):
        return 4 * attention.heads * attention.head_dim
    return attention.pair_flops


def _is_whole(matrix: Matrix) -> bool:
    return matrix.part == "attention" and (_last(matrix) in _WHOLE or ".indexer." in matrix.name)


def _last(matrix: Matrix) -> str:
    return matrix.name.rpartition(".")[2]


def _linear(matrices: Iterable[Matrix]) -> int:
    return sum(m.weights for m in matrices if _is_linear(m))


def _is_linear(matrix: Matrix) -> bool:
    return matrix.linear and matrix.part in DECODER_PARTS


def _weights(rows: Iterable[tuple[str, Matrix]], scheme: Scheme) -> Weights:
    """Return weights, named as in the checkpoint, with the bytes that an engine holds them in."""
    linear = plain = 0
    linear_bytes = plain_bytes = 0.0
    value_bytes = scheme.value_bytes if scheme.method else 2.0
    for name, matrix in rows:
        size = matrix_bytes(scheme.format_of(name, matrix), matrix, value_bytes)
        if not _is_linear(matrix):
            plain, plain_bytes = plain + matrix.values, plain_bytes + size
            continue
        beside = matrix.values - matrix.weights
        linear, plain = linear + matrix.weights, plain + beside
        linear_bytes += size - beside * value_bytes
        plain_bytes += beside * value_bytes
    return Weights(linear=linear, plain=plain, linear_bytes=linear_bytes, plain_bytes=plain_bytes)


def _notes(model: LayerList) -> tuple[str, ...]:
    """Return what is not planned, one sentence each."""
    notes = list(model.warnings)
    if model.towers:
        notes.append(_unplanned(dict.fromkeys(tower.kind for tower in model.towers)))
    return tuple(notes)


def _unplanned(kinds: Iterable[str]) -> str:
    return f"the {' and '.join(kinds)} input of requests is not planned, only their text"


def with_images(shape: ModelShape, tokens: int) -> ModelShape:
    """Return a model whose requests have images of so many tokens, which are planned then."""
    left = [kind for kind in shape.inputs if kind != "vision"]
    notes = [note for note in shape.notes if note != _unplanned(shape.inputs)]
    if left:
        notes.append(_unplanned(left))
    return dataclasses.replace(shape, image_tokens=tokens, notes=tuple(notes))


def _form(scheme: Scheme) -> str:
    if scheme.method:
        return scheme.method
    return "bfloat16" if scheme.dtype in ("float32", "float") else scheme.dtype


def _checkpoint_bytes(model: LayerList, scheme: Scheme) -> float | None:
    """Return what a replica downloads where that differs from what it holds."""
    if scheme.value_bytes > 2.0:
        return scheme.value_bytes * model.resident_parameters
    return weight_sizes(model, scheme).file_bytes if scheme.method else None
