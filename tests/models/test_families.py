"""Every family that `transformers` has a class for, counted tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from melange_sky.errors import InputError
from melange_sky.models import read_layers

FAMILIES = json.loads((Path(__file__).parent / "families.json").read_text(encoding="utf-8"))[
    "families"
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f["type"])
def test_every_tensor_is_counted(family):
    layers = read_layers(family["config"])
    assert layers.resident_parameters == family["parameters"]
    assert layers.kv_bytes_per_token == family["kv"]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f["type"])
def test_a_family_needs_its_sizes(family):
    """Without a size that the model needs, the field is named: never a default of another model."""
    config = family["config"]
    if any(isinstance(value, dict) and "hidden_size" in value for value in config.values()):
        return  # the class defaults of a nested section stand in, as vLLM takes them
    for key in ("hidden_size", "n_embd", "d_model"):
        less = {k: v for k, v in config.items() if k != key}
        if less == config:
            continue
        with pytest.raises(InputError, match="'hidden_size'"):
            read_layers(less)


VARIED = json.loads((Path(__file__).parent / "varied.json").read_text(encoding="utf-8"))["models"]


@pytest.mark.parametrize("model", VARIED, ids=lambda m: m["architecture"])
def test_odd_sizes_are_counted_as_the_class_makes_them(model):
    layers = read_layers(model["config"])
    assert layers.resident_parameters == pytest.approx(model["parameters"], rel=2e-3)
    if "kv_values" in model:
        windows = sum(layer.attention.window_values for layer in layers.layers)
        assert layers.kv_values_per_token + windows == model["kv_values"]
