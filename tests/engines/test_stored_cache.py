"""The KV cache that a checkpoint asks for: what each engine makes of it where no flag says otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from melange_sky.accelerators import accelerator_table
from melange_sky.engines import ENGINES
from melange_sky.errors import InputError
from melange_sky.models import Checkpoint, StoredCache, find_model, read_model
from melange_sky.models.weights.sections import read_scheme

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
FLOAT8 = {
    "num_bits": 8,
    "type": "float",
    "strategy": "tensor",
    "symmetric": True,
    "dynamic": False,
}
GROUPS = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}}


def modelopt(**section: Any) -> dict[str, Any]:
    return {"quant_method": "modelopt", "quant_algo": "FP8", **section}


def compressed(scheme: Any) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "config_groups": GROUPS,
        "kv_cache_scheme": scheme,
    }


def asked(section: dict[str, Any], **over: Any) -> StoredCache | None:
    config = {**LLAMA, "quantization_config": section, **over}
    return read_model(Checkpoint(name="org/m", config=config, where="config.json")).stored_cache


@pytest.mark.parametrize(
    ("section", "form"),
    [
        (modelopt(), None),
        (modelopt(kv_cache_quant_algo="FP8"), "fp8"),
        (modelopt(kv_cache_quant_algo="fp8"), "fp8"),
        (modelopt(kv_cache_quant_algo="NVFP4"), "nvfp4"),
        (modelopt(kv_cache_quant_algo="INT8"), None),
        (modelopt(kv_cache_scheme=FLOAT8), "fp8"),
        (modelopt(kv_cache_scheme={**FLOAT8, "dynamic": True}), None),
        (modelopt(kv_cache_scheme={**FLOAT8, "type": "int"}), None),
        (modelopt(kv_cache_scheme={"num_bits": 4, "type": "float"}), "nvfp4"),
        (compressed(None), None),
        (compressed(FLOAT8), "fp8"),
        (compressed({**FLOAT8, "strategy": "attn_head"}), "fp8"),
        (compressed({**FLOAT8, "type": "int"}), "other"),
        (compressed({**FLOAT8, "symmetric": False}), "other"),
        (compressed({**FLOAT8, "strategy": "channel"}), "other"),
        ({"quant_method": "fp8", "kv_cache_scheme": FLOAT8}, None),
    ],
)
def test_what_a_section_asks_for(section: dict[str, Any], form: str | None) -> None:
    cache = asked(section)
    assert (None if cache is None else cache.form) == form


def test_a_side_file_asks_as_the_section_does_and_a_nested_section_does_not() -> None:
    side = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    checkpoint = Checkpoint(name="org/m", config=LLAMA, side_file=side, where="config.json")
    assert read_model(checkpoint).stored_cache == StoredCache(form="fp8", method="modelopt")
    text = {**LLAMA, "quantization_config": modelopt(kv_cache_quant_algo="FP8")}
    assert read_scheme({"text_config": text}, None, "config.json").kv_cache is None


@pytest.mark.parametrize(
    ("engine", "method", "form", "latent", "size"),
    [
        ("vllm", "modelopt", "fp8", False, 1.0),
        ("vllm", "modelopt", "fp8", True, 1.0),
        ("vllm", "modelopt_fp4", "nvfp4", False, 4.5 / 8),
        ("vllm", "compressed-tensors", "fp8", False, 1.0),
        ("vllm", "compressed-tensors", "fp8", True, 2.0),
        ("sglang", "modelopt", "fp8", False, 1.0),
        ("sglang", "modelopt_fp4", "nvfp4", False, 2.0),
        ("sglang", "compressed-tensors", "fp8", False, 2.0),
    ],
)
def test_what_an_engine_makes_of_it(
    engine: str, method: str, form: str, latent: bool, size: float
) -> None:
    stored = StoredCache(form=form, method=method, latent=latent)
    llama = find_model("meta-llama/Llama-3.1-8B")
    held = ENGINES[engine].held
    assert held(llama, (), stored_cache=stored).kv_dtype_bytes == size
    assert held(llama, ("--kv-cache-dtype", "auto"), stored_cache=stored).kv_dtype_bytes == size
    own = ("--kv-cache-dtype", "bfloat16")
    assert held(llama, own, stored_cache=stored).kv_dtype_bytes == 2.0


def test_a_scheme_that_no_engine_reads_is_refused() -> None:
    stored = StoredCache(form="other", method="compressed-tensors")
    with pytest.raises(InputError, match="KV cache scheme is none that it reads"):
        ENGINES["vllm"].held(find_model("meta-llama/Llama-3.1-8B"), (), stored_cache=stored)


def test_a_small_cache_needs_a_gpu_that_reads_it() -> None:
    engine, table = ENGINES["vllm"], accelerator_table()
    small = engine.held(find_model("meta-llama/Llama-3.1-8B"), ("--kv-cache-dtype", "fp8"))
    assert engine.misfit(small, table["T4"]) == (
        "T4 is too old for a KV cache of 8 bits or less in vLLM"
    )
    assert engine.misfit(small, table["A10G"]) is None
