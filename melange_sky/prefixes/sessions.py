"""Paths of prompts of sessions whose histories are sent again: each prompt begins with the one before and its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.prefixes.hashes import BLOCK_TOKENS
from melange_sky.reuse import PrefixPaths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Whole = NDArray[np.int64]


def paths_of_sessions(
    session: Whole,
    input_tokens: Whole,
    output_tokens: Whole,
    shared_prefix_tokens: int = 0,
    *,
    turn_of: Whole | None = None,
    block_tokens: int = BLOCK_TOKENS,
) -> PrefixPaths:
    """Return the paths of N requests in the order in which they came, `session` (N) numbering their sessions.

    A request goes on with the one before of its session where its prompt is at least as long as that
    one's prompt and answer together; else it begins anew, for nothing says what it kept. All begin with
    the `shared_prefix_tokens` where they are as long. `turn_of` (N), where it is known, names the request that
    each goes on with, -1 for none. `block_tokens` is a block of the engine's cache.
    """
    before = _before(session, input_tokens, output_tokens) if turn_of is None else turn_of
    rooted = shared_prefix_tokens // block_tokens
    ends = input_tokens // block_tokens
    answered = (input_tokens + output_tokens - 1) // block_tokens
    followed = np.zeros(len(session), dtype=np.bool_)
    followed[before[before >= 0]] = True
    segments = _Segments(blocks=[rooted] if rooted else [], end=[rooted] if rooted else [])
    chain: list[list[int]] = []
    depth: list[int] = []
    paths: list[list[int]] = []
    prompts: list[int] = []
    rows = zip(before.tolist(), ends.tolist(), answered.tolist(), followed.tolist(), strict=True)
    for last, end, whole, goes_on in rows:
        path = list(chain[last]) if last >= 0 else [0] if rooted and end >= rooted else []
        reached = depth[last] if last >= 0 else rooted if path else 0
        if end > reached:
            path.append(segments.add(end - reached, end))
            reached = end
        prompts.append(len(path))
        if goes_on and whole > reached:
            path.append(segments.add(whole - reached, whole))
            reached = whole
        chain.append(path)
        depth.append(reached)
        paths.append(path)
    counts = np.array([len(path) for path in paths], dtype=np.int64)
    return PrefixPaths(
        block_tokens=block_tokens,
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        prompt=np.array(prompts, dtype=np.int64),
        segment=np.array([s for path in paths for s in path], dtype=np.int64),
        blocks=np.array(segments.blocks, dtype=np.int64),
        end=np.array(segments.end, dtype=np.int64),
        session=np.asarray(session, dtype=np.int64),
    )


class _Segments:
    def __init__(self, blocks: list[int], end: list[int]) -> None:
        self.blocks, self.end = blocks, end

    def add(self, blocks: int, end: int) -> int:
        self.blocks.append(blocks)
        self.end.append(end)
        return len(self.blocks) - 1


def _before(session: Whole, input_tokens: Whole, output_tokens: Whole) -> Whole:
    """Return the request that each one goes on with, -1 for none."""
    order = np.argsort(session, kind="stable")
    before = np.full(len(session), -1, dtype=np.int64)
    if len(session) < 2:
        return before
    earlier, later = order[:-1], order[1:]
    goes_on = session[earlier] == session[later]
    goes_on &= input_tokens[later] >= input_tokens[earlier] + output_tokens[earlier]
    before[later[goes_on]] = earlier[goes_on]
    return before
