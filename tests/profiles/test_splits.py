"""Which splits are weighed: against every possible one, and what stands for one that is not."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from melange_sky.models import find_model, shape_from_config
from melange_sky.names.accelerators import find_accelerator
from melange_sky.parallelism import Parallelism
from melange_sky.profiles import (
    CapacityQuery,
    ReplicaShape,
    engine_generation,
    enough_nodes,
    nearest_split,
    refused_splits,
    replica_capacities,
    sensible_splits,
)
from melange_sky.slo import SLO
from melange_sky.steps import holds
from tests.models.test_cases import AWQ_72B, MOE

TODAY = engine_generation("vllm")
LLAMA_8B = find_model("meta-llama/Llama-3.1-8B-Instruct")
LLAMA_70B = find_model("meta-llama/Llama-3.1-70B-Instruct")
MIXTRAL = find_model("mistralai/Mixtral-8x7B-v0.1")
DEEPSEEK = find_model("deepseek-ai/DeepSeek-V3")
QWEN_MOE = find_model("Qwen/Qwen3-30B-A3B")
MODELS = [LLAMA_8B, LLAMA_70B, MIXTRAL, DEEPSEEK, QWEN_MOE]


def weighed(model, accelerator, count, nodes=1):
    return sensible_splits(model, find_accelerator(accelerator), count, nodes=nodes)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
@pytest.mark.parametrize("accelerator", ["L4", "A100-80GB", "H200"])
@pytest.mark.parametrize(("count", "nodes"), [(1, 1), (3, 1), (4, 1), (8, 1), (8, 2), (4, 3)])
def test_every_split_takes_all_gpus_fits_and_tears_nothing(model, accelerator, count, nodes):
    gpu = find_accelerator(accelerator)
    found = weighed(model, accelerator, count, nodes)
    assert len(set(found)) == len(found)
    for split in found:
        assert split.gpus == count * nodes and split.nodes == nodes
        assert count % split.tensor == 0  # a tensor group stays within an instance
        assert model.split_problem(split) is None
        assert holds(model, gpu, split, TODAY)
        assert not split.experts_spread or model.experts


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
@pytest.mark.parametrize("accelerator", ["A10G", "H100"])
def test_every_copy_of_a_tensor_group_that_fits_is_weighed(model, accelerator):
    gpu = find_accelerator(accelerator)
    for count in (1, 2, 4, 8):
        wanted = {
            Parallelism(tensor=t, data=count // t)
            for t in (1, 2, 4, 8)
            if count % t == 0
            and model.splits_over(t)
            and holds(model, gpu, Parallelism(tensor=t), TODAY)
        }
        plain = {s for s in weighed(model, accelerator, count) if s.pipeline == 1}
        assert {s for s in plain if not s.experts_spread} == wanted


def test_pipelines_are_of_groups_that_do_not_hold_the_model():
    for model, count in itertools.product(MODELS, (2, 4, 8)):
        for split in weighed(model, "H100", count):
            alone = holds(model, find_accelerator("H100"), Parallelism(tensor=split.tensor), TODAY)
            assert split.pipeline == 1 or not alone


def test_an_odd_count_is_used_by_stages():
    assert weighed(LLAMA_70B, "H100", 3) == (Parallelism(pipeline=3),)
    assert weighed(LLAMA_8B, "H100", 3) == (Parallelism(data=3),)


def test_layers_that_depend_on_distant_ones_make_no_stages():
    shape = dataclasses.replace(LLAMA_70B, in_stages=False)
    assert all(split.pipeline == 1 for split in weighed(shape, "H100", 8))
    assert "no pipeline" in (shape.split_problem(Parallelism(pipeline=2)) or "")
    assert LLAMA_70B.split_problem(Parallelism(pipeline=81)) == "80 layers cannot make 81 stages"


def test_spread_experts_need_as_many_on_each_gpu():
    spread = {s for s in weighed(MIXTRAL, "H100", 8) if s.experts_spread}
    assert {(s.tensor, s.data) for s in spread} == {(1, 8), (2, 4), (4, 2)}
    assert not [s for s in weighed(MIXTRAL, "A100", 16) if s.experts_spread]  # 8 experts


def test_torn_groups_of_experts_stay_whole_where_experts_are_spread():
    """768 ÷ 4 = 192 inputs hold no whole groups of 128: the four GPUs take whole experts instead."""
    config = {
        **MOE,
        "moe_intermediate_size": 768,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "quantization_config": AWQ_72B["quantization_config"],
    }
    shape = shape_from_config("m", config)
    torn, whole = Parallelism(tensor=4), Parallelism(tensor=4, experts_spread=True)
    assert "no whole number of groups of 128" in (shape.split_problem(torn) or "")
    assert shape.split_problem(whole) is None
    found = weighed(shape, "H100", 4)
    assert whole in found and torn not in found


def test_torn_groups_leave_stages():
    """29568 ÷ tp holds whole groups of 128 for no tp, so that four small cards take a stage each."""
    shape = shape_from_config("m", AWQ_72B)
    assert weighed(shape, "A10G", 4) == (Parallelism(pipeline=4),)
    assert [tensor for tensor, _ in refused_splits(shape, 4)] == [2, 4]
    assert refused_splits(shape, 4)[0][1] == (
        "29568 inputs of mlp.down_proj make 14784 on each of 2 GPUs, no whole number of groups of 128"
    )
    assert weighed(shape, "A10G", 2) == ()
    assert nearest_split(shape, 2) == Parallelism(pipeline=2)


def test_heads_of_keys_and_values_are_copied_and_not_torn():
    """Four heads of 128 over eight GPUs: each has a whole copy, whatever 512 ÷ 8 is."""
    config = {
        **MOE,
        "moe_intermediate_size": 768,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "shared_expert_intermediate_size": 1024,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    }
    assert shape_from_config("m", config).split_problem(Parallelism(tensor=8)) is None


def test_the_nodes_that_hold_a_model_are_counted():
    h100 = find_accelerator("H100")
    assert enough_nodes(DEEPSEEK, h100, 8, "vllm") == 2
    assert enough_nodes(DEEPSEEK, h100, 8, "vllm", nodes=2) == 3
    assert enough_nodes(DEEPSEEK, find_accelerator("T4"), 1, "vllm") is None


def query(model, sizes=((1000, 200), (200, 300))):
    return CapacityQuery(
        model=model,
        slo=SLO(tpot_s=0.08, ttft_s=4.0),
        input_sizes=tuple((float(i),) for i, _ in sizes),
        output_sizes=tuple((float(o),) for _, o in sizes),
        longest_request_tokens=8000,
    )


def carried(model, accelerator, *splits):
    shapes = [ReplicaShape.split_as(accelerator, split) for split in splits]
    return replica_capacities(query(model), shapes)


def rates(found):
    return [row[0].max_rate_rps for row in found.cells]


@pytest.mark.parametrize("model", [LLAMA_8B, QWEN_MOE], ids=lambda m: m.name)
@pytest.mark.parametrize("tensor", [1, 2])
def test_copies_carry_as_many_times_what_one_does(model, tensor):
    one, four = carried(
        model, "H100", Parallelism(tensor=tensor), Parallelism(tensor=tensor, data=4)
    )
    assert rates(four) == pytest.approx([4 * rate for rate in rates(one)])
    assert four.settings.max_num_seqs == one.settings.max_num_seqs


def test_a_mixture_of_experts_of_one_gpu_serves_most_in_copies():
    """A tensor group of eight spends its time on exchanging what one GPU holds."""
    copies, pairs, group = carried(
        QWEN_MOE,
        "H100",
        Parallelism(data=8),
        Parallelism(tensor=2, data=4),
        Parallelism(tensor=8),
    )
    assert max(rates(copies)[0], rates(pairs)[0]) > 1.5 * rates(group)[0]


def test_settings_are_of_one_engine_and_all_its_batches():
    staged, spread = carried(
        MIXTRAL,
        "H100",
        Parallelism(tensor=2, pipeline=2),
        Parallelism(data=4, experts_spread=True),
    )
    assert staged.settings.pipeline_parallel == 2 and staged.settings.data_parallel == 1
    assert staged.settings.max_num_seqs % 2 == 0
    assert spread.settings.expert_parallel and spread.settings.data_parallel == 4
    for found in (staged, spread):
        assert found.settings.split == found.shape.split


def test_a_row_says_what_a_split_would_tear():
    (found,) = carried(shape_from_config("m", AWQ_72B), "H100", Parallelism(tensor=4))
    assert found.settings is None
    assert found.reason == (
        "m cannot be split over 4 × H100: 29568 inputs of mlp.down_proj make 7392 on each of 4 GPUs, "
        "no whole number of groups of 128"
    )


def test_what_would_fit_is_found_in_stages_too():
    (found,) = carried(shape_from_config("m", AWQ_72B), "A10G", Parallelism(pipeline=2))
    assert "4 × A10G would fit" in (found.reason or "")
