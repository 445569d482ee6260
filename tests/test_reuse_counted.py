"""What prompts share, counted as they come: against the exact distances, in bounded memory."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from melange_sky.prefixes import paths_of_sessions, reuse_of
from melange_sky.reuse import ReuseCounter, SeenPrompt
from melange_sky.reuse.counted import HASH_BITS, MOST_SESSIONS

BLOCK = 16


def hashed(*what: object) -> int:
    digest = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - HASH_BITS)


def chats(seed: int, requests: int, system: int = 8) -> list[tuple[int, int, int]]:
    """Requests of chats that take turns at random: (chat, prompt tokens, answer tokens), in blocks."""
    rng = random.Random(seed)
    live: list[list[int]] = []
    found, chat = [], 0
    for _ in range(requests):
        if len(live) < 40 or rng.random() < 0.2:
            live.append([chat, system])
            chat += 1
        talk = rng.choice(live)
        talk[1] += rng.randint(1, 12)
        answer = rng.randint(1, 6)
        found.append((talk[0], BLOCK * talk[1], BLOCK * answer))
        talk[1] += answer
        if len(live) > 60 or talk[1] > 150:
            live.remove(talk)
    return found


def counted(requests: list[tuple[int, int, int]], counter: ReuseCounter, system: int = 8) -> None:
    for number, (chat, inputs, outputs) in enumerate(requests):
        blocks = [
            hashed("system", k) if k < system else hashed(chat, k) for k in range(inputs // BLOCK)
        ]
        prompt = SeenPrompt(session=chat + 1, blocks=blocks, block_tokens=float(BLOCK))
        counter.add(2.0 * number, inputs, outputs, prompt)


@pytest.mark.parametrize("most", [1 << 20, 2048])
def test_the_curve_is_that_of_the_exact_distances(most: int) -> None:
    requests = chats(1, 3000)
    counter = ReuseCounter(most)
    counted(requests, counter)
    reuse = counter.reuse("test")
    assert reuse is not None
    session, inputs, outputs = (np.array(column) for column in zip(*requests, strict=True))
    paths = paths_of_sessions(session, inputs, outputs, 8 * BLOCK)
    exact = reuse_of(paths, inputs, outputs, told_by_tokens=BLOCK, source="test")
    for tokens in (3_000, 10_000, 30_000, 60_000, 100_000, 1_000_000):
        assert reuse.hit_fraction(tokens) == pytest.approx(exact.hit_fraction(tokens), abs=0.04)
    assert reuse.infinite_hit == pytest.approx(exact.infinite_hit, abs=0.02)
    assert reuse.shared_prefix_tokens == 8 * BLOCK
    assert reuse.session_turns is not None and exact.session_turns is not None
    assert reuse.session_turns.mean == pytest.approx(exact.session_turns.mean, rel=0.01)


def test_memory_stays_bounded_whatever_comes() -> None:
    counter = ReuseCounter(512)
    rng = random.Random(3)
    for number in range(20_000):
        blocks = [hashed(rng.random()) for _ in range(4)]
        counter.add(
            float(number),
            64,
            100,
            SeenPrompt(session=number + 1, blocks=blocks, block_tokens=16.0),
        )
    assert len(counter._used) == len(counter._times) <= 512
    assert len(counter._talks) == MOST_SESSIONS
    assert len(counter._turns.values) <= 4096
    reuse = counter.reuse("test")
    assert reuse is not None
    assert reuse.infinite_hit < 0.05
    assert reuse.shared_prefix_tokens == 0
    assert reuse.session_turns is not None and reuse.session_turns.mean == 1.0


def test_nothing_seen_and_odd_prompts() -> None:
    counter = ReuseCounter()
    assert counter.reuse("test") is None
    counter.add(0.0, 5, 5, SeenPrompt(session=0, blocks=[], block_tokens=16.0))
    assert counter.reuse("test") is None
    counter.add(1.0, 16, 0, SeenPrompt(session=0, blocks=[1], block_tokens=16.0))
    reuse = counter.reuse("test")
    assert reuse is not None and reuse.infinite_hit == 0.0 and reuse.session_turns is None
