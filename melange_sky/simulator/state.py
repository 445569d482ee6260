"""The state of simulated replicas as arrays, so that compiled code can move it.

Column names of the per-replica arrays stand here as constants; nothing else knows the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from melange_sky.steps import ReplicaModel, products_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

# Columns of `real` (replicas × 9): seconds, and the linear terms of a step.
CLOCK, FIXED, PER_SEQUENCE, PER_KV_TOKEN, PER_PAIR, WINDOW, FULL, BUSY, RATIO = range(9)

# Columns of `whole` (replicas × 26). Limits first, then what moves.
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
) = range(26)

# Columns of `times` (requests × 3) and of `request` (requests × 11).
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
) = range(11)

NEW, IN_QUEUE, IN_PREFILL, IN_DECODE, DONE, REFUSED = range(6)
NONE = -1


class FleetState(NamedTuple):
    """Everything that moves. Shapes: R replicas, N requests, T distinct step tables.

    `residues` (R × block): decoding sequences by (context − step) modulo the block size: exactly one
    class needs a new block at each step. `heap_key`, `heap_request` (R × room): decoding sequences by
    the step at which they end. `finished` lists requests in the order they ended, `ended` [0] how
    many.
    """

    real: Floats
    whole: Whole
    residues: Whole
    heap_key: Whole
    heap_request: Whole
    tables: Floats
    times: Floats
    request: Whole
    finished: Whole
    ended: Whole


def fleet_state(replicas: Sequence[ReplicaModel], requests: int, longest_tokens: int) -> FleetState:
    """Return idle replicas at time 0 with room for `requests` requests."""
    kinds: dict[ReplicaModel, int] = {}
    for replica in replicas:
        kinds.setdefault(replica, len(kinds))
    tokens = max([longest_tokens, *(r.budget_tokens for r in replicas)]) + 1
    room = 2 * max((r.max_num_seqs for r in replicas), default=1) + 16
    block = max((r.pool.block_tokens for r in replicas), default=1)
    count = len(replicas)
    state = FleetState(
        real=np.zeros((count, 9)),
        whole=np.zeros((count, 26), dtype=np.int64),
        residues=np.zeros((count, block), dtype=np.int64),
        heap_key=np.zeros((count, room), dtype=np.int64),
        heap_request=np.zeros((count, room), dtype=np.int64),
        tables=np.stack([products_table(r.costs, tokens) for r in kinds]),
        times=np.full((requests, 3), np.nan),
        request=np.full((requests, 11), NONE, dtype=np.int64),
        finished=np.zeros(max(requests, 1), dtype=np.int64),
        ended=np.zeros(1, dtype=np.int64),
    )
    for index, replica in enumerate(replicas):
        _set_limits(state, index, replica, kinds[replica])
    return state


def _set_limits(state: FleetState, index: int, replica: ReplicaModel, table: int) -> None:
    costs = replica.costs
    state.real[index, FIXED] = costs.fixed_s
    state.real[index, PER_SEQUENCE] = costs.sequence_s
    state.real[index, PER_KV_TOKEN] = costs.kv_token_s
    state.real[index, PER_PAIR] = costs.pair_s
    state.real[index, WINDOW] = costs.window
    state.real[index, FULL] = costs.full_fraction
    state.real[index, RATIO] = replica.waiting_ratio
    whole = state.whole[index]
    whole[WAIT_STEPS] = replica.wait_steps
    whole[BUDGET] = replica.budget_tokens
    whole[MAX_SEQUENCES] = min(replica.max_num_seqs, replica.budget_tokens)
    whole[CHUNKED] = int(replica.chunked)
    whole[BLOCK] = replica.pool.block_tokens
    whole[POOL] = whole[FREE] = replica.pool.blocks
    whole[WATERMARK] = replica.watermark_blocks
    whole[RESERVE] = replica.reserve_tokens
    whole[TABLE] = table
    for column in (RUN_HEAD, RUN_TAIL, PREFILL, WAIT_HEAD, WAIT_TAIL):
        whole[column] = NONE
