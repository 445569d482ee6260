"""Parts beside the language model: what engines load of a checkpoint, and in which type states are kept."""

from __future__ import annotations

import pytest

from melange_sky.errors import InputError
from melange_sky.models import Checkpoint, find_model, read_layers, read_model
from melange_sky.models.fields import Fields
from melange_sky.models.layers import count
from melange_sky.models.reading.towers import READERS
from melange_sky.models.weights.tensors import TensorTotals
from tests.factories import LLAMA_CONFIG
from tests.models.test_families import FAMILIES, VARIED

THINKER = {
    "text_config": {**LLAMA_CONFIG, "model_type": "qwen2", "architectures": None},
    "audio_config": {"d_model": 512, "encoder_layers": 4, "encoder_ffn_dim": 2048},
    "vision_config": {
        "hidden_size": 512,
        "depth": 4,
        "intermediate_size": 2048,
        "out_hidden_size": 4096,
    },
}
OMNI = {
    "architectures": ["Qwen2_5OmniForConditionalGeneration"],
    "model_type": "qwen2_5_omni",
    "thinker_config": THINKER,
    "talker_config": {"hidden_size": 896, "num_hidden_layers": 24},
    "token2wav_config": {"dit_config": {"hidden_size": 1024}},
}


def checkpoint(factor: float, config: dict = OMNI) -> Checkpoint:
    counted = 2 * read_layers(config).parameters
    totals = TensorTotals(total_bytes=round(factor * counted))
    return Checkpoint(name="org/omni", config=config, where="config.json", tensors=totals)


def test_what_speaks_lies_in_the_files_and_is_not_loaded():
    read = read_model(checkpoint(1.2))
    assert read.layers.unloaded == ("talker_config", "token2wav_config")
    assert "in the files but not loaded" in " ".join(read.layers.assumptions)
    assert read.shape.weight_bytes == pytest.approx(2 * read.layers.resident_parameters, rel=1e-6)
    assert read.shape.download_bytes == pytest.approx(1.2 * read.shape.weight_bytes, rel=1e-6)
    for factor in (0.9, 1.5):
        with pytest.raises(InputError, match="the structure is not understood well enough"):
            read_model(checkpoint(factor))


def test_without_such_a_part_the_files_hold_nothing_more():
    silent = {
        key: value
        for key, value in OMNI.items()
        if key not in ("talker_config", "token2wav_config")
    }
    with pytest.raises(InputError, match="the structure is not understood well enough"):
        read_model(checkpoint(1.2, silent))


def test_the_conformer_of_gemma_4_is_counted_as_its_class_makes_it():
    """304,824,608 parameters of the default Gemma4AudioConfig, 1536 × 2304 to the language model."""
    audio = Fields({"hidden_size": 1024, "num_hidden_layers": 12}, "audio_config")
    matrices = READERS["gemma4_audio"](audio, Fields({}, "config.json"), 2304)
    assert count(matrices) == 304_824_608 + 1536 * 2304


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Qwen/Qwen3.5-27B", 48 * 3 * 10240),  # of its state the convolutions alone
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 23 * 3 * 6144),
    ],
)
def test_states_follow_the_type_that_is_computed_in(name, plain):
    """`_mamba_state_dtype`: convolutions in the model's type, the rest as the config says."""
    shape = find_model(name)
    wide = shape.in_plain("float32")
    assert wide.state_bytes_per_sequence - shape.state_bytes_per_sequence == 2 * plain
    assert wide.in_plain("bfloat16").state_bytes_per_sequence == shape.state_bytes_per_sequence


def test_an_audio_section_that_is_missing_is_told_where_the_class_has_an_encoder():
    deaf = {key: value for key, value in THINKER.items() if key != "audio_config"}
    told = read_layers({**OMNI, "thinker_config": deaf}).warnings
    assert "no 'audio_config': no encoder of audio is counted" in told
    assert not any("audio" in line for line in read_layers(OMNI).warnings)


def tower_of(config: dict, **over: float) -> int:
    section = {**config["vision_config"], **over}
    return read_layers({**config, "vision_config": section}).parameters


def test_the_width_of_a_tower_follows_the_ratio_that_it_states():
    """Step's class replaces the width by `hidden_size` × `mlp_ratio`: two matrices and a bias a layer."""
    config = next(f["config"] for f in FAMILIES if f["type"] == "step3p7")
    hidden, layers = 1536, 47
    grown = tower_of(config, hidden_size=hidden, mlp_ratio=4.0, num_hidden_layers=layers)
    slim = tower_of(config, hidden_size=hidden, mlp_ratio=2.0, num_hidden_layers=layers)
    assert grown - slim == layers * 2 * hidden * (2 * hidden + 1)


def test_patches_are_merged_as_the_config_says():
    config = next(m["config"] for m in VARIED if m["architecture"].startswith("InternVLFor"))
    merged, apart = (read_layers({**config, "downsample_ratio": ratio}) for ratio in (0.5, 1.0))
    hidden = config["vision_config"].get("hidden_size", 1024)
    assert merged.parameters - apart.parameters == 3 * hidden * (2 + merged.hidden_size)


def test_the_merger_of_glm_ocr_is_as_wide_as_its_channels_make_it():
    config = next(f["config"] for f in FAMILIES if f["type"] == "glm_ocr")
    outputs = config["vision_config"]["out_hidden_size"]
    patch = config["vision_config"]["hidden_size"] * 14 * 14 * 2
    three, six = (tower_of(config, in_channels=channels) for channels in (3, 6))
    assert six - three == 3 * (3 * outputs * outputs + patch)
