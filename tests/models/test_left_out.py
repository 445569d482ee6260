"""What a config leaves out: its class fills it in, as in engines, or the field is named; never another model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from melange_sky.errors import InputError
from melange_sky.models import LayerList, read_layers
from tests.models.test_families import FAMILIES

OTHER_DEFAULT = {"cohere2_vision", "llava"}
"""Families of which a part of a section stands for other sizes than the whole section left out."""


def sizes(layers: LayerList) -> tuple[float, float, int]:
    return layers.resident_parameters, layers.kv_bytes_per_token, layers.state_bytes_per_sequence


def shortened(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each field with the config that lacks it, those of nested sections too."""
    for key, value in config.items():
        if key in ("model_type", "architectures"):
            continue
        yield key, {k: v for k, v in config.items() if k != key}
        if key.endswith("_config") and key != "per_layer_config" and isinstance(value, Mapping):
            for inner in value:
                if inner != "model_type":
                    yield inner, {**config, key: {k: v for k, v in value.items() if k != inner}}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f["type"])
def test_a_field_left_out_is_as_the_class_has_it_or_named(family):
    """All values of these configs are the defaults of their classes."""
    if family["type"] in OTHER_DEFAULT:
        return
    whole = read_layers(family["config"])
    for key, config in shortened(family["config"]):
        try:
            layers = read_layers(config)
        except InputError as error:
            assert "\n" not in str(error)
            continue
        told = len(layers.warnings) > len(whole.warnings)
        assert told or sizes(layers) == sizes(whole), key


DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "vocab_size": 129280,
    "intermediate_size": 18432,
    "first_k_dense_replace": 3,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "max_position_embeddings": 163840,
}


@pytest.mark.parametrize("model_type", ["deepseek_v3", "kimi_k2"])
def test_experts_without_a_width_are_not_as_wide_as_dense_layers(model_type):
    """As wide, DeepSeek-V3 would hold 5.9 trillion parameters; its class says 2048."""
    layers = read_layers({**DEEPSEEK, "model_type": model_type})
    assert layers.resident_parameters == 671_026_404_352
    assert any("moe_intermediate_size" in note for note in layers.assumptions)


def test_experts_whose_width_no_class_knows_are_refused():
    config = {**DEEPSEEK, "model_type": "deepseek", "architectures": ["DeepseekForCausalLM"]}
    with pytest.raises(InputError, match="no 'moe_intermediate_size'"):
        read_layers({**config, "num_key_value_heads": 128})


@pytest.mark.parametrize(
    ("family", "period"),
    [("qwen3_next", 4), ("cohere2", 4), ("gemma4_text", 6), ("cwm", 4), ("olmo_hybrid", 4)],
)
@pytest.mark.parametrize("how", ["absent", "null"])
def test_layers_that_no_field_names_follow_the_pattern_of_their_class(family, period, how):
    config = next(f["config"] for f in FAMILIES if f["type"] == family)
    rest = {k: v for k, v in config.items() if k not in ("layer_types", "per_layer_config")}
    if how == "null":
        rest["layer_types"] = None
    layers = read_layers({**rest, "num_hidden_layers": 12}).layers
    assert sum(layer.attention.kind == "full" for layer in layers) == 12 // period


def test_cross_attention_is_refused():
    config = next(f["config"] for f in FAMILIES if f["type"] == "gpt2")
    with pytest.raises(InputError, match="'add_cross_attention' may change the model's structure"):
        read_layers({**config, "add_cross_attention": True})


@pytest.mark.parametrize("name", ["Moondream3ForCausalLM", "Eagle2_5_VLForConditionalGeneration"])
def test_a_name_that_holds_another_word_is_not_taken_for_it(name):
    with pytest.raises(InputError, match=f"'{name}' is not a supported model"):
        read_layers({"architectures": [name], "model_type": "x"})


@pytest.mark.parametrize("family", ["qwen3_next", "qwen3_5_text"])
def test_a_gate_that_a_config_takes_away_is_not_counted(family):
    config = next(f["config"] for f in FAMILIES if f["type"] == family)
    with_gate, without = (
        read_layers({**config, "attn_output_gate": gate}) for gate in (True, False)
    )
    full = sum(layer.attention.kind == "full" for layer in without.layers)
    gates = full * config["num_attention_heads"] * config["head_dim"] * config["hidden_size"]
    assert with_gate.parameters - without.parameters == gates
