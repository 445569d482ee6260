"""The simulated prefix cache: against a cache kept block by block, and what it leaves as it was."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.prefixes import paths_of_hashes, paths_of_sessions
from melange_sky.simulator import RequestStream, compiled, kernel, simulate_replica
from melange_sky.simulator import state as c
from melange_sky.simulator.fleet import FleetRules, Outage
from melange_sky.simulator.native import Packed
from melange_sky.simulator.state import FleetState, fleet_state
from melange_sky.steps import KvPool, ReplicaModel, WindowBlocks
from tests.prefixes.brute import found_blocks
from tests.prefixes.traffic import Traffic, chats, hashed
from tests.simulator.test_fleet import engine, run, single_plan
from tests.simulator.test_windows import replica

FAR_APART_S = 1e4


def stream_of(traffic: Traffic, gap_s: float, seed: int = 0) -> RequestStream:
    paths, inputs, outputs = traffic
    gaps = np.random.default_rng(seed).exponential(gap_s, len(paths))
    return RequestStream.of(np.cumsum(gaps), inputs, outputs, paths)


def served(one: ReplicaModel, stream: RequestStream, *, fast: bool = True) -> FleetState:
    state = fleet_state([one], len(stream), 4096, stream.prefixes)
    code = compiled if fast else kernel
    code.set_requests(state, stream.arrival_s, stream.input_tokens, stream.output_tokens)
    code.run_open_loop(state)
    return state


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([70, 90, 200, 5000]))
def test_one_after_the_other_is_a_cache_of_blocks(seed: int, from_hashes: bool, room: int) -> None:
    traffic = hashed(seed, 80) if from_hashes else chats(seed, 80)
    paths, inputs, outputs = traffic
    small = inputs + outputs < 16 * room  # longer ones are refused
    inputs[~small], outputs[~small] = 1, 1
    paths = (
        paths_of_hashes(np.zeros(81, np.int64), np.zeros(0, np.int64), inputs)
        if not small.all()
        else paths
    )
    one = replica(windows=(), pool=KvPool(blocks=room, block_tokens=16))
    arrivals = FAR_APART_S * np.arange(1, 81)
    state = served(one, RequestStream.of(arrivals, inputs, outputs, paths))
    found = [16 * blocks for blocks in found_blocks(paths, inputs, outputs, room, runs=True)]
    assert state.uses[:, c.FOUND].tolist() == found


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([60, 120, 900]), st.sampled_from([0.05, 0.6]))
def test_machine_code_and_interpreter_agree_and_nothing_is_lost(
    seed: int, room: int, gap_s: float
) -> None:
    """Under preemption, which small caches and much traffic force."""
    stream = stream_of(hashed(seed, 70), gap_s)
    one = replica(windows=(), pool=KvPool(blocks=room, block_tokens=16))
    fast, slow = served(one, stream), served(one, stream, fast=False)
    for name, a, b in zip(FleetState._fields, fast, slow, strict=True):
        assert np.array_equal(a, b, equal_nan=True), name
    check_empty(fast)


def test_preemption_and_sharing_meet() -> None:
    """The traffic above does what it is meant to do."""
    one = replica(windows=(), pool=KvPool(blocks=60, block_tokens=16))
    states = [served(one, stream_of(hashed(seed, 70), 0.05)) for seed in range(6)]
    assert sum(int(state.whole[0, c.PREEMPTED]) for state in states) > 5
    assert all((state.uses[:, c.FOUND] > 0).any() for state in states)
    for state in states:
        check_empty(state)


def check_empty(state: FleetState) -> None:
    """After all have ended nothing is in use, and the books agree."""
    assert (state.whole[:, c.FREE] == state.whole[:, c.POOL]).all()
    assert (state.caches[:, c.CACHED] <= state.whole[:, c.FREE]).all()
    for r in range(len(state.whole)):
        held, slot, before = 0, int(state.caches[r, c.OLDEST]), c.NONE
        while slot != c.NONE:
            row = state.slots[slot]
            assert (row[c.ENGINE], row[c.USERS], row[c.OLDER]) == (r, 0, before)
            assert row[c.HELD] > 0
            held, before, slot = held + int(row[c.HELD]), slot, int(row[c.NEWER])
        assert before == state.caches[r, c.NEWEST]
        assert held == state.caches[r, c.CACHED]
    assert (state.uses[:, [c.ENTRIES, c.SHARED]] == 0).all()


def test_what_is_shared_by_nobody_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    inputs, outputs = rng.integers(1, 400, 300), rng.integers(1, 60, 300)
    first = np.arange(301)
    paths = paths_of_hashes(first, np.arange(300), inputs, 512)
    arrivals = np.cumsum(rng.exponential(0.2, 300))
    one = replica(pool=KvPool(blocks=400, block_tokens=16))
    plain = simulate_replica(one, RequestStream.of(arrivals, inputs, outputs))
    same = simulate_replica(one, RequestStream.of(arrivals, inputs, outputs, paths))
    for field in dataclasses.fields(plain):
        a, b = getattr(plain, field.name), getattr(same, field.name)
        assert np.array_equal(a, b) if not isinstance(a, tuple) else a == b


def test_a_prompt_computes_what_it_does_not_find() -> None:
    """The second of two like prompts computes its last block alone, after all that stands before it."""
    inputs = np.array([64, 64, 640])
    paths = paths_of_hashes(
        np.array([0, 2, 4, 24]), np.r_[1, 2, 1, 2, 1, 2, np.arange(5, 23)], inputs, 32
    )
    one = replica(windows=(), budget_tokens=1024)
    arrivals = np.array([0.0, 100.0, 200.0])
    log = simulate_replica(one, RequestStream.of(arrivals, inputs, np.ones(3, np.int64), paths))
    cold = simulate_replica(one, RequestStream.of(arrivals, inputs, np.ones(3, np.int64)))
    costs = one.costs

    def spared(found: int) -> float:
        """Seconds of products and of attention among the tokens found."""
        pairs = found * (found + 1) / 2
        return found * costs.token_flops_s + pairs * costs.pair_s

    gained = (cold.ttft_s - log.ttft_s).tolist()
    assert gained[0] == 0.0
    assert gained[1] > 0
    assert gained[2] == pytest.approx(spared(64), rel=0.2)
    assert log.ttft_s[1] < log.ttft_s[0]


def test_a_prompt_waits_for_one_before_it_and_finds_what_that_computes() -> None:
    """Steps are filled in the order of arrival, so no prompt is begun beside the unfinished one that it shares."""
    inputs, outputs = np.array([640, 640, 640]), np.full(3, 50)
    paths = paths_of_hashes(np.array([0, 20, 40, 60]), np.tile(np.arange(20), 3), inputs, 32)
    for budget in (64, 100):
        one = replica(windows=(), budget_tokens=budget, pool=KvPool(blocks=60, block_tokens=16))
        stream = RequestStream.of(np.array([0.0, 0.001, 30.0]), inputs, outputs, paths)
        state = served(one, stream)
        assert state.uses[:, c.FOUND].tolist() == [0, 624, 624]
        assert state.whole[0, c.PREEMPTED] == 0


def test_running_requests_share_blocks_and_so_more_of_them_run() -> None:
    """Ten prompts of 40 blocks fit into 60 together where they are the same."""
    inputs, outputs = np.full(11, 640), np.full(11, 16)
    same = paths_of_hashes(np.arange(12) * 20, np.tile(np.arange(20), 11), inputs, 32)
    arrivals = np.r_[0.0, np.full(10, 5.0)]
    one = replica(
        windows=(), budget_tokens=1024, max_num_seqs=16, pool=KvPool(blocks=70, block_tokens=16)
    )
    shared = simulate_replica(one, RequestStream.of(arrivals, inputs, outputs, same))
    apart = simulate_replica(one, RequestStream.of(arrivals, inputs, outputs))
    assert shared.last_token_s.max() - 5.0 < (apart.last_token_s.max() - 5.0) / 4


@pytest.mark.parametrize(
    "pool",
    [
        KvPool(blocks=5000, block_tokens=32),
        KvPool(blocks=5000, block_tokens=16, fixed=1),
        KvPool(
            blocks=5000,
            block_tokens=16,
            windows=(WindowBlocks(tokens=64, parts=1, cap=5, prefill_cap=9),),
        ),
    ],
)
def test_caches_of_other_layers_find_nothing(pool: KvPool) -> None:
    stream = stream_of(chats(4), 5.0)
    state = served(replica(windows=(), pool=pool), stream)
    assert (state.uses[:, c.FOUND] == c.NONE).all()


def test_a_lost_replica_begins_with_an_empty_cache() -> None:
    """Its requests go elsewhere, its books are closed."""
    plan = single_plan()
    inputs, outputs = np.full(40, 640), np.full(40, 40)
    paths = paths_of_hashes(np.arange(41) * 20, np.tile(np.arange(20), 40), inputs, 32)
    stream = RequestStream.of(np.arange(40) * 0.5, inputs, outputs, paths)
    calm = run(plan, stream, FleetRules(), engine=engine(blocks=2000))
    lost = run(
        plan,
        stream,
        FleetRules(outages=(Outage(replica=0, start_s=10.1, end_s=10.3),)),
        engine=engine(blocks=2000),
    )
    assert calm.found_tokens is not None
    assert lost.found_tokens is not None
    assert lost.found_tokens.sum() < calm.found_tokens.sum()
    assert lost.log.ok.sum() >= 39


def test_sessions_find_their_answers_too() -> None:
    session, outputs = np.zeros(3, np.int64), np.full(3, 32)
    inputs = np.array([160, 352, 704])
    paths = paths_of_sessions(session, inputs, outputs)
    arrivals = FAR_APART_S * np.arange(1, 4)
    state = served(replica(windows=()), RequestStream.of(arrivals, inputs, outputs, paths))
    # of 160 + 32 tokens the last is never computed: eleven full blocks
    assert state.uses[:, c.FOUND].tolist() == [0, 176, 368]


def test_many_calls_on_one_fleet_keep_their_cache() -> None:
    """The step-by-step form sees none; it has no paths."""
    state = fleet_state([engine()], 3, 64)
    compiled.advance_all(Packed(state), math.inf)
    assert state.caches[0, c.CACHING] == 0
