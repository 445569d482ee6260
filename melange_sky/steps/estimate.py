"""An analytic estimate of a replica's capacity: the first guess, and the search's bracket.

Mean-value analysis of one request size (I input, O output tokens) with n requests decoding:

    d(n)  time of a step with n decoding sequences at their mean context I + O/2
    P(n)  what one prefill adds to the steps that carry it
    λ(n) = n ÷ ((O − 1) d(n) + n P(n) + d(n))         requests per second (Little's law)
    TPOT(n) = d(n) ÷ (1 − λ(n) P(n))                   prefills stretch the steps

The largest n is sought for which the SLO holds at its attainment: TPOT at n + z √n (the number in
service varies as a Poisson number), room in the KV cache for as many, and TTFT with the queueing of
M/D/1 (Pollaczek-Khinchine) for the prefill work.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.steps.pool import KvPool, WindowBlocks
from melange_sky.steps.times import StepCosts, WindowCosts, pairs_s, products_s, read_s

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray

    from melange_sky.slo import SLO
    from melange_sky.steps.replica import ReplicaModel

    Floats = NDArray[np.float64]

_HALVINGS = 40
_SMALL_BLOCK = 16
"""Blocks of more tokens are so long that many sequences hold a single one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSizes:
    """Request sizes in tokens, each of shape (cells,)."""

    input_tokens: Floats
    output_tokens: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """`rate_rps`: highest rate, 0 where the SLO cannot be met; `batch`: requests in service then;
    `tpot_floor_s`, `ttft_floor_s`: what a request alone on the replica sees. Shapes (cells,).
    """

    rate_rps: Floats
    batch: Floats
    tpot_floor_s: Floats
    ttft_floor_s: Floats


def capacity_estimate(replica: ReplicaModel, load: RequestSizes, slo: SLO) -> Estimate:
    """Return the estimated highest rate of each cell within the SLO."""
    return capacity_estimates_within((replica,), load, (slo,))[0][0]


def capacity_estimates_within(
    replicas: Sequence[ReplicaModel],
    load: RequestSizes,
    slos: Sequence[SLO],
    patient: Collection[int] = (),
) -> tuple[tuple[Estimate, ...], ...]:
    """Return the estimates of several replicas within each of several SLOs, all computed at once.

    Of the SLOs at the places `patient` the TTFT limit is on the waiting alone, not on a request's own
    prefill: what can be served late while others beside it meet their limits. A size whose TPOT is
    missed even alone then has the rate of one such request at a time.
    """
    rows = [(r, slo, at in patient) for at, slo in enumerate(slos) for r in replicas]
    estimates, each = _estimates(rows, load), len(replicas)
    return tuple(estimates[at * each : (at + 1) * each] for at in range(len(slos)))


def _estimates(
    asked: Sequence[tuple[ReplicaModel, SLO, bool]], load: RequestSizes
) -> tuple[Estimate, ...]:
    found: dict[int, Estimate] = {}
    for chunked in (True, False):
        places = [k for k, (replica, _, _) in enumerate(asked) if replica.chunked is chunked]
        if places:
            stacked = _stacked([asked[k][0] for k in places])
            rows = _estimate(stacked, load, _Limits.of([asked[k][1:] for k in places]))
            for row, k in enumerate(places):
                found[k] = Estimate(
                    rate_rps=rows.rate_rps[row],
                    batch=rows.batch[row],
                    tpot_floor_s=rows.tpot_floor_s[row],
                    ttft_floor_s=rows.ttft_floor_s[row],
                )
    return tuple(found[k] for k in range(len(asked)))


@dataclass(frozen=True, slots=True)
class _Limits:
    """SLOs of several rows as columns (rows × 1); limits that are not given are infinite.

    `z` is the attainment's quantile of a normal distribution, `patient` 1 where a request's own prefill
    is not held against the TTFT limit, else 0.
    """

    tpot_s: Floats
    ttft_s: Floats
    attainment: Floats
    z: Floats
    patient: Floats

    @classmethod
    def of(cls, rows: Sequence[tuple[SLO, bool]]) -> _Limits:
        normal, slos = NormalDist(), [slo for slo, _ in rows]
        return cls(
            tpot_s=_column(math.inf if s.tpot_s is None else s.tpot_s for s in slos),
            ttft_s=_column(math.inf if s.ttft_s is None else s.ttft_s for s in slos),
            attainment=_column(s.attainment for s in slos),
            z=_column(normal.inv_cdf(min(max(s.attainment, 0.001), 0.9999)) for s in slos),
            patient=_column(float(patient) for _, patient in rows),
        )


def _stacked(replicas: Sequence[ReplicaModel]) -> ReplicaModel:
    """Return replicas of one kind of batching as one whose figures are columns (replicas × 1)."""
    return dataclasses.replace(
        replicas[0],
        costs=_stacked_costs([r.costs for r in replicas]),
        pool=_stacked_pools([r.pool for r in replicas]),
        budget_tokens=_column(r.budget_tokens for r in replicas),
        max_num_seqs=_column(r.max_num_seqs for r in replicas),
        reserve_tokens=_column(r.reserve_tokens for r in replicas),
        prompt_token_s=_column(r.prompt_token_s for r in replicas),
    )


def _column(figures: Iterable[float]) -> Any:
    return np.array(list(figures), dtype=np.float64)[:, None]


def _stacked_costs(costs: Sequence[StepCosts]) -> StepCosts:
    most = max(len(c.windows) for c in costs)
    none = WindowCosts(tokens=1, kv_token_s=0.0, pair_s=0.0)
    rows = [(*c.windows, *[none] * (most - len(c.windows))) for c in costs]
    windows = tuple(
        WindowCosts(*(_column(figures) for figures in zip(*column, strict=True)))
        for column in zip(*rows, strict=True)
    )
    columns: dict[str, Any] = {
        name: _column(getattr(c, name) for c in costs)
        for name in StepCosts._fields
        if name != "windows"
    }
    return StepCosts(**columns, windows=windows)


def _stacked_pools(pools: Sequence[KvPool]) -> KvPool:
    most = max(len(pool.windows) for pool in pools)
    none = WindowBlocks(tokens=1, parts=0, cap=0, prefill_cap=0)
    rows = [(*pool.windows, *[none] * (most - len(pool.windows))) for pool in pools]
    return KvPool(
        blocks=_column(p.blocks for p in pools),
        block_tokens=_column(p.block_tokens for p in pools),
        scale=_column(p.scale for p in pools),
        grown=_column(p.grown for p in pools),
        windows=tuple(
            WindowBlocks(
                tokens=_column(w.tokens for w in column),
                parts=_column(w.parts for w in column),
                cap=_column(w.cap for w in column),
                prefill_cap=_column(w.prefill_cap for w in column),
            )
            for column in zip(*rows, strict=True)
        ),
        fixed=_column(p.fixed for p in pools),
    )


def _estimate(replica: ReplicaModel, load: RequestSizes, limits: _Limits) -> Estimate:
    """Return the estimates of stacked replicas, shapes (rows × cells)."""
    high = np.minimum(held_sequences(replica, load), replica.max_num_seqs)
    alone = np.ones_like(high)
    low = np.zeros_like(high)
    tpot_s = decode_step_s(replica, load, alone)
    ttft_s = _first_token(replica, load, alone * 0.0, alone)
    limits = dataclasses.replace(limits, ttft_s=limits.ttft_s + limits.patient * ttft_s)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        good = _holds(replica, load, limits, middle)
        low, high = np.where(good, middle, low), np.where(good, high, middle)
    single = dataclasses.replace(limits, z=np.zeros_like(limits.z))
    possible = _holds(replica, load, single, np.full_like(low, 1e-6))
    batch = np.where(possible, low, 0.0)
    rate = np.where(possible, rate_at(replica, load, batch), 0.0)
    one_by_one = 1 / (ttft_s + np.maximum(load.output_tokens - 1, 0) * tpot_s)
    lone = (limits.patient > 0) & (rate <= 0) & (held_sequences(replica, load) >= 1)
    rate = np.where(lone, one_by_one, rate)
    return Estimate(rate_rps=rate, batch=batch, tpot_floor_s=tpot_s, ttft_floor_s=ttft_s)


def held_sequences(replica: ReplicaModel, load: RequestSizes) -> Floats:
    """Sequences that the KV cache holds at the mean context that they reach."""
    pool = replica.pool
    context = np.maximum(load.input_tokens + load.output_tokens / 2, replica.reserve_tokens)
    blocks: Floats = (context + pool.block_tokens / 2) / pool.block_tokens
    blocks = np.maximum(blocks, np.where(pool.block_tokens > _SMALL_BLOCK, 1.0, 0.0))
    parts = pool.grown * blocks + pool.fixed
    for window in pool.windows:
        parts = parts + window.parts * np.minimum(blocks, window.cap)
    held: Floats = pool.blocks * pool.scale / parts
    return held


def decode_step_s(replica: ReplicaModel, load: RequestSizes, batch: Floats) -> Floats:
    """d(n): a step that only decodes."""
    costs = replica.costs
    per_sequence = costs.sequence_s + read_s(costs, load.input_tokens + load.output_tokens / 2)
    return costs.fixed_s + batch * per_sequence + products_s(costs, np.maximum(batch, 1.0))


def _prefill(replica: ReplicaModel, load: RequestSizes, batch: Floats) -> Floats:
    """P(n): what one prefill adds over the decoding steps that would have run anyway."""
    costs, prompt = replica.costs, load.input_tokens
    own: Floats = costs.sequence_s + pairs_s(costs, prompt) + prompt * replica.prompt_token_s
    together = np.maximum(1.0, replica.budget_tokens / 2)
    if replica.chunked:
        # A step full of prefill carries the decoding along; its share of that step's extra products.
        share = np.minimum(1.0, prompt / together)
        tokens = np.maximum(prompt, together)
        extra = products_s(costs, tokens + batch) - products_s(costs, np.maximum(batch, 1.0))
        steps = np.where(prompt > together, prompt / together, share)
        own = own + costs.prompts_s * steps
        mixed: Floats = own + np.maximum(extra, 0.0) * np.where(prompt > together, 1.0, share)
        return mixed
    alone: Floats = own + costs.fixed_s + costs.prompts_s + products_s(costs, prompt)
    return alone


def rate_at(replica: ReplicaModel, load: RequestSizes, batch: Floats) -> Floats:
    decode = decode_step_s(replica, load, batch)
    return _rate(load, batch, decode, _prefill(replica, load, batch))


def _rate(load: RequestSizes, batch: Floats, decode: Floats, prefill: Floats) -> Floats:
    rate: Floats = batch / (
        np.maximum(load.output_tokens - 1, 0) * decode + batch * prefill + decode
    )
    return rate


def _first_token(
    replica: ReplicaModel, load: RequestSizes, batch: Floats, decode_s: Floats
) -> Floats:
    """Time to the first token without queueing: half a step in progress, then its own prefill.

    `decode_s` is d(n), of no matter where nobody is served yet.
    """
    decode = np.where(batch > 0, decode_s, 0.0)
    steps = np.ceil(load.input_tokens / replica.budget_tokens) if replica.chunked else 1.0
    alone = replica.costs.fixed_s + products_s(replica.costs, np.ones_like(batch))
    return decode / 2 + np.maximum(decode, alone) * steps + _prefill(replica, load, batch)


def _holds(
    replica: ReplicaModel, load: RequestSizes, limits: _Limits, batch: Floats
) -> NDArray[np.bool_]:
    """Whether `batch` requests in service leave the limits met at their attainment."""
    peak = np.maximum(batch + limits.z * np.sqrt(batch), 0.0)
    good: NDArray[np.bool_] = peak <= np.minimum(
        held_sequences(replica, load), replica.max_num_seqs
    )
    prefill = _prefill(replica, load, batch)
    busy = _rate(load, batch, decode_step_s(replica, load, batch), prefill) * prefill
    decode = decode_step_s(replica, load, np.maximum(peak, 1.0))
    tpot = decode / np.maximum(1.0 - busy, 1e-9)
    good &= (tpot <= limits.tpot_s) | (load.output_tokens < 2)
    wait = _queueing(busy, prefill, limits.attainment)
    good &= _first_token(replica, load, peak, decode) + wait <= limits.ttft_s
    return good


def _queueing(busy: Floats, service: Floats, attainment: Floats) -> Floats:
    """Waiting time at the attainment's quantile in M/D/1, its tail taken as exponential."""
    tail = np.log(np.maximum(busy, 1e-12) / np.maximum(1.0 - attainment, 1e-4))
    mean_of_waiting = service / (2 * np.maximum(1.0 - busy, 1e-9))
    wait: Floats = np.maximum(tail, 0.0) * mean_of_waiting
    return wait


def round_batch(batch: float) -> int:
    """Round a batch limit down to a size for which engines capture a graph: 1, 2, 4, then eights.

    >>> [round_batch(b) for b in (0.4, 3.9, 7.0, 37.2, 300.0)]
    [1, 2, 4, 32, 296]
    """
    whole = max(1, math.floor(batch))
    return whole // 8 * 8 if whole >= 8 else 2 ** int(math.log2(whole))
