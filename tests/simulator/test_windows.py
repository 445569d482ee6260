"""Layers of several windows in the simulator: against a token-by-token reading, and what it keeps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.simulator import FleetSimulation, RequestStream, simulate_fleet, simulate_replica
from melange_sky.simulator import state as c
from melange_sky.steps import KvPool, ReplicaModel, StepCosts, WindowBlocks, WindowCosts

COSTS = StepCosts(
    fixed_s=0.01,
    sequence_s=1e-4,
    weights_s=0.004,
    experts_s=0.0,
    expert_miss=0.0,
    token_flops_s=1e-4,
    token_link_s=0.0,
    kv_token_s=1e-6,
    pair_s=1e-8,
)
WINDOWS = (
    WindowCosts(tokens=24, kv_token_s=3e-6, pair_s=2e-8),
    WindowCosts(tokens=40, kv_token_s=2e-6, pair_s=3e-8, chunked=True),
    WindowCosts(tokens=100, kv_token_s=5e-6, pair_s=1e-8),
)


def replica(windows=WINDOWS, **over) -> ReplicaModel:
    values = {
        "costs": COSTS._replace(windows=windows),
        "pool": KvPool(blocks=100_000, block_tokens=16),
        "chunked": True,
        "budget_tokens": 64,
        "max_num_seqs": 8,
        "watermark_blocks": 0,
        "reserve_tokens": 0,
    }
    return ReplicaModel(**(values | over))


def seen(window: WindowCosts, position: int) -> int:
    """Tokens that the query at `position` (from 0) attends to, itself included."""
    if window.chunked:
        return position % window.tokens + 1
    return min(position + 1, window.tokens)


def chunks_of_a_step(one: ReplicaModel, decoding, prefill, waiting, inputs) -> dict[int, int]:
    """Return how many prompt tokens of which request the next step computes."""
    budget, chunks = one.budget_tokens - len(decoding), {}
    while budget > 0:
        request = next((r for r in prefill if r not in chunks), None)
        if request is None:
            if not waiting or len(decoding) + len(prefill) >= one.max_num_seqs:
                break
            request = waiting.pop(0)
            prefill[request] = 0
        chunks[request] = min(inputs[request] - prefill[request], budget)
        budget -= chunks[request]
    return chunks


def attention_s(costs: StepCosts, decoding, prefill, chunks, inputs) -> float:
    """Return what a step spends on attention, query by query."""
    seconds = 0.0
    for request, made in decoding.items():
        position = inputs[request] + made - 1
        seconds += costs.kv_token_s * (position + 1)
        seconds += sum(w.kv_token_s * seen(w, position) for w in costs.windows)
    for request, chunk in chunks.items():
        for position in range(prefill[request], prefill[request] + chunk):
            seconds += costs.pair_s * (position + 1)
            seconds += sum(w.pair_s * seen(w, position) for w in costs.windows)
    return seconds


def step_by_step(one: ReplicaModel, inputs, outputs) -> tuple[list[float], list[float]]:
    """A slow reading of the chunked scheduler, all arrivals at 0, the cache roomy: token by token."""
    costs, clock, decoding, prefill = one.costs, 0.0, {}, {}
    waiting = list(range(len(inputs)))
    first, last = [0.0] * len(inputs), [0.0] * len(inputs)
    while waiting or prefill or decoding:
        chunks = chunks_of_a_step(one, decoding, prefill, waiting, inputs)
        tokens = len(decoding) + sum(chunks.values())
        clock += costs.fixed_s + costs.sequence_s * (len(decoding) + len(chunks))
        clock += max(costs.weights_s, costs.token_flops_s * tokens)
        clock += attention_s(costs, decoding, prefill, chunks, inputs)
        for request in list(decoding):
            decoding[request] += 1
            if decoding[request] == outputs[request]:
                last[request] = clock
                del decoding[request]
        for request, chunk in chunks.items():
            prefill[request] += chunk
            if prefill[request] == inputs[request]:
                del prefill[request]
                first[request] = last[request] = clock
                if outputs[request] > 1:
                    decoding[request] = 1
    return first, last


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_windows_and_chunks_cost_what_a_reading_token_by_token_says(seed):
    rng = np.random.default_rng(seed)
    inputs, outputs = rng.integers(1, 150, 30), rng.integers(1, 120, 30)
    log = simulate_replica(replica(), RequestStream.of(np.zeros(30), inputs, outputs))
    first, last = step_by_step(replica(), inputs.tolist(), outputs.tolist())
    np.testing.assert_allclose(log.first_token_s, first, rtol=1e-9)
    np.testing.assert_allclose(log.last_token_s, last, rtol=1e-9)


POOL = KvPool(
    blocks=60,
    block_tokens=16,
    scale=2,
    grown=1,
    windows=(WindowBlocks(tokens=24, parts=3, cap=3, prefill_cap=7),),
    fixed=4,
    prefill=2,
)


def parts_held(state: c.FleetState, pool: KvPool) -> int:
    """Parts of all running sequences, counted one by one."""
    held = 0
    for row in state.request:
        if row[c.STATE] == c.IN_DECODE:
            context = row[c.START_CONTEXT] + state.whole[0, c.STEP] - row[c.START_STEP]
            held += pool.held(int(context))
        elif row[c.STATE] == c.IN_PREFILL:
            held += pool.held(int(row[c.INPUT] + row[c.GENERATED]), prefill=True)
    return held


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000), chunked=st.booleans(), blocks=st.sampled_from([30, 60, 200, 5000])
)
def test_the_cache_holds_what_its_sequences_hold(seed, chunked, blocks):
    rng = np.random.default_rng(seed)
    pool = dataclasses.replace(POOL, blocks=blocks)
    one = replica(pool=pool, chunked=chunked, max_num_seqs=64)
    inputs, outputs = rng.integers(1, 150, 120), rng.integers(1, 120, 120)
    arrivals = np.cumsum(rng.exponential(0.02, 120))
    fleet = FleetSimulation([one], 120)
    for number in range(120):
        fleet.advance(float(arrivals[number]))
        held = parts_held(fleet._state, pool)
        assert fleet._state.whole[0, c.FREE] == pool.parts - held
        assert 0 <= held <= pool.parts
        fleet.submit(0, float(arrivals[number]), int(inputs[number]), int(outputs[number]))
    fleet.finish()
    fits = [
        pool.held(int(i + o), prefill=True) <= pool.parts
        for i, o in zip(inputs, outputs, strict=True)
    ]
    assert fleet.log().ok.tolist() == fits
    assert fleet.free_block_fraction[0] == 1.0
    assert fleet._state.whole[0, c.GROWING] == 0 and not fleet._state.residues.any()


def test_a_looser_window_never_serves_a_batch_earlier():
    ends = []
    for tokens in (16, 64, 300, 2000):
        cap = -(-(tokens - 1) // 16) + 1
        pool = KvPool(
            blocks=90,
            block_tokens=16,
            windows=(WindowBlocks(tokens=tokens, parts=2, cap=cap, prefill_cap=cap + 4),),
        )
        one = replica((WindowCosts(tokens=tokens, kv_token_s=3e-6, pair_s=1e-8),), pool=pool)
        fleet = simulate_fleet([one], RequestStream.of(np.zeros(40), 200, 150), lambda n, f: 0)
        assert fleet.log().ok.all()
        ends.append(float(fleet.log().last_token_s.max()))
    assert ends == sorted(ends)
    assert ends[-1] > 1.2 * ends[0]


def test_states_bound_how_many_run():
    pool = KvPool(blocks=50, block_tokens=784, fixed=3, prefill=3)
    fleet = simulate_fleet(
        [replica((), pool=pool, max_num_seqs=64)],
        RequestStream.of(np.zeros(64), 100, 400),
        lambda n, f: 0,
    )
    assert fleet.log().ok.all()
    running = simulate_fleet(
        [replica((), pool=dataclasses.replace(pool, blocks=5000), max_num_seqs=64)],
        RequestStream.of(np.zeros(64), 100, 400),
        lambda n, f: 0,
    )
    assert running.log().last_token_s.max() < 0.6 * fleet.log().last_token_s.max()


def test_one_window_over_all_is_a_sequence_that_stops_growing():
    long, short = replica(WINDOWS[:1]), replica(())
    stream = RequestStream.of([0.0], 20, 200)
    windowed = simulate_replica(long, stream)
    plain = simulate_replica(short, stream)
    extra = sum(3e-6 * min(20 + k, 24) for k in range(1, 200))
    assert windowed.last_token_s[0] - windowed.first_token_s[0] == pytest.approx(
        plain.last_token_s[0] - plain.first_token_s[0] + extra
    )
