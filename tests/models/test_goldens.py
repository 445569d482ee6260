"""The 89 configs of aiconfigurator-core 0.12: right within 3 %, down to the last tensor where it can be told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from melange_sky.models import Checkpoint, known_name, read_model, shipped_checkpoint

GOLDENS = json.loads((Path(__file__).parent / "goldens.json").read_text(encoding="utf-8"))["models"]


def checkpoint(golden: dict) -> Checkpoint:
    if "config" not in golden:
        return shipped_checkpoint(golden["name"])
    return Checkpoint(
        name=golden["name"],
        config=golden["config"],
        side_file=golden.get("hf_quant_config"),
        where="config.json",
    )


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda g: g["name"])
def test_every_config_is_read_right(golden):
    read = read_model(checkpoint(golden))
    layers = read.layers
    if golden["derived_parameters"] is not None:
        text_only = any("only the language model" in warning for warning in layers.warnings)
        tolerance = 0.011 if text_only else 1e-6
        assert layers.resident_parameters == pytest.approx(
            golden["derived_parameters"], rel=tolerance
        )
    if golden["published_billions"] is not None:
        published = golden["published_billions"] * 1e9
        counts = (layers.parameters, layers.resident_parameters)
        assert min(abs(count / published - 1.0) for count in counts) < 0.03
    assert layers.kv_bytes_per_token == pytest.approx(golden["kv_bytes_per_token"])
    assert layers.state_bytes_per_sequence == golden["state_bytes_per_sequence"]
    assert layers.context_tokens == golden["context_tokens"]
    assert layers.active_parameters == golden["active_parameters"]
    assert read.file_bytes == pytest.approx(golden["weight_bytes"], rel=0.051)


@pytest.mark.parametrize(
    "golden", [g for g in GOLDENS if "side_file" in g], ids=lambda g: g["name"]
)
def test_a_side_file_says_what_the_config_leaves_out(golden):
    """The same checkpoint, its section taken from hf_quant_config.json alone."""
    whole = checkpoint(golden)
    config = {k: v for k, v in whole.config.items() if k != "quantization_config"}
    alone = Checkpoint(
        name=whole.name, config=config, side_file=golden["side_file"], where="config.json"
    )
    assert read_model(alone).file_bytes == pytest.approx(golden["side_bytes"], rel=0.02)


def test_no_golden_is_missing():
    assert len(GOLDENS) == 89
    assert sum("config" in g or known_name(g["name"]) is not None for g in GOLDENS) == 89


# Sizes by hand: layers that cache × heads × (key + value) × 2 bytes.
BY_HAND = {
    "Qwen/Qwen3.5-27B": 16 * 2 * 4 * 256 * 2,
    "Qwen/Qwen3.5-397B-A17B": 15 * 2 * 2 * 256 * 2,
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 6 * 2 * 2 * 128 * 2,
    "nvidia/Nemotron-H-56B-Base-8K": 10 * 2 * 8 * 128 * 2,
    "deepseek-ai/DeepSeek-V3": 61 * 576 * 2,
    "deepseek-ai/DeepSeek-V3.2": 61 * (576 * 2 + 132),
    "XiaomiMiMo/MiMo-V2-Flash": 9 * 4 * (192 + 128) * 2,
    "openai/gpt-oss-120b": 18 * 2 * 8 * 64 * 2,
    "google/gemma-4-26B-A4B": 5 * 2 * 2 * 512 * 2,
    "moonshotai/Kimi-K3": 24 * 576 * 2,
    "meta-llama/Meta-Llama-3.1-405B": 126 * 2 * 8 * 128 * 2,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_cache_bytes_by_hand(name):
    golden = next(g for g in GOLDENS if g["name"] == name)
    assert golden["kv_bytes_per_token"] == BY_HAND[name]


# Bytes of the published files, to the figure that their pages show.
FILES_GB = {
    "deepseek-ai/DeepSeek-V3": 688.6,
    "openai/gpt-oss-120b": 65.2,
    "openai/gpt-oss-20b": 13.8,
    "Qwen/Qwen3-235B-A22B-FP8": 236.4,
    "moonshotai/Kimi-K2.5": 595.0,
    "nvidia/Llama-3.1-70B-Instruct-FP8": 72.7,
}


@pytest.mark.parametrize("name", FILES_GB)
def test_weight_bytes_of_quantised_checkpoints(name):
    golden = next(g for g in GOLDENS if g["name"] == name)
    assert golden["weight_bytes"] / 1e9 == pytest.approx(FILES_GB[name], rel=0.01)
