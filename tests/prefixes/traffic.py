"""Random traffic that shares prompts, for tests."""

from __future__ import annotations

import numpy as np

from melange_sky.prefixes import paths_of_hashes, paths_of_sessions
from melange_sky.reuse import PrefixPaths

Traffic = tuple[PrefixPaths, np.ndarray, np.ndarray]
"""Paths, input and output tokens."""


def hashed(seed: int, requests: int = 60, id_tokens: int = 48) -> Traffic:
    """Return prompts that go on from any earlier one, from any place in it."""
    rng = np.random.default_rng(seed)
    prompts: list[list[int]] = []
    inputs = []
    for new in range(requests):
        ids: list[int] = []
        if prompts and rng.random() < 0.7:
            earlier = prompts[rng.integers(len(prompts))]
            ids = earlier[: rng.integers(len(earlier) + 1)]
        ids = [*ids, *(1000 * (new + 1) + k for k in range(rng.integers(0 if ids else 1, 5)))]
        prompts.append(ids)
        inputs.append(len(ids) * id_tokens - int(rng.integers(id_tokens)) * int(rng.random() < 0.5))
    first = np.concatenate([[0], np.cumsum([len(p) for p in prompts])])
    sizes = np.array(inputs, dtype=np.int64)
    flat = np.array([i for p in prompts for i in p], dtype=np.int64)
    paths = paths_of_hashes(first, flat, sizes, id_tokens)
    return paths, sizes, rng.integers(1, 90, requests)


def chats(seed: int, requests: int = 60) -> Traffic:
    """Return sessions that send their history again, some of them cut short."""
    rng = np.random.default_rng(seed)
    session = rng.integers(0, 12, requests)
    outputs = rng.integers(1, 90, requests)
    inputs = np.zeros(requests, dtype=np.int64)
    reached = dict.fromkeys(range(12), 100)
    for i, s in enumerate(session.tolist()):
        inputs[i] = (
            reached[s] + rng.integers(1, 120) if rng.random() < 0.85 else rng.integers(1, 200)
        )
        reached[s] = int(inputs[i] + outputs[i])
    return paths_of_sessions(session, inputs, outputs, 64), inputs, outputs
