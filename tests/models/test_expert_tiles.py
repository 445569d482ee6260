"""What kernels pad experts with, against the start-up logs of real engines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.models import find_model
from melange_sky.models.expert_tiles import ExpertSizes, padding, tile_of
from melange_sky.parallelism import Parallelism
from melange_sky.steps.memory import GIB
from melange_sky.steps.splits import _held_by_gpus

# "Model loading took N GiB": vLLM issues 33155 (H100, Triton) and 23278 (Marlin, whose tiles every
# GPU before Hopper gets), and a start-up on one A100.
LOGGED = [
    ("openai/gpt-oss-120b", 9.0, 64.38),
    ("openai/gpt-oss-120b", 8.0, 65.9651),
    ("openai/gpt-oss-20b", 8.0, 13.72),
]


@pytest.mark.parametrize(("name", "capability", "gib"), LOGGED)
def test_what_an_engine_said_that_it_loaded(name, capability, gib):
    shape = find_model(name)
    held = shape.weight_bytes_per_gpu(1) + shape.padding_bytes_per_gpu(1, capability)
    assert held / GIB == pytest.approx(gib, rel=0.005)


@pytest.mark.parametrize("tensor_parallel", [2, 4, 8])
def test_gpt_oss_is_split_as_the_engine_splits_it(tensor_parallel):
    """90 blocks of 32 inputs over 4 GPUs are 23 on each but the last, and 768 padded inputs on all."""
    shape = find_model("openai/gpt-oss-120b")
    assert shape.split_problem(Parallelism(tensor=tensor_parallel)) is None
    width = -(-2880 // tensor_parallel // 128) * 128
    experts = shape.total(lambda g: g.experts.bytes)
    added = shape.padding_bytes_per_gpu(tensor_parallel, 8.0) * tensor_parallel
    assert (experts + added) / experts == pytest.approx(
        3072 * width * tensor_parallel / 2880 / 2880, rel=1e-6
    )


def test_other_4_bit_experts_keep_their_groups_whole():
    sizes = ExpertSizes(form="nvfp4", hidden=2688, width=1856, gated=False)
    assert padding(sizes, 10.0, 1) == pytest.approx(2816 * 1920 / 2688 / 1856)
    assert padding(sizes, 9.0, 1) == 1.0
    assert padding(ExpertSizes(form="fp8", hidden=2880, width=2880), 8.0, 4) == 1.0


def test_experts_that_are_spread_are_padded_once():
    shape = find_model("openai/gpt-oss-20b")
    spread = _held_by_gpus(shape, Parallelism(tensor=1, data=4, experts_spread=True))
    whole = shape.padding_bytes_per_gpu(1, 8.0)
    assert spread.padding_bytes_per_gpu(1, 8.0) == pytest.approx(whole / 4)


def test_experts_quantized_while_loading_are_padded_as_those_of_a_checkpoint():
    plain = find_model("Qwen/Qwen3-30B-A3B")
    assert plain.padding_bytes_per_gpu(1, 8.0) == 0
    held = DEFAULT_ENGINE.held(plain, ["--quantization", "mxfp4"])
    assert {group.expert_sizes.form for group in held.groups} == {"mxfp4"}
    assert held.padding_bytes_per_gpu(8, 8.0) > 0  # 96 of each expert's width on a GPU make 128


@settings(max_examples=200, deadline=None)
@given(
    form=st.sampled_from(["mxfp4", "nvfp4"]),
    hidden=st.integers(1, 9000),
    width=st.integers(1, 9000),
    gated=st.booleans(),
    capability=st.sampled_from([None, 7.5, 8.0, 8.9, 9.0, 10.0, 12.0]),
    tensor_parallel=st.sampled_from([1, 2, 4, 8]),
)
def test_padding_never_takes_away_and_whole_tiles_need_none(
    form, hidden, width, gated, capability, tensor_parallel
):
    sizes = ExpertSizes(form=form, hidden=hidden, width=width, gated=gated)
    assert padding(sizes, capability, tensor_parallel) >= 1.0
    whole = ExpertSizes(form=form, hidden=256 * 11, width=256 * 8 * 3, gated=gated)
    assert padding(whole, capability, tensor_parallel) == pytest.approx(1.0)
    assert tile_of(sizes, capability).width % 64 == 0 or tile_of(sizes, capability).width == 1
