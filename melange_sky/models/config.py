"""From a Hugging Face `config.json` to the sizes that the planner works with today.

The list of layers (`read_layers`) says what a model is; here it is summed up for those steps of the
planner that still take one figure per model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from melange_sky.errors import InputError
from melange_sky.models.layers import NO_FEED_FORWARD, Attention, LayerList
from melange_sky.models.reading.read import read_layers
from melange_sky.models.shape import ModelShape
from melange_sky.models.weights.scheme import Scheme, WeightSizes, weight_sizes
from melange_sky.models.weights.sections import read_scheme
from melange_sky.models.weights.splits import split_units

NO_FLOAT16 = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4"})
"""Model types that engines refuse in float16, so that a GPU without bfloat16 serves them in no 16 bits."""


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
    return shape_of(name, layers, scheme)


def shape_of(name: str, model: LayerList, scheme: Scheme) -> ModelShape:
    """Return one figure per model from its layers and the formats of its weights."""
    caching = _caching(name, model)
    sizes = weight_sizes(model, scheme)
    parameters = model.resident_parameters
    towers = sum(tower.parameters for tower in model.towers)
    window, sliding_layers = _window(model)
    routed = model.expert_layer
    mixed = NO_FEED_FORWARD if routed is None else routed.feed_forward
    shape = ModelShape(
        name=name,
        layers=len(model.layers),
        hidden_size=model.hidden_size,
        heads=max(attention.heads for attention in caching),
        kv_heads=min(attention.kv_heads for attention in caching),
        head_dim=_head_dim(model),
        vocabulary=model.vocabulary,
        parameters=parameters,
        active_parameters=model.active_parameters + towers,
        kv_values_per_token=_kv_values(model),
        weight_dtype_bytes=_bytes_per_parameter(scheme, sizes, parameters),
        kv_dtype_bytes=2.0,
        context_tokens=model.context_tokens,
        sliding_window=window,
        sliding_layers=sliding_layers,
        experts=mixed.experts or None,
        experts_per_token=mixed.experts_per_token or None,
        lookup_parameters=model.lookup_parameters + towers,
        expert_parameters=model.expert_parameters,
        attention_flops_per_pair=sum(a.pair_flops for a in caching),
        fp8_compute=_is_float8(scheme),
        dtype=_form(scheme),
        needs_bf16=model.model_type in NO_FLOAT16,
        checkpoint_bytes=_checkpoint_bytes(scheme, sizes, parameters),
        state_bytes_per_sequence=model.state_bytes_per_sequence,
        split_units=split_units(model, scheme),
        notes=_notes(model),
    )
    return _with_full_fraction(shape, model)


def _caching(name: str, model: LayerList) -> list[Attention]:
    """Return the attentions that keep keys and values; a model without any is refused."""
    caching = [
        layer.attention
        for layer in model.layers
        if layer.attention.kv_values or layer.attention.window_values
    ]
    if not caching:
        raise InputError(f"{name}: no layer keeps a KV cache, which is not planned")
    return caching


def _notes(model: LayerList) -> tuple[str, ...]:
    """Return what the sums leave out, one sentence each."""
    notes = list(model.warnings)
    if model.state_bytes_per_sequence:
        state = model.state_bytes_per_sequence / 2**20
        notes.append(
            f"linear layers keep {state:,.0f} MiB of state per sequence, which estimates do not count: "
            "fewer requests may run at once; measure it"
        )
    if model.towers:
        kinds = " and ".join(dict.fromkeys(tower.kind for tower in model.towers))
        notes.append(f"the {kinds} input of requests is not planned, only their text")
    return tuple(notes)


def _form(scheme: Scheme) -> str:
    if scheme.method:
        return scheme.method
    return "bfloat16" if scheme.dtype in ("float32", "float") else scheme.dtype


def _is_float8(scheme: Scheme) -> bool:
    return scheme.default is not None and scheme.default.float8


def _bytes_per_parameter(scheme: Scheme, sizes: WeightSizes, parameters: int) -> float:
    if not scheme.method:
        return 2.0
    return sizes.resident_bytes / parameters


def _checkpoint_bytes(scheme: Scheme, sizes: WeightSizes, parameters: int) -> float | None:
    """Return what a replica downloads where that differs from what it holds."""
    if scheme.value_bytes > 2.0:
        return scheme.value_bytes * parameters
    return sizes.file_bytes if scheme.method else None


def _head_dim(model: LayerList) -> int:
    dims = [a.head_dim for a in (layer.attention for layer in model.layers) if a.head_dim]
    return dims[0] if dims else 1


def _kv_values(model: LayerList) -> int:
    """Return the values that a token adds before any window is full, rounded up to whole ones."""
    grown = sum(
        a.kv_values + a.window_values + a.fixed_bytes / 2
        for a in (layer.attention for layer in model.layers)
    )
    return -int(-grown // 1)


def _window(model: LayerList) -> tuple[int | None, int | None]:
    """Return the longest window and how many layers keep one (None: all)."""
    windows = [
        layer.attention.window
        for layer in model.layers
        if layer.attention.window is not None and layer.attention.window_values
    ]
    if not windows:
        return None, None
    return max(windows), None if len(windows) == len(model.layers) else len(windows)


def _with_full_fraction(shape: ModelShape, model: LayerList) -> ModelShape:
    """State which share of the cache grows without end where the layers do not weigh alike."""
    if shape.sliding_window is None or not shape.kv_values_per_token:
        return shape
    grown = model.kv_bytes_per_token / 2 / shape.kv_values_per_token
    if abs(grown - shape.full_attention_fraction) < 1e-9:
        return shape
    return dataclasses.replace(shape, full_kv_fraction=grown)
