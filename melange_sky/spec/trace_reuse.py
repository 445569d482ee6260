"""What the prompts of a trace share: from its block ids, or from its sessions' resent histories."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.prefixes import paths_of_hashes, paths_of_sessions, reuse_of, tokens_of_an_id
from melange_sky.replay.traffic import order_of
from melange_sky.spec.trace_files import blocks_of, files_of, options_of
from melange_sky.workload import TraceFiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.reuse import PrefixPaths, Reuse
    from melange_sky.traces import TraceBlock
    from melange_sky.workload import Trace

    Whole = NDArray[np.int64]

BY_HASHES = "block ids of the trace"
BY_SESSIONS = "sessions of the trace, each sending its history again"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharedTrace:
    """A trace's requests by time (`rows`, of ``at``, ``input`` and ``output``), what they share, and how that is known.

    `told_by_tokens` is how finely. `paths` is None where the trace tells nothing of it.
    """

    rows: NDArray[np.void]
    paths: PrefixPaths | None
    told_by_tokens: int
    source: str


def reuse_of_trace(trace: Trace) -> Reuse | None:
    """Return the reuse of a trace, None where it tells neither sessions nor block ids."""
    shared = shared_trace(trace)
    if shared.paths is None:
        return None
    rows = shared.rows
    return reuse_of(
        shared.paths,
        np.maximum(rows["input"], 1),
        np.maximum(rows["output"], 1),
        rows["at"],
        told_by_tokens=shared.told_by_tokens,
        source=shared.source,
    )


def shared_trace(trace: Trace) -> SharedTrace:
    """Read a trace with what its prompts share; files that have not changed since are read once.

    Raises InputError as `blocks_of` does.
    """
    files = files_of(trace)
    try:
        stats = tuple((stat.st_mtime_ns, stat.st_size) for stat in (f.stat() for f in files))
    except OSError:
        return _read(trace)  # which says what is wrong with it
    return _kept(TraceFiles(files=files, options=options_of(trace)), stats)


@lru_cache(maxsize=2)
def _kept(trace: TraceFiles, _changed: tuple[tuple[int, int], ...]) -> SharedTrace:
    return _read(trace)


def _read(trace: Trace) -> SharedTrace:
    blocks = list(blocks_of(trace, ("session", "hash_ids")))
    rows = np.empty(sum(map(len, blocks)), dtype=[("at", "f8"), ("input", "i8"), ("output", "i8")])
    for name, field in (
        ("at", "arrival_s"),
        ("input", "input_tokens"),
        ("output", "output_tokens"),
    ):
        if blocks:
            rows[name] = np.concatenate([getattr(block, field) for block in blocks])
    order = order_of(rows)
    rows = rows[order]
    sessions = _sessions(blocks)
    if sessions is not None:
        sessions = sessions[order]
    told = _hash_ids(blocks)
    if told is not None:
        first, ids = _ordered(*told, order)
        tokens = tokens_of_an_id(np.diff(first), rows["input"])
        if tokens is not None:
            paths = paths_of_hashes(first, ids, rows["input"], tokens, sessions)
            return SharedTrace(rows=rows, paths=paths, told_by_tokens=tokens, source=BY_HASHES)
    if sessions is None:
        return SharedTrace(rows=rows, paths=None, told_by_tokens=0, source="")
    paths = paths_of_sessions(sessions, np.maximum(rows["input"], 1), np.maximum(rows["output"], 1))
    return SharedTrace(
        rows=rows, paths=paths, told_by_tokens=paths.block_tokens, source=BY_SESSIONS
    )


def _sessions(blocks: Sequence[TraceBlock]) -> Whole | None:
    """Return numbers of sessions in file order, a request without one by itself; None where none is named."""
    if not any(name is not None for block in blocks for name in block.session or ()):
        return None
    numbers: dict[str, int] = {}
    found: list[int] = []
    alone = -1
    for block in blocks:
        for name in block.session or (None,) * len(block):
            if name is None:
                found.append(alone)
                alone -= 1
            else:
                found.append(numbers.setdefault(name, len(numbers)))
    rows: Whole = np.array(found, dtype=np.int64)
    return np.where(rows < 0, len(numbers) - 1 - rows, rows)


def _hash_ids(blocks: Sequence[TraceBlock]) -> tuple[Whole, Whole] | None:
    """Return (first, ids) of all requests in file order, None where there are no ids."""
    if not any(block.hash_ids is not None and len(block.hash_ids.ids) for block in blocks):
        return None
    counts = [
        np.zeros(len(b), dtype=np.int64) if b.hash_ids is None else np.diff(b.hash_ids.starts)
        for b in blocks
    ]
    ids = [b.hash_ids.ids for b in blocks if b.hash_ids is not None]
    first = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return first, np.concatenate(ids)


def _ordered(first: Whole, ids: Whole, order: Whole) -> tuple[Whole, Whole]:
    """Return (first, ids) with the requests in another order."""
    counts = np.diff(first)[order]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    at = np.repeat(first[:-1][order] - starts[:-1], counts) + np.arange(len(ids))
    return starts, ids[at]
