"""The stack-distance curve is what a cache finds, block by block; whatever the traffic and the memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.prefixes import paths_of_hashes, paths_of_sessions, reuse_of
from melange_sky.prefixes.distances import CURVE_LEVELS, ramps
from melange_sky.reuse import Reuse
from tests.prefixes.brute import found_blocks
from tests.prefixes.shaped import mooncake_like
from tests.prefixes.traffic import chats, hashed

ROOMS = (0, 1, 7, 40, 150, 600, 1 << 40)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_distances_tell_what_every_cache_finds(seed: int, from_hashes: bool) -> None:
    paths, inputs, outputs = hashed(seed) if from_hashes else chats(seed)
    above, held = ramps(paths, inputs, outputs)
    for room in ROOMS:
        told = int(np.clip(room - above, 0, held).sum())
        assert told == sum(found_blocks(paths, inputs, outputs, room))


def test_the_curve_rises_with_memory_to_the_endless_cache() -> None:
    paths, inputs, outputs = hashed(3, 300)
    reuse = reuse_of(paths, inputs, outputs, told_by_tokens=48, source="test")
    rates = [reuse.hit_fraction(16 * room) for room in range(0, 3000, 7)]
    assert all(a <= b for a, b in itertools.pairwise(rates))
    assert 0 < rates[-1] <= reuse.infinite_hit + 1e-12 < 1
    assert reuse.hit_fraction(1e18) == pytest.approx(reuse.infinite_hit)
    assert reuse.hit_fraction(0) == 0.0


def test_the_written_curve_is_the_whole_one_within_one_part() -> None:
    """On traffic of a real shape, against the cache itself."""
    trace = mooncake_like(1200, seed=1)
    reuse = reuse_of(
        trace.paths, trace.inputs, trace.outputs, trace.arrival_s, told_by_tokens=512, source="test"
    )
    total = int(trace.inputs.sum())
    assert len(reuse.stack_distance) <= 2 * CURVE_LEVELS + 2
    for room in (3_000, 80_000, 300_000):
        found = 16 * sum(found_blocks(trace.paths, trace.inputs, trace.outputs, room)) / total
        assert reuse.hit_fraction(16 * room) == pytest.approx(
            found, abs=reuse.infinite_hit / CURVE_LEVELS
        )


def test_traffic_of_a_real_shape_is_as_published() -> None:
    """Mooncake's conversations: 36.6 % of the blocks repeat, and how soon they do."""
    trace = mooncake_like(12_031)
    seen: set[int] = set()
    repeated = 0
    for ids in trace.hash_ids:
        repeated += sum(i in seen for i in ids)
        seen.update(ids)
    assert repeated / sum(map(len, trace.hash_ids)) == pytest.approx(0.366, abs=0.02)
    assert trace.inputs.mean() == pytest.approx(12_035, rel=0.05)
    reuse = reuse_of(trace.paths, trace.inputs, trace.outputs, told_by_tokens=512, source="test")
    for tokens, published in ((3.6e6, 0.154), (7.2e6, 0.247), (14.4e6, 0.322), (28.8e6, 0.36)):
        assert reuse.hit_fraction(tokens) == pytest.approx(published, abs=0.03)


def test_a_prompt_that_was_seen_whole_still_computes_its_last_token() -> None:
    sizes = np.array([64, 64], dtype=np.int64)
    paths = paths_of_hashes(np.array([0, 2, 4]), np.array([5, 6, 5, 6]), sizes, 32)
    reuse = reuse_of(paths, sizes, np.ones(2, dtype=np.int64), told_by_tokens=32, source="test")
    assert reuse.infinite_hit == 48 / 128  # 48 of the second one's 64 tokens


def test_nothing_shared_is_nothing_found() -> None:
    sizes = np.array([100, 200, 300], dtype=np.int64)
    paths = paths_of_hashes(np.array([0, 1, 2, 3]), np.array([1, 2, 3]), sizes)
    reuse = reuse_of(paths, sizes, sizes, told_by_tokens=512, source="test")
    assert (reuse.infinite_hit, reuse.stack_distance, reuse.shared_prefix_tokens) == (
        0.0,
        ((0, 0.0),),
        0,
    )
    assert reuse.hit_fraction(1e12) == 0.0


def test_ids_beyond_the_prompt_are_left_out() -> None:
    sizes = np.array([600, 600], dtype=np.int64)
    paths = paths_of_hashes(np.array([0, 3, 6]), np.array([1, 2, 3, 1, 2, 3]), sizes)
    assert paths.end.max() * 16 <= 600


def test_the_same_id_after_another_beginning_is_other_text() -> None:
    sizes = np.array([96, 96], dtype=np.int64)
    paths = paths_of_hashes(np.array([0, 2, 4]), np.array([1, 9, 2, 9]), sizes, 48)
    assert reuse_of(paths, sizes, sizes, told_by_tokens=48, source="test").infinite_hit == 0.0


def test_sessions_tell_turns_think_times_and_the_shared_prefix() -> None:
    session = np.array([0, 1, 0, 1, 0], dtype=np.int64)
    inputs = np.array([160, 160, 320, 320, 480], dtype=np.int64)
    outputs = np.full(5, 100, dtype=np.int64)
    times = np.array([0.0, 1.0, 10.0, 31.0, 20.0])
    order = np.argsort(times)
    paths = paths_of_sessions(session[order], inputs[order], outputs[order], 64)
    found = reuse_of(
        paths, inputs[order], outputs[order], times[order], told_by_tokens=16, source="test"
    )
    assert found.shared_prefix_tokens == 64
    assert found.session_turns is not None and found.session_turns.mean == 2.5
    assert found.think_time_s is not None and found.think_time_s.mean == pytest.approx(50 / 3)
    # of a turn's prompt the one before is found, and all of its answer but the last token
    assert found.infinite_hit == pytest.approx((64 + 3 * 0 + 256 + 256 + 416) / 1440)


def test_a_prompt_shorter_than_the_history_begins_anew() -> None:
    session = np.zeros(2, dtype=np.int64)
    inputs, outputs = np.array([200, 250], dtype=np.int64), np.array([100, 1], dtype=np.int64)
    paths = paths_of_sessions(session, inputs, outputs)
    assert reuse_of(paths, inputs, outputs, told_by_tokens=16, source="test").infinite_hit == 0.0


def test_a_part_of_the_requests_keeps_their_paths() -> None:
    paths, _, _ = hashed(5)
    part = paths.part(10, 25)
    for k in range(15):
        own = part.segment[part.first[k] : part.first[k + 1]]
        assert own.tolist() == paths.segment[paths.first[10 + k] : paths.first[11 + k]].tolist()
    assert part.session.tolist() == paths.session[10:25].tolist()


def test_prompts_that_begin_alike_are_one_session_beyond_what_all_begin_with() -> None:
    prompts = [[1, 100 + k] for k in range(20)] + [[1, 103, 7], [1, 103, 7, 8]]
    first = np.concatenate([[0], np.cumsum([len(p) for p in prompts])])
    flat = np.array([i for p in prompts for i in p], dtype=np.int64)
    sizes = np.array([len(p) * 512 for p in prompts], dtype=np.int64)
    sessions = paths_of_hashes(first, flat, sizes).session
    assert len(set(sessions[:20].tolist())) == 20
    assert sessions[20] == sessions[21] == sessions[3]


def test_a_curve_is_straight_between_its_points() -> None:
    reuse = Reuse(
        stack_distance=((100, 0.0), (200, 0.1), (400, 0.3)), infinite_hit=0.3, block_tokens=16
    )
    assert [reuse.hit_fraction(x) for x in (0, 99, 150, 200, 300, 400, 1e9)] == pytest.approx(
        [0.0, 0.0, 0.05, 0.1, 0.2, 0.3, 0.3]
    )
