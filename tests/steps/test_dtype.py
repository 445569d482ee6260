"""The type that a GPU or a model forces, followed through to memory and speed."""

from __future__ import annotations

import dataclasses

import pytest

from melange_sky.engines import DEFAULT_ENGINE, ENGINES
from melange_sky.errors import InputError
from melange_sky.models import find_model
from melange_sky.names.accelerators import find_accelerator
from melange_sky.profiles import engine_generation
from melange_sky.steps import KvPool, Misfit, kv_pool, step_costs
from tests.cli.runner import melange_sky

GEMMA, LLAMA = "google/gemma-2-9b-it", "meta-llama/Llama-3.1-8B"
TODAY = engine_generation("vllm")


def pool(model, accelerator: str, tensor_parallel: int = 1) -> KvPool | Misfit:
    return kv_pool(model, find_accelerator(accelerator), tensor_parallel, TODAY)


@pytest.mark.parametrize("dtype", ["half", "float16"])
def test_float16_is_refused_for_a_model_that_it_does_not_suit(dtype):
    with pytest.raises(InputError, match=rf"^--dtype: {dtype} is refused for this model"):
        DEFAULT_ENGINE.held(find_model(GEMMA), ["--dtype", dtype])
    quantized = dataclasses.replace(find_model(GEMMA), dtype="awq")
    with pytest.raises(InputError, match="is refused for this model"):
        DEFAULT_ENGINE.held(quantized, [f"--dtype={dtype}"])
    assert DEFAULT_ENGINE.held(find_model(LLAMA), ["--dtype", dtype]).dtype == dtype


def test_the_refusal_names_line_and_key_of_the_flag(tmp_path):
    (tmp_path / "s.yaml").write_text(
        f"name: g\nmodel: {GEMMA}\nslo: {{tpot_ms: 100, attainment: 0.9}}\n"
        "workload: {rate_rps: 1, input_tokens: 100, output_tokens: 10,\n"
        "  histogram: {input_edges: [0, 200], output_edges: [0, 50], weights: [[1.0]]}}\n"
        "resources: {accelerators: [L4], infra: [gcp]}\nengine:\n  args:\n    - --seed\n    - '1'\n"
        "    - --dtype=half\n".replace(" input_tokens: 100, output_tokens: 10,", ""),
        encoding="utf-8",
    )
    home = {"MELANGE_SKY_HOME": str(tmp_path / "home"), "MELANGE_SKY_OFFLINE": "1"}
    shown = melange_sky("plan", "s.yaml", cwd=tmp_path, **home)
    assert shown.returncode == 2
    assert shown.stderr.startswith("error: s.yaml:11: engine.args[2]: --dtype: half is refused")
    assert len(shown.stderr.splitlines()) == 1


def test_without_bfloat16_the_default_engine_takes_float16_or_float32():
    old = find_accelerator("T4")
    llama, gemma = find_model(LLAMA).on(old.has_bf16), find_model(GEMMA).on(old.has_bf16)
    assert (llama.dtype, llama.weight_bytes) == ("float16", find_model(LLAMA).weight_bytes)
    assert gemma.dtype == "float32"
    assert gemma.weight_bytes == 2 * find_model(GEMMA).weight_bytes
    assert gemma.kv_bytes(1000) == 2 * find_model(GEMMA).kv_bytes(1000)
    assert gemma.download_bytes == find_model(GEMMA).download_bytes
    assert find_model(GEMMA).on(True) == find_model(GEMMA)
    assert gemma.on(False) == gemma


def test_float32_takes_twice_the_memory_and_the_rate_outside_of_the_tensor_cores():
    gemma, old = find_model(GEMMA), find_accelerator("T4")
    assert isinstance(pool(gemma, "T4", 2), Misfit)  # 17 GiB in 16 bits would fit on two of 14.6
    held = pool(gemma, "T4", 8)
    assert isinstance(held, KvPool)
    half = dataclasses.replace(gemma, no_float16=False)
    assert isinstance(pool(half, "T4", 8), KvPool)
    assert pool(half, "T4", 8).tokens > 2 * held.tokens
    slow, quick = step_costs(gemma, old, 8, TODAY), step_costs(half, old, 8, TODAY)
    assert slow.token_flops_s == pytest.approx(quick.token_flops_s * 65 / 8.1)
    assert slow.weights_s == pytest.approx(2 * quick.weights_s)
    assert slow.kv_token_s == pytest.approx(2 * quick.kv_token_s)
    assert slow.token_link_s == pytest.approx(2 * quick.token_link_s)


def test_float32_asked_for_is_as_slow_on_a_new_gpu():
    whole = DEFAULT_ENGINE.held(find_model(LLAMA), ["--dtype", "float32"])
    gpu = find_accelerator("A100-80GB")
    slow, quick = step_costs(whole, gpu, 1, TODAY), step_costs(find_model(LLAMA), gpu, 1, TODAY)
    assert slow.token_flops_s == pytest.approx(quick.token_flops_s * 312 / 19.5)
    unknown = find_accelerator("B200")
    assert unknown.fp32_tflops is None
    assert unknown.float32_tflops == unknown.dense_tflops / 16


def test_every_known_float32_rate_is_no_lower_share_than_the_unknown_ones_get():
    from melange_sky.accelerators import accelerator_table

    for spec in accelerator_table().values():
        if spec.fp32_tflops is not None:
            assert spec.dense_tflops / 16 <= spec.fp32_tflops < spec.dense_tflops


def test_what_no_type_serves_is_refused():
    gemma, old = find_model(GEMMA), find_accelerator("T4")
    quantized = dataclasses.replace(gemma, dtype="awq")
    assert DEFAULT_ENGINE.misfit(gemma, old) is None
    assert DEFAULT_ENGINE.misfit(quantized, old) == (
        "T4 has no bfloat16, and google/gemma-2-9b-it is numerically unstable in float16 (vLLM)"
    )
    asked = DEFAULT_ENGINE.held(gemma, ["--dtype", "bfloat16"])
    assert "T4 has no bfloat16, which bfloat16 needs" in str(DEFAULT_ENGINE.misfit(asked, old))
    other = ENGINES["sglang"]
    assert "numerically unstable in float16" in str(other.misfit(gemma, old))
    assert other.misfit(other.held(gemma, ["--dtype", "float32"]), old) is None
    for gpu in ("L4", "A100", "H100"):
        assert DEFAULT_ENGINE.misfit(quantized, find_accelerator(gpu)) is None
