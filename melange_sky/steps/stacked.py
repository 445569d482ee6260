"""What requests ask of replicas and the limits that these are to keep, for many sizes and replicas at once.

The figures of `steps.estimate`, as arrays of shape (rows × cells): a row is a replica within one SLO, a cell a
request size. What is the same for all cells is a column.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from melange_sky.steps.times import StepCosts, pairs_s, products_s, read_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from melange_sky.slo import SLO
    from melange_sky.steps.replica import ReplicaModel
    from melange_sky.steps.request_sizes import RequestSizes

    Floats = NDArray[np.float64]

_SMALL_BLOCK = 16
"""Blocks of more tokens are so long that many sequences hold a single one."""


def column(figures: Iterable[float]) -> Any:
    """Return figures of the rows as a column."""
    return np.array(list(figures), dtype=np.float64)[:, None]


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


@dataclass(frozen=True, slots=True)
class Limits:
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
    def of(cls, rows: Sequence[tuple[SLO, bool]]) -> Limits:
        normal, slos = NormalDist(), [slo for slo, _ in rows]
        return cls(
            tpot_s=column(math.inf if s.tpot_s is None else s.tpot_s for s in slos),
            ttft_s=column(math.inf if s.ttft_s is None else s.ttft_s for s in slos),
            attainment=column(s.attainment for s in slos),
            z=column(normal.inv_cdf(min(max(s.attainment, 0.001), 0.9999)) for s in slos),
            patient=column(float(patient) for _, patient in rows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What requests of each size ask of a replica, whatever the number of them in service.

    `held` is how many the KV cache holds, `sequence_s` what each adds to a decoding step, `prompt_s` what
    a prefill takes beside products, `tokens` those of a step that it is in, of which it answers for `share`;
    `chunks` are the steps that it is spread over, `idle_s` what a step of one token takes.
    """

    costs: StepCosts
    chunked: bool
    max_num_seqs: Any
    output_tokens: Floats
    held: Floats
    sequence_s: Floats
    prompt_s: Floats
    tokens: Floats
    share: Floats
    chunks: Floats
    idle_s: Floats

    @classmethod
    def of(cls, replica: ReplicaModel, load: RequestSizes, *, cold: bool = False) -> Work:
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
            costs=costs._replace(windows=()),  # which are in what each sequence and prompt takes
            chunked=replica.chunked,
            max_num_seqs=replica.max_num_seqs,
            output_tokens=load.output_tokens,
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
        return products_s(self.costs, np.maximum(batch, 1.0))

    def decode_s(self, batch: Floats, products: Floats) -> Floats:
        """d(n), from its products."""
        return self.costs.fixed_s + batch * self.sequence_s + products

    def prefill_s(self, batch: Floats, products: Floats) -> Floats:
        """P(n): what one prefill adds over the decoding steps that would have run anyway."""
        if not self.chunked:
            return self.prompt_s
        # A step full of prefill carries the decoding along; its share of that step's extra products.
        together = products_s(self.costs, self.tokens + batch)
        mixed: Floats = self.prompt_s + np.maximum(together - products, 0.0) * self.share
        return mixed

    def rate_rps(self, batch: Floats, decode_s: Floats, prefill_s: Floats) -> Floats:
        """λ(n)."""
        more = np.maximum(self.output_tokens - 1, 0)
        rate: Floats = batch / (more * decode_s + batch * prefill_s + decode_s)
        return rate

    def first_token_s(self, batch: Floats, products: Floats, decode_s: Floats) -> Floats:
        """Time to the first token without queueing: half a step in progress, then its own prefill."""
        decode = np.where(batch > 0, decode_s, 0.0)
        steps = np.maximum(decode, self.idle_s) * self.chunks
        return decode / 2 + steps + self.prefill_s(batch, products)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Work and the limits that it is to keep: of all requests on average, and of one that finds nothing (`cold`)."""

    work: Work
    cold: Work
    limits: Limits

    def of_rows(self, rows: NDArray[np.intp]) -> Asked:
        """Return the same of some replicas alone."""
        work = _of_rows(self.work, rows)
        cold = work if self.cold is self.work else _of_rows(self.cold, rows)
        return Asked(work=work, cold=cold, limits=_of_rows(self.limits, rows))

    def excess(self, batch: Floats) -> Floats:
        """How far `batch` requests in service are above the limits at their attainment, from -1 to 1: 0 is just within."""
        work, limits = self.work, self.limits
        peak = np.maximum(batch + limits.z * np.sqrt(batch), 0.0)
        excess = _above(peak, np.minimum(work.held, work.max_num_seqs))
        products, crowded = work.products_s(batch), work.products_s(peak)
        prefill = work.prefill_s(batch, products)
        busy = work.rate_rps(batch, work.decode_s(batch, products), prefill) * prefill
        decode = work.decode_s(np.maximum(peak, 1.0), crowded)
        tpot = decode / np.maximum(1.0 - busy, 1e-9)
        streamed = work.output_tokens >= 2
        excess = np.maximum(excess, np.where(streamed, _above(tpot, limits.tpot_s), -1.0))
        wait = _queueing(busy, prefill, limits.attainment)
        first = self.cold.first_token_s(peak, crowded, decode) + wait
        return np.maximum(excess, _above(first, limits.ttft_s))


_Figures = TypeVar("_Figures", Work, Limits)
"""Arrays of shape (rows × cells) or a column of them."""


def _of_rows(figures: _Figures, rows: NDArray[np.intp]) -> _Figures:
    """Return figures of some rows alone; what has one row, or none, holds for all of them."""

    def taken(value: Any) -> Any:
        if isinstance(value, StepCosts):
            return StepCosts(*map(taken, value))
        return (
            value[rows]
            if isinstance(value, np.ndarray) and value.ndim == 2 and len(value) > 1
            else value
        )

    values = {f.name: taken(getattr(figures, f.name)) for f in dataclasses.fields(figures)}
    return type(figures)(**values)


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
