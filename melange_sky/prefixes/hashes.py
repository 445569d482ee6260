"""Paths of prompts whose blocks a trace names by ids: the same id after the same ones is the same text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.prefixes.scans import NONE, HashTree, grow_tree_fast
from melange_sky.reuse import PrefixPaths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Whole = NDArray[np.int64]

BLOCK_TOKENS = 16
"""Tokens of a block of the engine's cache."""

MANY_CHILDREN = 8
"""A beginning that goes on in so many ways or more is no session's own: a system prompt, a document."""


def paths_of_hashes(
    first: Whole,
    ids: Whole,
    input_tokens: Whole,
    id_tokens: int = 512,
    session: Whole | None = None,
) -> PrefixPaths:
    """Return the paths of N requests in the order in which they came.

    `first` (N + 1) says where each one's `ids` begin, every id standing for `id_tokens` tokens but for the
    last of a prompt. Ids beyond the prompt's end are left out. Where no `session` (N) is known, those share
    one that begin alike further than any beginning which goes on in many ways.
    """
    first, ids = _within(first, ids, input_tokens, id_tokens)
    tree = HashTree(
        first=first,
        ids=ids,
        node=np.zeros(len(ids), dtype=np.int64),
        parent=np.zeros(max(len(ids), 1), dtype=np.int64),
        own=np.zeros(max(len(ids), 1), dtype=np.int64),
        after=np.zeros(max(len(ids), 1), dtype=np.int64),
        bucket=np.full(1 << max(2 * len(ids), 1).bit_length(), NONE, dtype=np.int64),
        nodes=np.zeros(1, dtype=np.int64),
    )
    grow_tree_fast(tree)
    count = int(tree.nodes[0])
    parent = tree.parent[:count]
    depth = _depths(tree, count, input_tokens, id_tokens)
    children = np.bincount(parent[parent >= 0], minlength=count)
    request = _request_of(first)
    is_last = np.append(request[1:] != request[:-1], True)[: len(ids)]
    closes = children != 1
    closes[tree.node[is_last]] = True
    end = depth // BLOCK_TOKENS
    start = _starts(parent, closes)
    begin = np.where(start >= 0, end[np.maximum(start, 0)], 0)
    blocks = np.where(closes, end - begin, 0)
    is_segment = blocks > 0
    kept = is_segment[tree.node]
    segment = (np.cumsum(is_segment) - 1)[tree.node[kept]].astype(np.int64)
    counts = np.bincount(request[kept], minlength=len(first) - 1).astype(np.int64)
    paths_first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if session is None:
        session = _sessions(paths_first, segment, (children >= MANY_CHILDREN)[is_segment])
    return PrefixPaths(
        block_tokens=BLOCK_TOKENS,
        first=paths_first,
        prompt=counts,
        segment=segment,
        blocks=blocks[is_segment].astype(np.int64),
        end=end[is_segment].astype(np.int64),
        session=session,
    )


def _request_of(first: Whole) -> Whole:
    """Return, of each entry, the request that it belongs to."""
    return np.repeat(np.arange(len(first) - 1), np.diff(first))


def _within(first: Whole, ids: Whole, input_tokens: Whole, id_tokens: int) -> tuple[Whole, Whole]:
    """Leave out ids that stand for nothing of the prompt."""
    counts = np.diff(first)
    most = -(-input_tokens // id_tokens)
    if (counts <= most).all():
        return np.ascontiguousarray(first, np.int64), np.ascontiguousarray(ids, np.int64)
    request = _request_of(first)
    number = np.arange(len(ids)) - first[:-1][request]
    kept = number < most[request]
    counts = np.minimum(counts, most)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), ids[kept].astype(np.int64)


def _depths(tree: HashTree, count: int, input_tokens: Whole, id_tokens: int) -> Whole:
    """Return the tokens from the root to each node's end: the fewest that any prompt through it has there."""
    request = _request_of(tree.first)
    number = np.arange(len(tree.node)) - tree.first[:-1][request]
    told = np.minimum((number + 1) * id_tokens, input_tokens[request])
    depth = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(depth, tree.node, told)
    return depth


def _starts(parent: Whole, closes: NDArray[np.bool_]) -> Whole:
    """Return the closing node before each node, NONE for none."""
    start: Whole = parent.copy()
    while True:
        inner = (start >= 0) & ~closes[np.maximum(start, 0)]
        if not inner.any():
            return start
        start[inner] = start[start[inner]]


def _sessions(first: Whole, segment: Whole, common: NDArray[np.bool_]) -> Whole:
    """Return the number of the first segment of each path that is not common, one of its own where all are."""
    count = len(first) - 1
    own = len(common) + np.arange(count)
    request = _request_of(first)
    mine = np.flatnonzero(~common[segment])
    earliest = np.full(count, -1)
    earliest[request[mine][::-1]] = segment[mine][::-1]
    _, numbers = np.unique(np.where(earliest >= 0, earliest, own), return_inverse=True)
    found: Whole = numbers.astype(np.int64)
    return found


def tokens_of_an_id(counts: Whole, input_tokens: Whole) -> int | None:
    """Return how many tokens an id stands for, by how many there are of each prompt; None where that does not fit.

    Traces count in powers of two: 512 in Mooncake's, 16 where an engine's own blocks are told.

    >>> import numpy as np
    >>> tokens_of_an_id(np.array([2, 1, 3]), np.array([1000, 500, 1025])), tokens_of_an_id(np.array([1]), np.array([0]))
    (512, None)
    """
    best, most = None, 0.5
    for tokens in (1 << power for power in range(13)):
        fits = (counts == -(-input_tokens // tokens)) | (counts == input_tokens // tokens)
        share = float(fits[counts > 0].mean()) if (counts > 0).any() else 0.0
        if share > most:
            best, most = tokens, share
    return best
