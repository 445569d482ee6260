"""An analytic estimate of a replica's capacity: the first guess, and the search's bracket.

Mean-value analysis of one request size (I input, O output tokens) with n requests decoding:

    d(n)  time of a step with n decoding sequences at their mean context I + O/2
    P(n)  what one prefill adds to the steps that carry it
    λ(n) = n ÷ ((O − 1) d(n) + n P(n) + d(n))         requests per second (Little's law)
    TPOT(n) = d(n) ÷ (1 − λ(n) P(n))                   prefills stretch the steps

The largest n is sought for which the SLO holds at its attainment: TPOT at n + z √n (the number in
service varies as a Poisson number), room in the KV cache for as many, and TTFT with the queueing of
M/D/1 (Pollaczek-Khinchine) for the prefill work.

What prompts find in a prefix cache is spared of the prefill work, not of the KV cache. A request's own
prefill counts in full against the TTFT limit: some find nothing, and these are to be in time too.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.steps.largest import largest_within
from melange_sky.steps.pool import KvPool, WindowBlocks
from melange_sky.steps.times import StepCosts, WindowCosts, pairs_s, products_s, read_s

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray

    from melange_sky.slo import SLO
    from melange_sky.steps.replica import ReplicaModel

    Floats = NDArray[np.float64]

_SMALL_BLOCK = 16
"""Blocks of more tokens are so long that many sequences hold a single one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSizes:
    """Request sizes in tokens, each of shape (cells,).

    `found_tokens` of each input are found in a prefix cache on average, None for none of any.
    """

    input_tokens: Floats
    output_tokens: Floats
    found_tokens: Floats | None = None

    def of(self, wanted: NDArray[np.bool_]) -> RequestSizes:
        """Return only those of the cells that are wanted."""
        found = self.found_tokens
        return RequestSizes(
            input_tokens=self.input_tokens[wanted],
            output_tokens=self.output_tokens[wanted],
            found_tokens=None if found is None else found[wanted],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """`rate_rps`: highest rate, 0 where the SLO cannot be met; `batch`: requests in service then;
    `tpot_floor_s`, `ttft_floor_s`: what a request alone on the replica sees. Shapes (cells,).
    """

    rate_rps: Floats
    batch: Floats
    tpot_floor_s: Floats
    ttft_floor_s: Floats

    def spread(self, wanted: NDArray[np.bool_]) -> Estimate:
        """Return the estimates of the wanted cells in their places among all, NaN in the others."""

        def over_all(figures: Floats) -> Floats:
            spread = np.full(wanted.shape, np.nan)
            spread[wanted] = figures
            return spread

        return Estimate(
            rate_rps=over_all(self.rate_rps),
            batch=over_all(self.batch),
            tpot_floor_s=over_all(self.tpot_floor_s),
            ttft_floor_s=over_all(self.ttft_floor_s),
        )


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
    work = _Work.of(replica, load)
    cold = work if load.found_tokens is None else _Work.of(replica, load, cold=True)
    alone, nobody = np.ones_like(work.held), np.zeros_like(work.held)
    products = work.products_s(alone)
    tpot_s = work.decode_s(alone, products)
    ttft_s = cold.first_token_s(nobody, products, nobody)
    limits = dataclasses.replace(limits, ttft_s=limits.ttft_s + limits.patient * ttft_s)
    most = np.minimum(work.held, replica.max_num_seqs)
    low = largest_within(lambda batch: _excess((work, cold), limits, batch), most)
    single = dataclasses.replace(limits, z=np.zeros_like(limits.z))
    possible = _excess((work, cold), single, np.full_like(low, 1e-6)) <= 0
    batch = np.where(possible, low, 0.0)
    rate = np.where(possible, _rate(work, batch), 0.0)
    one_by_one = 1 / (ttft_s + np.maximum(load.output_tokens - 1, 0) * tpot_s)
    lone = (limits.patient > 0) & (rate <= 0) & (work.held >= 1)
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
    work = _Work.of(replica, load)
    return work.decode_s(batch, work.products_s(batch))


def rate_at(replica: ReplicaModel, load: RequestSizes, batch: Floats) -> Floats:
    """λ(n): requests per second with n of them in service."""
    return _rate(_Work.of(replica, load), batch)


def _rate(work: _Work, batch: Floats) -> Floats:
    products = work.products_s(batch)
    return work.rate_rps(batch, work.decode_s(batch, products), work.prefill_s(batch, products))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What requests of each size ask of a replica, whatever the number of them in service.

    `held` is how many the KV cache holds, `sequence_s` what each adds to a decoding step, `prompt_s` what
    a prefill takes beside products, `tokens` those of a step that it is in, of which it answers for `share`;
    `chunks` are the steps that it is spread over, `idle_s` what a step of one token takes.
    """

    replica: ReplicaModel
    load: RequestSizes
    held: Floats
    sequence_s: Floats
    prompt_s: Floats
    tokens: Floats
    share: Floats
    chunks: Floats
    idle_s: Floats

    @classmethod
    def of(cls, replica: ReplicaModel, load: RequestSizes, *, cold: bool = False) -> _Work:
        """Return the work, with `cold` that of prompts that find nothing in a prefix cache."""
        costs, whole = replica.costs, load.input_tokens
        found = None if cold else load.found_tokens
        prompt = whole if found is None else whole - found
        pairs = pairs_s(costs, whole)
        if found is not None:
            pairs = pairs - pairs_s(costs, found)
        own = costs.sequence_s + pairs + prompt * replica.prompt_token_s
        together = np.maximum(1.0, replica.budget_tokens / 2)
        is_long = prompt > together
        share = np.minimum(1.0, prompt / together)
        steps = np.where(is_long, prompt / together, share)
        one = np.ones_like(prompt)
        return cls(
            replica=replica,
            load=load,
            held=held_sequences(replica, load),
            sequence_s=costs.sequence_s + read_s(costs, whole + load.output_tokens / 2),
            prompt_s=own + costs.prompts_s * steps
            if replica.chunked
            else own + costs.fixed_s + costs.prompts_s + products_s(costs, prompt),
            tokens=np.maximum(prompt, together),
            share=np.where(is_long, 1.0, share),
            chunks=np.ceil(prompt / replica.budget_tokens) if replica.chunked else one,
            idle_s=costs.fixed_s + products_s(costs, one),
        )

    def products_s(self, batch: Floats) -> Floats:
        """The time of the products of a step that only decodes."""
        return products_s(self.replica.costs, np.maximum(batch, 1.0))

    def decode_s(self, batch: Floats, products: Floats) -> Floats:
        """d(n), from its products."""
        return self.replica.costs.fixed_s + batch * self.sequence_s + products

    def prefill_s(self, batch: Floats, products: Floats) -> Floats:
        """P(n): what one prefill adds over the decoding steps that would have run anyway."""
        if not self.replica.chunked:
            return self.prompt_s
        # A step full of prefill carries the decoding along; its share of that step's extra products.
        together = products_s(self.replica.costs, self.tokens + batch)
        mixed: Floats = self.prompt_s + np.maximum(together - products, 0.0) * self.share
        return mixed

    def rate_rps(self, batch: Floats, decode_s: Floats, prefill_s: Floats) -> Floats:
        """λ(n)."""
        more = np.maximum(self.load.output_tokens - 1, 0)
        rate: Floats = batch / (more * decode_s + batch * prefill_s + decode_s)
        return rate

    def first_token_s(self, batch: Floats, products: Floats, decode_s: Floats) -> Floats:
        """Time to the first token without queueing: half a step in progress, then its own prefill."""
        decode = np.where(batch > 0, decode_s, 0.0)
        steps = np.maximum(decode, self.idle_s) * self.chunks
        return decode / 2 + steps + self.prefill_s(batch, products)


def _excess(works: tuple[_Work, _Work], limits: _Limits, batch: Floats) -> Floats:
    """How far `batch` requests in service are above the limits at their attainment, from -1 to 1: 0 is just within.

    `works` are that of all on average, and that of one that finds nothing.
    """
    work, cold = works
    peak = np.maximum(batch + limits.z * np.sqrt(batch), 0.0)
    excess = _above(peak, np.minimum(work.held, work.replica.max_num_seqs))
    products, crowded = work.products_s(batch), work.products_s(peak)
    prefill = work.prefill_s(batch, products)
    busy = work.rate_rps(batch, work.decode_s(batch, products), prefill) * prefill
    decode = work.decode_s(np.maximum(peak, 1.0), crowded)
    tpot = decode / np.maximum(1.0 - busy, 1e-9)
    streamed = work.load.output_tokens >= 2
    excess = np.maximum(excess, np.where(streamed, _above(tpot, limits.tpot_s), -1.0))
    wait = _queueing(busy, prefill, limits.attainment)
    first = cold.first_token_s(peak, crowded, decode) + wait
    return np.maximum(excess, _above(first, limits.ttft_s))


def _above(figure: Floats, limit: Floats) -> Floats:
    """How far a figure is above a limit, from -1 to 1: their difference in parts of their sum."""
    is_limited = np.isfinite(limit)
    known = np.where(is_limited, limit, 0.0)
    above: Floats = (figure - known) / np.maximum(figure + known, 1e-300)
    return np.where(is_limited, above, -1.0)


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
