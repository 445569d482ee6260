"""Blocks of the KV cache against what the engine's own allocator says, and what must hold of any."""

from __future__ import annotations

import copy
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.models import find_model, shape_from_config
from melange_sky.models.layer_group import LayerGroup
from melange_sky.models.shape import ModelShape
from melange_sky.names.accelerators import find_accelerator
from melange_sky.profiles import engine_generation
from melange_sky.steps import KvPool, block_layout, kv_pool
from tests.models.test_cases import SCOUT

GEMMA_3_27B = {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "hidden_size": 5376,
    "intermediate_size": 21504,
    "num_hidden_layers": 62,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "head_dim": 128,
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "max_position_embeddings": 131072,
    "vocab_size": 262208,
}
"""google/gemma-3-27b-it: 27.4 B parameters, every sixth layer attends to everything."""


def model(name: str) -> ModelShape:
    if name == "gemma-3-27b":
        return shape_from_config(name, GEMMA_3_27B)
    if name == "llama-4-scout":
        return shape_from_config(name, SCOUT)
    return find_model(name)


# Bytes of a block on one GPU, its tokens, tables that grow without end, tables of windows and of
# states: as `get_kv_cache_groups` of vLLM 0.33 deals out the layers (run by hand on these specs).
ALLOTTED = {
    "meta-llama/Llama-3.1-8B": (2097152, 16, 1, 0, 0),
    "mistralai/Mistral-7B-v0.1": (2097152, 16, 0, 1, 0),
    "deepseek-ai/DeepSeek-V3": (1124352, 16, 1, 0, 0),
    "openai/gpt-oss-20b": (393216, 16, 1, 1, 0),
    "gemma-3-27b": (1310720, 16, 1, 6, 0),
    "llama-4-scout": (786432, 16, 1, 3, 0),
    "XiaomiMiMo/MiMo-V2-Flash": (737280, 16, 0.5, 5, 0),
    "google/gemma-4-26B-A4B": (655360, 16, 0.5, 5, 0),
    "Qwen/Qwen3.5-27B": (51380224, 784, 1, 0, 3),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": (12877824, 2096, 1, 0, 4),
}


@pytest.mark.parametrize("name", ALLOTTED)
def test_layers_are_dealt_out_as_the_engine_does(name):
    layout = block_layout(model(name), 1, 16, 8192)
    size, tokens, grown, windows, states = ALLOTTED[name]
    rule = layout.rule
    assert (layout.block_bytes, rule.block_tokens) == (size, tokens)
    assert rule.grown / rule.scale == grown
    assert sum(w.parts for w in rule.windows) / rule.scale == windows
    assert rule.fixed // rule.scale == states


@pytest.mark.parametrize(
    ("name", "tensor_parallel", "kv_bytes", "tokens"),
    [
        # "Setting attention block size to N tokens" of public start-up logs
        ("Qwen/Qwen3.5-27B", 1, 2.0, 784),
        ("Qwen/Qwen3.5-27B", 1, 1.0, 1568),
        ("Qwen/Qwen3.5-35B-A3B", 1, 2.0, 1056),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 1, 2.0, 2096),
    ],
)
def test_blocks_are_as_long_as_a_state_needs(name, tensor_parallel, kv_bytes, tokens):
    shape = dataclasses.replace(find_model(name), kv_dtype_bytes=kv_bytes)
    assert block_layout(shape, tensor_parallel, 16, 2048).rule.block_tokens == tokens


def test_a_window_gives_up_blocks_and_holds_what_is_in_flight():
    rule = block_layout(model("gemma-3-27b"), 1, 16, 2048).rule
    assert rule.held(160) == 7 * 10  # 1 + 6 tables
    assert rule.held(1024) == 7 * 64
    assert rule.held(16_000) == 1000 + 6 * 65  # one block more where the window lies across
    assert rule.held(16_000, prefill=True) == 1000 + 6 * (65 + 128)
    chunks = block_layout(model("llama-4-scout"), 1, 16, 2048).rule
    assert chunks.held(100_000) == 6250 + 3 * 512


def test_kv_heads_and_latents_are_copied_where_there_are_too_few_to_split():
    llama, latent = find_model("meta-llama/Llama-3.1-8B"), find_model("deepseek-ai/DeepSeek-V3")
    sizes = [block_layout(llama, tp, 16, 2048).block_bytes for tp in (1, 2, 8, 16)]
    assert [sizes[0] / size for size in sizes] == [1, 2, 8, 8]
    assert block_layout(latent, 1, 16, 2048) == block_layout(latent, 16, 16, 2048)
    mixed = find_model(
        "google/gemma-4-26B-A4B"
    )  # 2 key-value heads in full layers, 8 in the others
    assert mixed.kv_bytes(100_000, 8) > mixed.kv_bytes(100_000) / 8


def concurrency(shape: ModelShape, accelerator: str, context: int) -> float:
    pool = kv_pool(shape, find_accelerator(accelerator), 1, engine_generation("vllm"))
    assert isinstance(pool, KvPool)
    return pool.parts / pool.held(context)


def test_hybrids_hold_many_times_the_sequences_of_a_dense_model_of_their_size():
    """At 32k tokens: 16 of 64 layers of Qwen3.5-27B cache, and a state of 147 MiB comes on top."""
    hybrid = find_model("Qwen/Qwen3.5-27B")
    as_dense = dataclasses.replace(
        hybrid,
        groups=tuple(
            dataclasses.replace(g, state_bytes=0, kv_values=2048.0, kv_heads=4, heads=24)
            for g in hybrid.groups
        ),
    )
    ratio = concurrency(hybrid, "H200", 32768) / concurrency(as_dense, "H200", 32768)
    assert 3.4 < ratio < 4.0
    # short sequences are bound by the state instead: four blocks of 784 tokens each
    assert concurrency(hybrid, "H200", 100) < 1.1 * concurrency(as_dense, "H200", 784)


def shape_of(*groups: LayerGroup) -> ModelShape:
    base = find_model("meta-llama/Llama-3.1-8B")
    return dataclasses.replace(base, groups=groups)


GROUP = LayerGroup(count=8, heads=32, kv_heads=8, kv_values=2048.0, pair_flops=4)
SIZES = st.integers(1, 60_000)


def windowed(count: int, window: int, values: int = 2048) -> LayerGroup:
    return LayerGroup(
        count=count, heads=32, kv_heads=8, window_values=values, window=window, pair_flops=4
    )


@settings(max_examples=60, deadline=None)
@given(
    counts=st.tuples(st.integers(0, 20), st.integers(0, 40), st.integers(0, 40)),
    window=st.integers(16, 8192),
    values=st.sampled_from([512, 1024, 2048, 3072]),
    state=st.integers(1, 4_000_000),
    sizes=st.tuples(SIZES, SIZES),
)
def test_a_longer_sequence_never_holds_less(counts, window, values, state, sizes):
    (full, sliding, linear), (tokens, more) = counts, sizes
    groups = [
        dataclasses.replace(GROUP, count=full),
        windowed(sliding, window, values),
        LayerGroup(count=linear, state_bytes=state),
    ]
    groups = [group for group in groups if group.count]
    if not any(group.caches for group in groups):
        return
    rule = block_layout(shape_of(*groups), 1, 16, 2048).rule
    for prefill in (False, True):
        assert rule.held(tokens, prefill=prefill) <= rule.held(tokens + more, prefill=prefill)
    assert rule.held(tokens) <= rule.held(tokens, prefill=True)
    held = shape_of(*groups).kv_bytes(tokens)
    blocks = rule.held(tokens) / rule.scale
    size = block_layout(shape_of(*groups), 1, 16, 2048).block_bytes
    assert blocks * size >= 0.98 * held  # nothing that is cached is left out


@settings(max_examples=40, deadline=None)
@given(
    sliding=st.integers(1, 40),
    narrow=st.integers(16, 4096),
    wider=st.integers(1, 4096),
    tokens=SIZES,
)
def test_a_looser_window_never_holds_more_sequences(sliding, narrow, wider, tokens):
    rules = [
        block_layout(shape_of(GROUP, windowed(sliding, window)), 1, 16, 2048).rule
        for window in (narrow, narrow + wider)
    ]
    assert rules[0].held(tokens) <= rules[1].held(tokens)
    pools = [dataclasses.replace(rule, blocks=5000) for rule in rules]
    assert pools[0].tokens_at(tokens) >= pools[1].tokens_at(tokens)
    assert pools[0].longest_tokens >= pools[1].longest_tokens


@settings(max_examples=40, deadline=None)
@given(blocks=st.integers(1, 20_000), window=st.integers(16, 5000), tokens=SIZES)
def test_the_longest_sequence_is_the_longest_that_fits(blocks, window, tokens):
    rule = block_layout(shape_of(GROUP, windowed(24, window)), 1, 16, 2048).rule
    pool = dataclasses.replace(rule, blocks=blocks)
    longest = pool.longest_tokens
    assert pool.held(longest, prefill=True) <= pool.parts
    assert pool.held(longest + 1, prefill=True) > pool.parts


def test_a_model_of_windows_alone_holds_any_length():
    mistral = find_model("mistralai/Mistral-7B-v0.1")
    pool = kv_pool(mistral, find_accelerator("L4"), 1, engine_generation("vllm"))
    assert isinstance(pool, KvPool)
    assert pool.longest_tokens > 10**9
    old = kv_pool(mistral, find_accelerator("L4"), 1, engine_generation("vllm-0.5"))
    assert isinstance(old, KvPool)
    assert old.longest_tokens == old.tokens  # engines of 2024 kept every token


def test_compressed_caches_share_a_pool_by_their_bytes():
    shape = find_model("deepseek-ai/DeepSeek-V4-Flash")
    layout = block_layout(shape, 1, 16, 2048)
    for tokens in (64, 128, 5000, 100_000):
        size = layout.rule.held(tokens) / layout.rule.scale * layout.block_bytes
        assert size == pytest.approx(shape.kv_bytes(tokens), rel=0.25)
        assert size >= 0.99 * shape.kv_bytes(tokens)


def test_a_wrong_list_of_kinds_is_not_silently_one_window():
    config = copy.deepcopy(GEMMA_3_27B) | {"sliding_window": 512}
    layout = block_layout(shape_from_config("m", config), 1, 16, 2048)
    assert [w.tokens for w in layout.rule.windows] == [512]
