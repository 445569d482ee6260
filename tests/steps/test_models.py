"""Model shapes against published totals, and what engine arguments change."""

from __future__ import annotations

import json

import pytest

from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.errors import InputError
from melange_sky.models import find_model, known_models, shape_from_config
from melange_sky.resources import catalogs_dir

ENTRIES = json.loads((catalogs_dir() / "models.json").read_text(encoding="utf-8"))["models"]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e["names"][0])
def test_counted_parameters_match_the_published_total(entry):
    shape = shape_from_config("m", entry["config"])
    assert shape.parameters == pytest.approx(entry["published_parameters"], rel=1e-4)


def test_the_names_that_users_rely_on_are_known():
    for name in (
        "meta-llama/Llama-2-7b",
        "meta-llama/Llama-2-7b-hf",
        "meta-llama/Llama-2-13b-hf",
        "meta-llama/Llama-2-70b-hf",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "meta-llama/Llama-3.1-8B",
        "meta-llama/Llama-3.1-70B-Instruct",
        "mistralai/Mistral-7B-v0.1",
        "mistralai/Mixtral-8x7B-v0.1",
        "Qwen/Qwen2.5-7B",
        "Qwen/Qwen2.5-32B-Instruct",
        "Qwen/Qwen2.5-72B",
    ):
        assert name in known_models()


def test_kv_bytes_of_grouped_queries_and_of_a_latent_cache():
    # Llama-2-7b: 2 × 32 layers × 4096 × 2 bytes; DeepSeek-V3: 61 × (512 + 64) × 2 (arXiv 2412.19437)
    assert find_model("meta-llama/Llama-2-7b-hf").kv_bytes_per_token == 512 * 1024
    assert find_model("meta-llama/Llama-3.1-8B").kv_bytes_per_token == 128 * 1024
    assert find_model("deepseek-ai/DeepSeek-V3").kv_bytes_per_token == 61 * 576 * 2


def test_active_parameters_of_experts():
    assert find_model("mistralai/Mixtral-8x7B-v0.1").active_parameters == pytest.approx(
        12.9e9, rel=0.01
    )
    assert find_model("deepseek-ai/DeepSeek-V3").active_parameters == pytest.approx(37e9, rel=0.03)


def test_an_unknown_model_says_how_to_give_a_file():
    with pytest.raises(InputError, match=r"did you mean 'meta-llama/Llama-3.1-8B'.*config\.json"):
        find_model("meta-llama/Lama-3.1-8B")


def test_quantization_and_kv_dtype_shrink_the_model():
    plain = find_model("meta-llama/Llama-3.1-8B")
    fp8 = DEFAULT_ENGINE.held(plain, ["--quantization", "fp8", "--kv-cache-dtype=fp8"])
    assert fp8.weight_bytes == pytest.approx(
        9.08e9, rel=0.01
    )  # size of the published fp8 checkpoint
    assert fp8.kv_bytes_per_token == plain.kv_bytes_per_token / 2
    assert fp8.fp8_compute and not plain.fp8_compute
    awq = DEFAULT_ENGINE.held(plain, ["-q", "awq"], own_config=True)
    assert awq.weight_bytes == pytest.approx(
        5.73e9, rel=0.02
    )  # size of the published AWQ checkpoint
    assert not awq.fp8_compute


def test_what_is_downloaded_is_the_checkpoint():
    """vLLM makes weights smaller while it loads them; an AWQ checkpoint is small already."""
    plain = find_model("meta-llama/Llama-3.1-8B")
    assert plain.download_bytes == plain.weight_bytes
    for args in (["-q", "fp8"], ["-q", "mxfp4"], ["--dtype", "float32"]):
        held = DEFAULT_ENGINE.held(plain, args)
        assert (held.download_bytes, held.weight_bytes) != (plain.weight_bytes,) * 2
        assert held.download_bytes == plain.weight_bytes
    awq = DEFAULT_ENGINE.held(plain, ["-q", "awq"], own_config=True)
    assert awq.download_bytes == awq.weight_bytes
    whole = shape_from_config("m", dict(ENTRIES[4]["config"], torch_dtype="float32"))
    assert whole.download_bytes == 2 * whole.weight_bytes


def test_experts_alone_are_made_smaller_where_the_method_says_so():
    mixtral = find_model("mistralai/Mixtral-8x7B-v0.1")
    held = DEFAULT_ENGINE.held(mixtral, ["-q", "experts_int8"])
    saved = mixtral.weight_bytes - held.weight_bytes
    assert saved == pytest.approx(mixtral.expert_parameters)
    dense = find_model("meta-llama/Llama-3.1-8B")
    assert DEFAULT_ENGINE.held(dense, ["-q", "experts_int8"]).weight_bytes == dense.weight_bytes


def test_a_checkpoint_is_served_in_its_own_method_only():
    config = dict(ENTRIES[4]["config"], quantization_config={"quant_method": "gptq", "bits": 4})
    kept = shape_from_config("m", config)
    assert DEFAULT_ENGINE.held(kept, ["-q", "gptq_marlin"]) == kept
    with pytest.raises(InputError) as told:
        DEFAULT_ENGINE.held(kept, ["-q", "fp8"])
    assert str(told.value) == (
        "--quantization: fp8 cannot serve this checkpoint, whose weights are kept as gptq"
    )
    rounded = dict(ENTRIES[4]["config"], quantization_config={"quant_method": "auto-round"})
    assert shape_from_config("m", rounded).dtype == "inc"


def test_a_quantised_checkpoint_is_read_from_its_config():
    config = dict(ENTRIES[4]["config"], quantization_config={"quant_method": "gptq", "bits": 4})
    assert shape_from_config("m", config).weight_dtype_bytes < 0.8


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--quantization", "fp9"], "--quantization: unknown quantization 'fp9'"),
        (["--quantization", "bitsandbytes"], "--quantization: unknown quantization 'bitsandbytes'"),
        (["-q", "awq"], "--quantization: awq needs a checkpoint stored in that form"),
        (["--max-model-len", "8192"], "exceeds the model's context of 4096; a longer one needs"),
        (["--kv-cache-dtype", "fp7"], "--kv-cache-dtype: unknown 'fp7'"),
        (["--dtype", "bfloat61"], "--dtype: unknown dtype 'bfloat61'"),
        (["--max-model-len", "-5"], "--max-model-len"),
        (["--max-model-len"], "--max-model-len"),
    ],
)
def test_bad_engine_arguments_are_one_line(args, message):
    with pytest.raises(InputError, match=message):
        DEFAULT_ENGINE.held(find_model("meta-llama/Llama-2-7b"), args)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "no 'hidden_size'"),
        ({"num_hidden_layers": -3}, "'num_hidden_layers' must be a whole number"),
        ({"num_hidden_layers": True}, "'num_hidden_layers' must be a whole number"),
        ({"vocab_size": "many"}, "'vocab_size' must be a whole number"),
        ({"num_key_value_heads": 5}, "not a multiple"),
        ({"torch_dtype": "int3"}, "unknown dtype 'int3'"),
        ({"quantization_config": 4}, "'quantization_config' must be a mapping"),
        ({"quantization_config": {"quant_method": "magic"}}, "unknown quantization 'magic'"),
        ({"model_type": "bert"}, "not a decoder-only"),
    ],
)
def test_a_bad_config_names_the_field(change, message):
    with pytest.raises(InputError, match=message):
        shape_from_config("m", {**ENTRIES[0]["config"], **change})


def test_a_multimodal_config_is_planned_by_its_language_part():
    text = ENTRIES[0]["config"]
    nested = shape_from_config("m", {"model_type": "llava", "text_config": text})
    assert nested.parameters == shape_from_config("m", text).parameters


def test_alternating_windows():
    gemma = find_model("google/gemma-2-9b")
    assert sorted((group.window or 0, group.count) for group in gemma.groups) == [
        (0, 21),
        (4096, 21),
    ]
    assert gemma.kv_bytes(4096 + 100) - gemma.kv_bytes(4096) == gemma.kv_bytes(100) / 2
    assert [g.window for g in find_model("mistralai/Mistral-7B-v0.1").groups] == [4096]
    assert [g.window for g in find_model("mistralai/Mistral-7B-v0.3").groups] == [None]
