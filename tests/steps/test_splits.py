"""Pipelines and spread experts: memory adds up, latency adds up, and waiting is counted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from melange_sky.models import find_model
from melange_sky.names.accelerators import find_accelerator
from melange_sky.parallelism import Parallelism
from melange_sky.profiles import engine_generation
from melange_sky.steps import (
    NETWORK_GBPS,
    Misfit,
    ReplicaModel,
    RequestSizes,
    holds,
    kv_pool,
    replica_model,
    split_band,
    split_replica,
    step_costs,
)
from melange_sky.steps.estimate import decode_step_s
from melange_sky.steps.splits import fullest_stage, longest_stage

TODAY = engine_generation("vllm")
H100, H200 = find_accelerator("H100"), find_accelerator("H200")
LLAMA_8B = find_model("meta-llama/Llama-3.1-8B-Instruct")
LLAMA_70B = find_model("meta-llama/Llama-3.1-70B-Instruct")
DEEPSEEK = find_model("deepseek-ai/DeepSeek-V3")
MIXTRAL = find_model("mistralai/Mixtral-8x7B-v0.1")


def engine(model, gpu=H200, **split) -> ReplicaModel:
    found = split_replica(model, gpu, Parallelism(**split), TODAY)
    assert isinstance(found, ReplicaModel)
    return found


def step_s(found: ReplicaModel, batch: float) -> float:
    sizes = RequestSizes(input_tokens=np.array([1000.0]), output_tokens=np.array([200.0]))
    return float(decode_step_s(found, sizes, np.array([batch]))[0])


@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
def test_a_plain_tensor_group_is_what_it_was(tensor):
    assert engine(LLAMA_8B, tensor=tensor) == replica_model(LLAMA_8B, H200, tensor, TODAY)
    copies = engine(LLAMA_8B, tensor=tensor, data=4)
    assert copies == replica_model(LLAMA_8B, H200, tensor, TODAY)


@pytest.mark.parametrize("model", [LLAMA_70B, DEEPSEEK, MIXTRAL], ids=lambda m: m.name)
@pytest.mark.parametrize("stages", [2, 3, 5, 8])
def test_stages_hold_the_whole_model_between_them(model, stages):
    """The fullest stage holds no less than an even share, and two layers of each kind more at most."""
    stage = fullest_stage(model, stages)
    even = model.weight_bytes / stages
    layer = max(g.dense.bytes + g.experts.bytes for g in model.groups)
    outside = model.head.bytes + model.lookup.bytes
    assert stage.weight_bytes >= even - outside
    assert stage.weight_bytes <= even + outside + 2 * len(model.groups) * layer
    assert stages * longest_stage(model, stages) >= model.layers
    assert stages * stage.layers >= model.layers


def test_a_pipeline_holds_what_no_gpu_of_it_does():
    assert not holds(LLAMA_70B, H100, Parallelism(), TODAY)
    assert isinstance(kv_pool(LLAMA_70B, H100, 1, TODAY), Misfit)
    assert holds(LLAMA_70B, H100, Parallelism(pipeline=2), TODAY)
    assert holds(LLAMA_70B, H100, Parallelism(pipeline=3), TODAY)  # no 3 GPUs share 64 heads


def test_more_stages_leave_more_room_for_the_cache():
    held = [stages * engine(LLAMA_70B, H100, pipeline=stages).pool.tokens for stages in (2, 4, 8)]
    assert held == sorted(held)
    assert held[1] > 2 * held[0]  # beside ever smaller weights: more than in proportion


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_the_stages_of_a_pipeline_work_in_turn(batch):
    """A token passes all layers, on one tensor group after the other, and is handed on."""
    whole = step_costs(LLAMA_70B, H200, 2, TODAY)
    two, four = (engine(LLAMA_70B, tensor=2, pipeline=stages) for stages in (2, 4))
    assert two.costs.weights_s == pytest.approx(whole.weights_s)
    assert four.costs.weights_s == pytest.approx(whole.weights_s)
    assert step_s(two, batch) < step_s(four, batch) < 1.2 * step_s(two, batch)
    assert step_s(engine(LLAMA_70B, tensor=4), batch) < step_s(two, batch)


def test_the_longest_stage_sets_the_pace():
    """61 layers over 2 stages: 31 of them set the pace of both."""
    whole = step_costs(DEEPSEEK, H200, 8, TODAY)
    pipe = engine(DEEPSEEK, tensor=8, pipeline=2)
    assert pipe.costs.weights_s == pytest.approx(whole.weights_s * 62 / 61)
    assert pipe.costs.sequence_s == whole.sequence_s


def test_stages_hand_over_faster_within_an_instance_than_between_two():
    near = engine(LLAMA_70B, H100, tensor=8, pipeline=2)
    far = engine(LLAMA_70B, H100, tensor=8, pipeline=2, nodes=2)
    sent = 2 * LLAMA_70B.hidden_size * 2.0
    before = step_costs(LLAMA_70B, H100, 8, TODAY).token_link_s
    assert far.costs.token_link_s - before == pytest.approx(sent / (NETWORK_GBPS * 1e9))
    assert near.costs.token_link_s < far.costs.token_link_s
    assert near.costs.fixed_s < far.costs.fixed_s
    assert near.pool == far.pool


def test_prompts_are_waited_for_where_batches_or_engines_step_together():
    plain = engine(MIXTRAL, tensor=2)
    staged = engine(MIXTRAL, tensor=2, pipeline=2)
    spread = engine(MIXTRAL, tensor=2, data=4, experts_spread=True)
    assert plain.prompt_token_s == 0.0
    assert staged.prompt_token_s > spread.prompt_token_s > 0.0
    assert staged.costs.pair_s == pytest.approx(2 * plain.costs.pair_s)


def test_spread_experts_are_divided_over_all_gpus_and_attention_is_not():
    """Weights of a GPU: experts ÷ (tp · dp), all else ÷ tp. Read from what is left for the cache."""
    data = 8
    one = engine(MIXTRAL, tensor=1, data=data, experts_spread=True)
    experts = sum(g.count * g.experts.bytes for g in MIXTRAL.groups)
    alone = step_costs(MIXTRAL, H200, 1, TODAY)
    assert one.costs.experts_s == pytest.approx(alone.experts_s / data)
    # a token of this engine stands for one of each on as many times the GPUs, in the same format
    assert one.costs.expert_token_s == pytest.approx(alone.expert_token_s)
    gained = (one.pool.blocks - engine(MIXTRAL).pool.blocks) * one.pool.block_tokens
    freed = experts * (1 - 1 / data)
    assert gained * MIXTRAL.kv_bytes_per_token == pytest.approx(freed, rel=0.01)


def test_every_engine_of_a_latent_model_has_a_cache_of_its_own():
    """A tensor group of eight copies the latents eight times; eight engines cache as many times more."""
    group = engine(DEEPSEEK, tensor=8)
    spread = engine(DEEPSEEK, data=8, experts_spread=True)
    assert 8 * spread.pool.tokens > 4 * group.pool.tokens


def test_tokens_of_all_engines_touch_the_experts():
    """One token of each of eight engines reads what eight tokens of one engine do."""
    one = step_costs(MIXTRAL, H200, 1, TODAY)
    spread = engine(MIXTRAL, data=8, experts_spread=True)
    assert spread.costs.expert_miss == pytest.approx(one.expert_miss**8)


def test_engines_exchange_the_tokens_of_all():
    few, many = (engine(MIXTRAL, data=n, experts_spread=True).costs.token_link_s for n in (2, 8))
    # (d − 1) ÷ d of d engines' tokens: seven times one's own against one time
    plain = step_costs(MIXTRAL, H200, 1, TODAY).token_link_s
    assert many - plain == pytest.approx(7 * (few - plain))
    far = engine(DEEPSEEK, H200, data=16, experts_spread=True, nodes=2)
    near = engine(DEEPSEEK, H200, data=16, experts_spread=True)
    assert far.costs.token_link_s > 10 * near.costs.token_link_s


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"pipeline": 2}, "pipeline stages"),
        ({"pipeline": 2, "nodes": 2}, "several instances"),
        ({"data": 2, "experts_spread": True}, "experts spread"),
    ],
)
def test_what_is_assumed_has_a_wider_band_that_says_so(split, words):
    band = split_band_of(Parallelism(tensor=8, data=4))
    wide = split_band_of(Parallelism(**split))
    assert wide.low < band.low and wide.high > band.high
    assert words in wide.basis and "assumed" in wide.basis


def split_band_of(split: Parallelism):
    from melange_sky.steps import ErrorBand

    return split_band(ErrorBand(low=0.8, high=1.2, basis="runs"), split)


def test_a_misfit_counts_what_is_missing_on_all_gpus():
    l4 = find_accelerator("L4")
    stages, spread = (
        split_replica(DEEPSEEK, l4, Parallelism(**split), TODAY)
        for split in ({"pipeline": 8}, {"data": 8, "experts_spread": True})
    )
    assert isinstance(stages, Misfit) and isinstance(spread, Misfit)
    least = DEEPSEEK.weight_bytes - 8 * l4.memory_gib * 2**30
    assert stages.missing_bytes > least and spread.missing_bytes > least
    assert math.isfinite(spread.missing_bytes)
