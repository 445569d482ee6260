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
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.steps.largest import largest_within
from melange_sky.steps.pool import KvPool, WindowBlocks
from melange_sky.steps.request_sizes import RequestSizes
from melange_sky.steps.stacked import Asked, Limits, Work, column
from melange_sky.steps.times import StepCosts, WindowCosts

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from melange_sky.slo import SLO
    from melange_sky.steps.replica import ReplicaModel

    Floats = NDArray[np.float64]


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
            rows = _estimate(stacked, load, Limits.of([asked[k][1:] for k in places]))
            for row, k in enumerate(places):
                found[k] = Estimate(
                    rate_rps=rows.rate_rps[row],
                    batch=rows.batch[row],
                    tpot_floor_s=rows.tpot_floor_s[row],
                    ttft_floor_s=rows.ttft_floor_s[row],
                )
    return tuple(found[k] for k in range(len(asked)))


def _stacked(replicas: Sequence[ReplicaModel]) -> ReplicaModel:
    """Return replicas of one kind of batching as one whose figures are columns (replicas × 1)."""
    return dataclasses.replace(
        replicas[0],
        costs=_stacked_costs([r.costs for r in replicas]),
        pool=_stacked_pools([r.pool for r in replicas]),
        budget_tokens=column(r.budget_tokens for r in replicas),
        max_num_seqs=column(r.max_num_seqs for r in replicas),
        reserve_tokens=column(r.reserve_tokens for r in replicas),
        prompt_token_s=column(r.prompt_token_s for r in replicas),
    )


def _stacked_costs(costs: Sequence[StepCosts]) -> StepCosts:
    most = max(len(c.windows) for c in costs)
    none = WindowCosts(tokens=1, kv_token_s=0.0, pair_s=0.0)
    rows = [(*c.windows, *[none] * (most - len(c.windows))) for c in costs]
    windows = tuple(
        WindowCosts(*(column(figures) for figures in zip(*same, strict=True)))
        for same in zip(*rows, strict=True)
    )
    columns: dict[str, Any] = {
        name: column(getattr(c, name) for c in costs)
        for name in StepCosts._fields
        if name != "windows"
    }
    return StepCosts(**columns, windows=windows)


def _stacked_pools(pools: Sequence[KvPool]) -> KvPool:
    most = max(len(pool.windows) for pool in pools)
    none = WindowBlocks(tokens=1, parts=0, cap=0, prefill_cap=0)
    rows = [(*pool.windows, *[none] * (most - len(pool.windows))) for pool in pools]
    return KvPool(
        blocks=column(p.blocks for p in pools),
        block_tokens=column(p.block_tokens for p in pools),
        scale=column(p.scale for p in pools),
        grown=column(p.grown for p in pools),
        windows=tuple(
            WindowBlocks(
                tokens=column(w.tokens for w in same),
                parts=column(w.parts for w in same),
                cap=column(w.cap for w in same),
                prefill_cap=column(w.prefill_cap for w in same),
            )
            for same in zip(*rows, strict=True)
        ),
        fixed=column(p.fixed for p in pools),
    )


def _estimate(replica: ReplicaModel, load: RequestSizes, limits: Limits) -> Estimate:
    """Return the estimates of stacked replicas, shapes (rows × cells)."""
    work = Work.of(replica, load)
    cold = work if load.found_tokens is None else Work.of(replica, load, cold=True)
    alone, nobody = np.ones_like(work.held), np.zeros_like(work.held)
    products = work.products_s(alone)
    tpot_s = work.decode_s(alone, products)
    ttft_s = cold.first_token_s(nobody, products, nobody)
    limits = dataclasses.replace(limits, ttft_s=limits.ttft_s + limits.patient * ttft_s)
    most = np.minimum(work.held, replica.max_num_seqs)
    asked = Asked(work=work, cold=cold, limits=limits)
    low = largest_within(asked.excess, most, lambda rows: asked.of_rows(rows).excess)
    single = dataclasses.replace(limits, z=np.zeros_like(limits.z))
    possible = dataclasses.replace(asked, limits=single).excess(np.full_like(low, 1e-6)) <= 0
    batch = np.where(possible, low, 0.0)
    rate = np.where(possible, _rate(work, batch), 0.0)
    one_by_one = 1 / (ttft_s + np.maximum(load.output_tokens - 1, 0) * tpot_s)
    lone = (limits.patient > 0) & (rate <= 0) & (work.held >= 1)
    rate = np.where(lone, one_by_one, rate)
    return Estimate(rate_rps=rate, batch=batch, tpot_floor_s=tpot_s, ttft_floor_s=ttft_s)


def decode_step_s(replica: ReplicaModel, load: RequestSizes, batch: Floats) -> Floats:
    """d(n): a step that only decodes."""
    work = Work.of(replica, load)
    return work.decode_s(batch, work.products_s(batch))


def rate_at(replica: ReplicaModel, load: RequestSizes, batch: Floats) -> Floats:
    """λ(n): requests per second with n of them in service."""
    return _rate(Work.of(replica, load), batch)


def _rate(work: Work, batch: Floats) -> Floats:
    products = work.products_s(batch)
    return work.rate_rps(batch, work.decode_s(batch, products), work.prefill_s(batch, products))


def round_batch(batch: float) -> int:
    """Round a batch limit down to a size for which engines capture a graph: 1, 2, 4, then eights.

    >>> [round_batch(b) for b in (0.4, 3.9, 7.0, 37.2, 300.0)]
    [1, 2, 4, 32, 296]
    """
    whole = max(1, math.floor(batch))
    return whole // 8 * 8 if whole >= 8 else 2 ** int(math.log2(whole))
