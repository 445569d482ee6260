"""Fields that a class reads otherwise than most do, and those that no model of its class can have."""

from __future__ import annotations

from typing import Any

import pytest

from melange_sky.errors import InputError
from melange_sky.models import read_layers
from tests.models.test_families import FAMILIES


def config_of(family: str) -> dict[str, Any]:
    return dict(next(f["config"] for f in FAMILIES if f["type"] == family))


@pytest.mark.parametrize("family", ["nemotron_h", "kimi_linear", "bailing_hybrid"])
def test_a_head_that_no_engine_ties_is_counted_whatever_the_config_says(family):
    tied, untied = (
        read_layers({**config_of(family), "tie_word_embeddings": word}) for word in (True, False)
    )
    assert tied.resident_parameters == untied.resident_parameters
    assert not tied.tied


def test_latent_attention_without_a_kernel_for_it_is_cached_head_by_head():
    """vLLM 0.32 of MiniCPM3: 40 heads of 96, values padded to the width of keys, in each layer."""
    layers = read_layers(config_of("minicpm3")).layers
    assert {layer.attention.kv_values for layer in layers} == {2 * 40 * 96}
    assert {layer.attention.kv_heads for layer in layers} == {40}


@pytest.mark.parametrize(
    "change", [{"num_attention_heads": 40}, {"head_dim": 64}, {"hidden_size": 5120}]
)
def test_heads_that_do_not_fill_a_square_output_are_refused(change):
    with pytest.raises(InputError, match=r"times 'head_dim' .* is not 'hidden_size'"):
        read_layers({**config_of("helium"), **change})


def test_a_head_that_only_the_section_of_step_ties_is_told():
    config = config_of("step3p7")
    config.pop("tie_word_embeddings", None)
    text = {**config["text_config"], "tie_word_embeddings": True}
    layers = read_layers({**config, "text_config": text})
    assert [t for t in layers.warnings if "tie_word_embeddings" in t]


MOLMO = {
    "architectures": ["Molmo2ForConditionalGeneration"],
    "model_type": "molmo2",
    "text_config": {
        "model_type": "molmo2_text",
        "hidden_size": 4096,
        "num_hidden_layers": 8,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 12288,
        "vocab_size": 151936,
        "additional_vocab_size": 128,
        "max_position_embeddings": 36864,
    },
    "adapter_config": {
        "vit_layers": [-3, -9],
        "hidden_size": 1152,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 72,
        "intermediate_size": 12288,
        "text_hidden_size": 4096,
    },
    "vit_config": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 72,
        "image_default_input_size": [378, 378],
        "image_patch_size": 14,
        "image_num_pos": 729,
    },
}


def test_the_older_names_of_a_vision_section_are_read_and_its_idle_layers_left_out():
    older = read_layers(MOLMO)
    vision = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 25,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 72,
        "image_size": [378, 378],
        "patch_size": 14,
        "num_position_embeddings": 729,
    }
    adapter = {key: value for key, value in MOLMO["adapter_config"].items() if key != "vit_layers"}
    newer = {key: value for key, value in MOLMO.items() if key != "vit_config"}
    newer |= {
        "vision_config": vision,
        "adapter_config": {**adapter, "vision_feature_layer": [24, 18]},
    }
    assert older.warnings == read_layers(newer).warnings == ()
    assert older.resident_parameters == read_layers(newer).resident_parameters


@pytest.mark.parametrize("key", ["num_attention_heads", "num_key_value_heads", "head_dim"])
@pytest.mark.parametrize("section", ["vit_config", "adapter_config"])
def test_the_heads_of_a_tower_change_its_size(section, key):
    config = {**MOLMO, section: {**MOLMO[section], key: 2 * MOLMO[section][key]}}
    assert read_layers(config).resident_parameters > read_layers(MOLMO).resident_parameters
