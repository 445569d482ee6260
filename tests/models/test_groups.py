"""A model's layers by kinds: they add up to the layer list, and to known figures."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.models import find_model, known_models, read_model, shipped_checkpoint
from melange_sky.models.config import layer_groups
from melange_sky.models.shape import ModelShape
from tests.steps.test_pool import model

NAMES = sorted({find_model(name).name for name in known_models()})


@pytest.mark.parametrize("name", NAMES)
def test_the_groups_add_up_to_the_layer_list(name):
    read = read_model(shipped_checkpoint(name))
    layers, shape = read.layers, read.shape
    assert shape.groups == layer_groups(layers, read.scheme)
    assert shape.layers == len(layers.layers)
    assert shape.parameters == layers.resident_parameters
    assert shape.expert_parameters == layers.expert_parameters
    assert shape.active_parameters == pytest.approx(layers.active_parameters, rel=1e-9)
    assert shape.state_bytes_per_sequence == layers.state_bytes_per_sequence
    assert shape.kv_bytes_per_token == pytest.approx(layers.kv_bytes_per_token)
    for tokens in (1, 100, 4096, 100_000):
        assert shape.kv_bytes(tokens) == pytest.approx(layers.kv_bytes(tokens))
    if read.scheme.method:
        assert shape.weight_bytes == pytest.approx(read.sizes.resident_bytes)
    else:
        assert shape.weight_bytes == 2 * layers.resident_parameters


@pytest.mark.parametrize("name", NAMES)
def test_the_gpus_of_a_group_hold_all_weights_and_little_twice(name):
    shape = find_model(name)
    assert shape.weight_bytes_per_gpu(1) == pytest.approx(shape.weight_bytes)
    for tensor_parallel in (2, 4, 8):
        held = tensor_parallel * shape.weight_bytes_per_gpu(tensor_parallel)
        assert shape.weight_bytes <= held * (1 + 1e-12)
        assert held <= 1.25 * shape.weight_bytes


KNOWN = [
    # model, KiB per token beyond every window, bytes of state, layers by window (None: all tokens)
    ("Qwen/Qwen3.5-27B", 64, 48 * 3_207_168, {None: 16}),
    ("gemma-3-27b", 80, 0, {None: 10, 1024: 52}),
    ("openai/gpt-oss-20b", 24, 0, {None: 12, 128: 12}),
    ("openai/gpt-oss-120b", 36, 0, {None: 18, 128: 18}),
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 6, 23 * 2_134_016, {None: 6}),
    ("deepseek-ai/DeepSeek-V3", 61 * 576 * 2 / 1024, 0, {None: 61}),
    ("llama-4-scout", 48, 0, {None: 12, 8192: 36}),
]


@pytest.mark.parametrize(("name", "kib", "state", "windows"), KNOWN, ids=[k[0] for k in KNOWN])
def test_known_caches(name, kib, state, windows):
    shape = model(name)
    assert shape.kv_bytes_per_token == kib * 1024
    assert shape.state_bytes_per_sequence == state
    found: dict[int | None, int] = {}
    for group in shape.groups:
        if group.caches:
            found[group.window] = found.get(group.window, 0) + group.count
    assert found == windows


def test_quantized_modules_keep_their_own_bytes():
    """gpt-oss keeps its experts in 4 bits and everything else in 16: no average says what a step reads."""
    shape = find_model("openai/gpt-oss-120b")
    experts = shape.total(lambda g: g.experts.bytes)
    assert experts / shape.expert_parameters == pytest.approx(0.53, abs=0.01)
    assert {g.dense.bytes / g.dense.parameters for g in shape.groups} == {2.0}
    assert shape.head.bytes / shape.head.parameters == 2.0


def test_tables_of_which_rows_are_read_are_no_reading():
    tied = find_model("google/gemma-2-9b")
    assert tied.lookup.parameters == 0
    assert tied.head.parameters > tied.vocabulary * tied.hidden_size
    free = find_model("meta-llama/Llama-3.1-8B")
    assert free.lookup.parameters == free.vocabulary * free.hidden_size


GROWN = st.sampled_from(["count", "kv_values", "fixed_bytes", "state_bytes", "window_values"])


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    number=st.integers(0, 5),
    what=GROWN,
    factor=st.integers(2, 4),
    tokens=st.integers(1, 200_000),
    tensor_parallel=st.sampled_from([1, 2, 8]),
)
def test_more_layers_heads_or_context_never_cost_less_memory(
    name, number, what, factor, tokens, tensor_parallel
):
    shape = find_model(name)
    group = shape.groups[number % len(shape.groups)]
    more = dataclasses.replace(group, **{what: getattr(group, what) * factor})
    larger = dataclasses.replace(
        shape, groups=tuple(more if g is group else g for g in shape.groups)
    )
    assert larger.kv_bytes(tokens, tensor_parallel) >= shape.kv_bytes(tokens, tensor_parallel)
    assert larger.weight_bytes_per_gpu(tensor_parallel) >= shape.weight_bytes_per_gpu(
        tensor_parallel
    )
    assert shape.kv_bytes(tokens + 1, tensor_parallel) >= shape.kv_bytes(tokens, tensor_parallel)


def test_in_bytes_touches_what_it_names():
    shape = find_model("Qwen/Qwen3.5-35B-A3B")
    half = shape.in_bytes(1.0)
    assert shape.weight_bytes - half.weight_bytes == shape.linear_parameters
    experts = shape.in_bytes(1.0, experts_only=True)
    assert shape.weight_bytes - experts.weight_bytes == shape.expert_parameters
    assert shape.in_bytes(2.0, 2.0) == shape
    assert isinstance(shape.scaled(1.5), ModelShape)
    assert shape.scaled(1.5).weight_bytes == pytest.approx(1.5 * shape.weight_bytes)
