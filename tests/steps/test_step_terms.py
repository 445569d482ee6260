"""What single kinds of layers add to a step: experts, states, windows, latents, indexes."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import numpy as np
import pytest

from melange_sky.models import find_model, shape_from_config
from melange_sky.models.layer_group import LayerGroup
from melange_sky.models.shape import ModelShape
from melange_sky.names.accelerators import find_accelerator
from melange_sky.profiles import engine_generation
from melange_sky.slo import SLO
from melange_sky.steps import ReplicaModel, RequestSizes, StepCosts, replica_model, step_costs
from melange_sky.steps.estimate import capacity_estimate
from melange_sky.steps.times import pairs_s, products_s, read_s
from tests.models.test_cases import SCOUT
from tests.steps.plain import plain
from tests.steps.test_pool import model

H200, TODAY = find_accelerator("H200"), plain(engine_generation("vllm"))
KV_RATE = H200.bandwidth_gbps * 1e9 * TODAY.efficiency("H200").attention
WEIGHT_RATE = H200.bandwidth_gbps * 1e9 * TODAY.efficiency("H200").bandwidth


def costs(shape: ModelShape, tensor_parallel: int = 1) -> StepCosts:
    return step_costs(shape, H200, tensor_parallel, TODAY)


def maverick() -> ModelShape:
    config = copy.deepcopy(SCOUT)
    config["text_config"] |= {"num_local_experts": 128, "interleave_moe_layer_step": 2}
    return shape_from_config("maverick", config)


def test_only_the_layers_with_experts_read_experts():
    shape = maverick()
    assert shape.total(lambda g: g.routed == 128) == shape.total(lambda g: g.routed == 0) == 24
    found = costs(shape)
    experts = 24 * 128 * 3 * 5120 * 8192
    assert found.experts_s == pytest.approx(2 * experts / WEIGHT_RATE)
    assert found.expert_miss == pytest.approx(127 / 128)
    rest = shape.parameters - experts - shape.lookup.parameters
    assert found.weights_s == pytest.approx(2 * rest / WEIGHT_RATE)
    assert found.token_flops_s > 0
    active = rest + experts / 128
    assert shape.active_parameters - shape.lookup.parameters == pytest.approx(active)


def test_a_step_of_one_token_reads_one_expert_of_each_layer():
    shape = maverick()
    found = costs(shape)
    seconds = float(products_s(found, np.array([1.0]))[0])
    reads = found.weights_s + found.experts_s / 128
    assert seconds == pytest.approx(reads + found.expert_token_s)


def test_a_state_is_read_and_written_for_each_sequence_and_no_keys_beside_it():
    hybrid = find_model("Qwen/Qwen3.5-27B")
    bare = dataclasses.replace(
        hybrid, groups=tuple(dataclasses.replace(g, state_bytes=0) for g in hybrid.groups)
    )
    state_s = costs(hybrid).sequence_s - costs(bare).sequence_s
    assert state_s == pytest.approx(2 * 48 * 3_207_168 / KV_RATE)
    assert costs(hybrid).kv_token_s == pytest.approx(64 * 1024 / KV_RATE)
    assert costs(hybrid, 4).sequence_s - costs(bare, 4).sequence_s == pytest.approx(state_s / 4)


def test_linear_attention_takes_what_its_own_kernels_take() -> None:
    real, hybrid = engine_generation("vllm"), find_model("Qwen/Qwen3.5-27B")
    figures = real.efficiency("H200")
    moving_s = hybrid.state_bytes_per_sequence / (H200.bandwidth_gbps * 1e9)
    bare = dataclasses.replace(
        hybrid, groups=tuple(dataclasses.replace(g, state_bytes=0) for g in hybrid.groups)
    )
    found, without = (step_costs(shape, H200, 1, real) for shape in (hybrid, bare))
    assert figures.state is not None
    decoding = found.sequence_s - without.sequence_s
    assert decoding == pytest.approx(2 * moving_s / figures.state)
    prompt = np.array([512.0, 4096.0])
    more = pairs_s(found, prompt) - pairs_s(without, prompt)
    assert more == pytest.approx(prompt * figures.scan * moving_s, rel=1e-2)
    assert more[1] == pytest.approx(8 * more[0], rel=1e-2)  # no pairs: each token takes as long
    assert 0.01 < more[1] / (pairs_s(found, prompt) + products_s(found, prompt))[1] < 0.5


def test_an_index_takes_time_for_each_token_of_a_prompt_and_a_start_of_its_own() -> None:
    real = engine_generation("vllm")
    sparse, latent = (find_model(f"deepseek-ai/DeepSeek-{name}") for name in ("V3.2", "V3"))
    fixed_s = step_costs(sparse, H200, 8, real).fixed_s - step_costs(latent, H200, 8, real).fixed_s
    assert fixed_s == pytest.approx(61 * real.overheads.index_layer_s)
    short = pairs_s(step_costs(sparse, H200, 8, real), np.array([1024.0]))[0]
    assert short > 1000 * 61 * real.overheads.index_token_s


@pytest.mark.parametrize("context", [1, 100, 128, 129, 1024, 8192])
@pytest.mark.parametrize(
    "name", ["gemma-3-27b", "openai/gpt-oss-20b", "llama-4-scout", "XiaomiMiMo/MiMo-V2-Flash"]
)
def test_reading_is_the_sum_over_layers_of_what_each_attends_to(name, context):
    shape = model(name)
    expected = 0.0
    for group in shape.groups:
        for _ in range(group.count):
            seen = min(context, group.window or context)
            expected += (group.kv_values * context + group.window_values * seen) * 2
    found = float(read_s(costs(shape), np.array([float(context)]))[0])
    assert found == pytest.approx(expected / KV_RATE)


def test_a_chunk_is_half_full_on_average():
    found = costs(model("llama-4-scout"))
    assert found.windows[0].chunked
    inside, beyond = read_s(found, np.array([8192.0, 80_000.0])).tolist()
    assert beyond - 80_000 * found.kv_token_s == pytest.approx(
        (inside - 8192 * found.kv_token_s) / 2
    )
    whole = float(pairs_s(found, np.array([8192.0 * 4]))[0])
    full = found.pair_s * (8192.0 * 4) ** 2 / 2
    assert whole - full == pytest.approx(4 * found.windows[0].pair_s * 8192.0**2 / 2)


def test_a_latent_is_read_once_whatever_the_heads_and_the_gpus():
    latent = find_model("deepseek-ai/DeepSeek-V3")
    read = 61 * 576 * 2 / KV_RATE
    assert costs(latent, 8).kv_token_s == pytest.approx(read)
    assert costs(latent, 16).kv_token_s == pytest.approx(read)
    rate = H200.dense_tflops * 1e12 * TODAY.efficiency("H200").compute
    work = 61 * 128 * 4 * 576 / (rate * TODAY.efficiency("H200").attention)
    # all 128 heads on one GPU: absorbed attention is bound by its work, not by reading
    assert work > read
    assert costs(latent, 1).kv_token_s == pytest.approx(work)


def test_an_index_bounds_what_is_read_but_not_itself():
    sparse = find_model("deepseek-ai/DeepSeek-V3.2")
    found = costs(sparse, 8)
    assert [w.tokens for w in found.windows] == [2048]
    short, long = read_s(found, np.array([2048.0, 100_000.0])).tolist()
    index = 61 * 132 / KV_RATE
    assert long - short == pytest.approx((100_000 - 2048) * index)
    shared = find_model("zai-org/GLM-5.2")  # most layers use the index of an earlier one
    assert all(g.selected == 2048 for g in shared.groups)
    assert sum(g.count for g in shared.groups if g.fixed_bytes) == 21


def test_what_one_gpu_holds_whole_is_read_whole():
    latent = find_model("deepseek-ai/DeepSeek-V3")
    whole = latent.total(lambda g: g.whole * g.dense.linear_bytes / g.dense.linear)
    split = latent.total(lambda g: g.dense.bytes) - whole + latent.head.bytes
    assert costs(latent, 8).weights_s == pytest.approx((split / 8 + whole) / WEIGHT_RATE)


def replica(shape: ModelShape) -> ReplicaModel:
    found = replica_model(shape, H200, 1, TODAY)
    assert isinstance(found, ReplicaModel)
    return found


def test_a_looser_window_never_serves_more():
    base = find_model("openai/gpt-oss-20b")
    sizes = RequestSizes(
        input_tokens=np.array([200.0, 4000.0, 30_000.0]),
        output_tokens=np.array([100.0, 500.0, 1000.0]),
    )
    rates = []
    for window in (64, 128, 1024, 16_384):
        groups = tuple(
            dataclasses.replace(g, window=window) if g.window else g for g in base.groups
        )
        shape = dataclasses.replace(base, groups=groups)
        rates.append(capacity_estimate(replica(shape), sizes, SLO(tpot_s=0.05)).rate_rps)
    assert all((a >= b * (1 - 1e-9)).all() for a, b in itertools.pairwise(rates))


def test_single_mixers_end_in_one_all_reduce_each():
    """Nemotron-H's 52 layers are an attention, a state or a feed-forward each, not two of them."""
    single = find_model("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
    assert single.layers == 52
    assert single.total(lambda g: g.mixers) == 52
    assert find_model("meta-llama/Llama-3.1-8B").total(lambda g: g.mixers) == 64


def test_layers_without_attention_cost_no_reading():
    shape = find_model("nvidia/Llama-3_3-Nemotron-Super-49B-v1")
    none = [group for group in shape.groups if not group.caches]
    assert none and all(isinstance(group, LayerGroup) and not group.pair_flops for group in none)
    attending = sum(group.count for group in shape.groups if group.caches)
    assert costs(shape).kv_token_s == pytest.approx(attending * 2 * 8 * 128 * 2 / KV_RATE)
