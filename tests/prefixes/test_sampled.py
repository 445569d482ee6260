"""Sampled requests share what the figures say that they share."""

from __future__ import annotations

import numpy as np
import pytest

from melange_sky.prefixes import reuse_of, sampled_paths
from melange_sky.reuse import Reuse, Spread
from tests.prefixes.shaped import mooncake_like


def drawn(count: int, rate_rps: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    inputs = np.maximum(rng.lognormal(np.log(9000), 0.8, count), 20).astype(np.int64)
    return np.cumsum(rng.exponential(1 / rate_rps, count)), inputs, rng.integers(50, 600, count)


def test_a_curve_comes_back_as_it_was_given() -> None:
    """Drawn sizes in place of the trace's own: what is found, and in which memory, stays."""
    trace = mooncake_like(8000)
    given = reuse_of(trace.paths, trace.inputs, trace.outputs, told_by_tokens=512, source="trace")
    arrivals, inputs, outputs = drawn(8000, 3.3)
    paths = sampled_paths(arrivals, inputs, outputs, given, np.random.default_rng(0))
    found = reuse_of(paths, inputs, outputs, told_by_tokens=16, source="test")
    assert found.infinite_hit == pytest.approx(given.infinite_hit, abs=0.02)
    for tokens in (3.6e6, 7.2e6, 14.4e6, 28.8e6):
        assert found.hit_fraction(tokens) == pytest.approx(given.hit_fraction(tokens), abs=0.04)


def test_turns_think_time_and_a_shared_prefix_make_sessions() -> None:
    given = Reuse(
        stack_distance=(),
        infinite_hit=0.0,
        block_tokens=16,
        shared_prefix_tokens=1024,
        session_turns=Spread(mean=3.0, p95=8.0),
        think_time_s=Spread(mean=60.0, p95=150.0),
    )
    arrivals, inputs, outputs = drawn(6000, 10.0)
    paths = sampled_paths(arrivals, inputs, outputs, given, np.random.default_rng(0))
    found = reuse_of(paths, inputs, outputs, arrivals, told_by_tokens=16, source="test")
    assert found.session_turns is not None and found.think_time_s is not None
    assert found.session_turns.mean == pytest.approx(3.0, rel=0.1)
    assert found.think_time_s.mean == pytest.approx(60.0, rel=0.25)
    assert found.shared_prefix_tokens == 1024


def test_the_same_seed_draws_the_same() -> None:
    arrivals, inputs, outputs = drawn(500, 5.0)
    given = Reuse(stack_distance=((0, 0.0), (10**6, 0.4)), infinite_hit=0.4, block_tokens=512)
    first, second = (
        sampled_paths(arrivals, inputs, outputs, given, np.random.default_rng(3)) for _ in range(2)
    )
    assert first.segment.tobytes() == second.segment.tobytes()
    assert (first.end * 16 <= inputs.max() + outputs.max()).all()


def test_no_request_is_no_path() -> None:
    none = np.zeros(0)
    given = Reuse(stack_distance=((0, 0.0), (10**6, 0.4)), infinite_hit=0.4, block_tokens=512)
    whole = none.astype(np.int64)
    assert len(sampled_paths(none, whole, whole, given, np.random.default_rng(3))) == 0
