"""The state of simulated replicas as arrays, so that compiled code can move it.

Column names of the per-replica arrays stand here as constants; nothing else knows the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from melange_sky.routing.minima import NEVER, width
from melange_sky.steps import ReplicaModel, StepCosts, products_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.reuse import PrefixPaths

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]
    FloatRows = NDArray[np.float64]  # of two dimensions; `native` goes by these names
    WholeRows = NDArray[np.int64]

# Columns of `real` (replicas × 11): the linear terms of a step, and seconds that move. READ is what the
# next step spends on the KV cache, GROWTH how much more the one after it does.
CLOCK, FIXED, PER_SEQUENCE, PER_KV_TOKEN, PER_PAIR, READ, GROWTH, BUSY, RATIO = range(9)
PER_PROMPT_TOKEN, PROMPTS = 9, 10

# Columns of `whole` (replicas × 31). Limits first, then what moves. The cache is counted in parts of blocks.
(
    BUDGET,
    MAX_SEQUENCES,
    CHUNKED,
    BLOCK,
    POOL,
    WATERMARK,
    RESERVE,
    TABLE,
    FREE,
    DECODING,
    STEP,
    HEAP,
    RUN_HEAD,
    RUN_TAIL,
    PREFILL,
    WAIT_HEAD,
    WAIT_TAIL,
    WAITING,
    RUNNING,
    CONTEXT,
    PREEMPTED,
    STEPS,
    OUTSTANDING,
    SERVED,
    WAIT_STEPS,
    LAST_PREFILL,
    GROWN_PARTS,
    FIXED_PARTS,
    PREFILL_PARTS,
    WINDOWS,
    GROWING,
) = range(31)

# Further columns for each window, of `whole` five from WINDOW_WHOLE on and of `real` two from WINDOW_REAL
# on: layers that forget what lies further back than so many tokens. (No arrays of their own: what a
# compiled function takes costs time on every call.)
WINDOW_REAL, WINDOW_WHOLE, WINDOW_COLUMNS = 11, 31, 5
TOKENS, IN_CHUNKS, PARTS, CAP, PREFILL_CAP = range(5)
WINDOW_KV, WINDOW_PAIR = range(2)

# Columns of `times` (requests × 3) and of `request` (requests × 12).
ARRIVAL, FIRST, LAST = range(3)
(
    INPUT,
    OUTPUT,
    GENERATED,
    PREFILLED,
    START_CONTEXT,
    START_STEP,
    FINISH,
    NEXT,
    PREVIOUS,
    STATE,
    REPLICA,
    EVENT,
) = range(12)

# Prefix caches (`prefix_cache`): columns of `caches` (replicas × 4), of `slots` (× 8), each some blocks of one
# replica's cache, of `segments` (× 2), and of `uses` (requests × 3).
CACHING, CACHED, OLDEST, NEWEST = range(4)
ENGINE, SEGMENT, HELD, USERS, OWNER, OLDER, NEWER, BESIDE = range(8)
BLOCKS, END = range(2)
ENTRIES, SHARED, FOUND = range(3)

NEW, IN_QUEUE, IN_PREFILL, IN_DECODE, DONE, REFUSED = range(6)
NONE = -1


LONGEST_TOKENS = 65536
"""Tokens of a step up to which products are looked up."""


class FleetState(NamedTuple):
    """Everything that moves. Shapes: R replicas, N requests, T distinct step tables.

    `residues` (R × block): parts that decoding sequences take with a new block, by (context − step)
    modulo the block size: exactly one class needs them at each step. `heap_key`, `heap_request`
    (R × room): decoding sequences by the step at which they end or outgrow a window. `finished` lists
    requests in the order they ended, `ended` [0] how many. `due` holds the times up to which replicas that
    have work have run, as `routing.minima`, and `now` [0] the time up to which `advance_all` has brought
    all: the clock of an idle one stands still until it gets work.

    Of prefix caches: `caches` whether a replica has one, its blocks that hold something unused, and the ends of
    their list by use; `slots` the segments that are in any cache, found by `buckets` (a power of two), the
    unused ones listed from `spare` [0] on; the paths as of `reuse.PrefixPaths`, and `uses`: the segments that a request holds, their
    blocks, and the tokens that it found.
    """

    real: FloatRows
    whole: WholeRows
    residues: WholeRows
    heap_key: WholeRows
    heap_request: WholeRows
    tables: FloatRows
    times: FloatRows
    request: WholeRows
    finished: Whole
    ended: Whole
    due: Floats
    now: Floats
    caches: WholeRows
    slots: WholeRows
    buckets: Whole
    spare: Whole
    path_first: Whole
    path_prompt: Whole
    path_segment: Whole
    segments: WholeRows
    uses: WholeRows


def fleet_state(
    replicas: Sequence[ReplicaModel],
    requests: int,
    longest_tokens: int,
    prefixes: PrefixPaths | None = None,
) -> FleetState:
    """Return idle replicas at time 0 with room for `requests` requests, which share `prefixes`.

    `longest_tokens` are the most of a prompt; products of more than `LONGEST_TOKENS` are not looked up.
    """
    kinds: dict[ReplicaModel, int] = {}
    kind_of = [kinds.setdefault(replica, len(kinds)) for replica in replicas]
    longest = min(max(longest_tokens, 1), LONGEST_TOKENS)
    tokens = max([longest, *(r.budget_tokens for r in kinds)]) + 1
    room = 2 * max((r.max_num_seqs for r in kinds), default=1) + 16
    block = max((r.pool.block_tokens for r in kinds), default=1)
    count = len(replicas)
    real, whole = _limits(list(kinds))
    return FleetState(
        real=real[kind_of],
        whole=whole[kind_of],
        residues=np.zeros((count, block), dtype=np.int64),
        heap_key=np.zeros((count, room), dtype=np.int64),
        heap_request=np.zeros((count, room), dtype=np.int64),
        tables=np.stack([_products(r.costs, tokens) for r in kinds]),
        times=np.full((requests, 3), np.nan),
        request=np.full((requests, 12), NONE, dtype=np.int64),
        finished=np.zeros(max(requests, 1), dtype=np.int64),
        ended=np.zeros(1, dtype=np.int64),
        due=np.full(2 * width(count), NEVER),
        now=np.zeros(1),
        **_caches(replicas, requests, prefixes),
    )


@lru_cache(maxsize=64)
def _products(costs: StepCosts, size: int) -> Floats:
    """Return the products' table, kept: the probes of one search ask for the same. Never written to."""
    return products_table(costs, size)


def caches_prefixes(replica: ReplicaModel, block_tokens: int) -> bool:
    """Return whether a replica's prefix cache is simulated: every token of every layer stays in such blocks."""
    pool = replica.pool
    pages = replica.chunked and not replica.reserve_tokens
    return pages and pool.is_plain and pool.scale == 1 and pool.block_tokens == block_tokens


def _caches(
    replicas: Sequence[ReplicaModel], requests: int, prefixes: PrefixPaths | None
) -> dict[str, Any]:
    """Return the prefix caches' part of the state, all of it small where nothing is shared."""
    caches = np.full((len(replicas), 4), NONE, dtype=np.int64)
    caches[:, CACHED] = 0
    block = 0 if prefixes is None else prefixes.block_tokens
    caches[:, CACHING] = [int(caches_prefixes(r, block)) for r in replicas]
    count = 0 if prefixes is None else 2 * requests + len(prefixes.segment)
    count = min(count, sum(r.pool.blocks for r in replicas)) + 1
    slots = np.full((count, 8), NONE, dtype=np.int64)
    slots[:-1, BESIDE] = np.arange(1, count)
    none = np.zeros(1, dtype=np.int64)
    uses = np.zeros((1 if prefixes is None else requests, 3), dtype=np.int64)
    uses[:, FOUND] = NONE
    return {
        "caches": caches,
        "slots": slots,
        "buckets": np.full(2 * width(count), NONE, dtype=np.int64),
        "spare": np.zeros(1, dtype=np.int64),
        "path_first": none if prefixes is None else prefixes.first,
        "path_prompt": none if prefixes is None else prefixes.prompt,
        "path_segment": none if prefixes is None else prefixes.segment,
        "segments": np.zeros((1, 2), dtype=np.int64)
        if prefixes is None
        else np.stack([prefixes.blocks, prefixes.end], axis=1),
        "uses": uses,
    }


def _limits(kinds: Sequence[ReplicaModel]) -> tuple[FloatRows, WholeRows]:
    """Return `real` and `whole` of one idle replica of each kind."""
    windows = max((len(_windows(replica)) for replica in kinds), default=0)
    real = np.zeros((len(kinds), WINDOW_REAL + 2 * windows))
    whole = np.zeros((len(kinds), WINDOW_WHOLE + WINDOW_COLUMNS * windows), dtype=np.int64)
    for index, replica in enumerate(kinds):
        _set_limits(real[index], whole[index], replica, index)
    return real, whole


def _set_limits(real: Floats, whole: Whole, replica: ReplicaModel, table: int) -> None:
    costs = replica.costs
    real[FIXED] = costs.fixed_s
    real[PER_SEQUENCE] = costs.sequence_s
    real[PER_KV_TOKEN] = costs.kv_token_s
    real[PER_PAIR] = costs.pair_s
    real[PER_PROMPT_TOKEN] = replica.prompt_token_s
    real[PROMPTS] = costs.prompts_s
    real[RATIO] = replica.waiting_ratio
    whole[WAIT_STEPS] = replica.wait_steps
    whole[BUDGET] = replica.budget_tokens
    whole[MAX_SEQUENCES] = min(replica.max_num_seqs, replica.budget_tokens)
    whole[CHUNKED] = int(replica.chunked)
    whole[BLOCK] = replica.pool.block_tokens
    whole[POOL] = whole[FREE] = replica.pool.parts
    whole[GROWN_PARTS] = replica.pool.grown
    whole[FIXED_PARTS] = replica.pool.fixed
    whole[PREFILL_PARTS] = replica.pool.prefill
    whole[WINDOWS] = len(_windows(replica))
    whole[WATERMARK] = replica.watermark_blocks
    whole[RESERVE] = replica.reserve_tokens
    whole[TABLE] = table
    for column in (RUN_HEAD, RUN_TAIL, PREFILL, WAIT_HEAD, WAIT_TAIL):
        whole[column] = NONE
    _set_windows(real[WINDOW_REAL:], whole[WINDOW_WHOLE:], replica)


def _windows(replica: ReplicaModel) -> list[tuple[int, bool]]:
    """Return (tokens, chunked) of every window that a replica reads or keeps."""
    read = [(window.tokens, window.chunked) for window in replica.costs.windows]
    kept = [(window.tokens, window.chunked) for window in replica.pool.windows]
    return sorted({*read, *kept})


def _set_windows(real: Floats, whole: Whole, replica: ReplicaModel) -> None:
    """Fill in the columns of every window; those that are only read take no parts."""
    places = {key: at for at, key in enumerate(_windows(replica))}
    costs, blocks = real.reshape(-1, 2), whole.reshape(-1, WINDOW_COLUMNS)
    for key, at in places.items():
        blocks[at, TOKENS], blocks[at, IN_CHUNKS] = key
    for read in replica.costs.windows:
        at = places[read.tokens, read.chunked]
        costs[at, WINDOW_KV] += read.kv_token_s
        costs[at, WINDOW_PAIR] += read.pair_s
    for kept in replica.pool.windows:
        row = blocks[places[kept.tokens, kept.chunked]]
        row[PARTS] += kept.parts
        row[CAP] = max(row[CAP], kept.cap)
        row[PREFILL_CAP] = max(row[PREFILL_CAP], kept.prefill_cap)
