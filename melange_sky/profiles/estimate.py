"""Estimated rates of one tensor-parallel group: shipped, kept from earlier, or simulated now."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from melange_sky.capacities import CapacityCell
from melange_sky.names.accelerators import find_accelerator
from melange_sky.profiles.cache import EstimateCache
from melange_sky.profiles.shipped import shipped_table
from melange_sky.steps import Misfit, ReplicaModel, RequestSizes, knee_batch, kv_pool, replica_model
from melange_sky.steps.memory import GIB
from melange_sky.topology import linked

if TYPE_CHECKING:
    from melange_sky.accelerators import AcceleratorSpec, Links
    from melange_sky.models import ModelShape
    from melange_sky.profiles.query import CapacityQuery, ReplicaShape
    from melange_sky.slo import SLO
    from melange_sky.steps import ErrorBand, Estimate, Generation

NO_TRAFFIC = "no traffic"
"""The reason of a cell that nothing asks for."""

_SPLITS = (1, 2, 4, 8, 16)

GroupKey = tuple[str, int, str]
"""(accelerator, tensor parallel, links) of one group."""


def group_key(shape: ReplicaShape) -> GroupKey:
    """Return the group of a replica: how one GPU is linked makes no difference."""
    links = shape.links if shape.tensor_parallel > 1 else None
    return shape.accelerator, shape.tensor_parallel, links or ""


@dataclass(slots=True)
class CellCount:
    """Counts cells for the caller's progress bar."""

    report: Callable[[int, int], None] | None
    total: int
    done: int = 0

    @classmethod
    def of(cls, query: CapacityQuery, groups: int) -> CellCount:
        """Return a count over all cells of so many groups."""
        cells = sum(len(row) for row in query.input_sizes)
        return cls(report=query.progress, total=cells * groups)

    def add(self, cells: int = 1) -> None:
        """Report that so many more cells are done."""
        self.done += cells
        if self.report is not None:
            self.report(self.done, self.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorGroup:
    """The GPUs of a replica that run one copy of the model; `band` is the error of its estimates.

    A replica with data parallelism d is d such groups that share its requests evenly.
    """

    replica: ReplicaModel
    max_model_len: int
    band: ErrorBand


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """A tensor-parallel group on which the model cannot run; `reason` says why and what would fit."""

    reason: str


def tensor_group(
    query: CapacityQuery, key: GroupKey, sizes: RequestSizes, generation: Generation
) -> TensorGroup | Unfit:
    """Return one group as it would run for these sizes, or why it cannot."""
    name, tensor_parallel, links = key
    accelerator = linked(find_accelerator(name), cast("Links", links) if links else None)
    model = query.model
    where = f"{tensor_parallel} × {accelerator.name}"
    unable = query.engine.misfit(model, accelerator)
    if unable is not None:
        return Unfit(reason=unable)
    if not model.splits_over(tensor_parallel):
        return Unfit(
            reason=f"{model.heads} heads ({model.kv_heads} for keys and values) cannot be split over {where}"
        )
    replica = replica_model(model, accelerator, tensor_parallel, generation)
    if isinstance(replica, Misfit):
        model = model.on(accelerator.has_bf16)
        return _out_of_memory(model, accelerator, tensor_parallel, generation, replica)
    held = replica.pool.longest_tokens
    if query.max_model_len is not None and held < query.max_model_len:
        return Unfit(
            reason=f"the KV cache of {where} holds {held} tokens, "
            f"{query.engine.flags.length} asks for {query.max_model_len}"
        )
    longest = query.max_model_len or min(query.longest_request_tokens, model.context_tokens, held)
    sequences = knee_batch(replica, _servable(sizes, longest), query.slo)
    return TensorGroup(
        replica=replica.with_max_num_seqs(sequences),
        max_model_len=max(1, longest),
        band=generation.error_band(accelerator.name),
    )


def _out_of_memory(
    model: ModelShape,
    accelerator: AcceleratorSpec,
    tensor_parallel: int,
    generation: Generation,
    misfit: Misfit,
) -> Unfit:
    """Say how much memory is missing and which split or dtype would fit."""

    def fits(model: ModelShape, split: int) -> bool:
        return not isinstance(kv_pool(model, accelerator, split, generation), Misfit)

    where = f"{tensor_parallel} × {accelerator.name}"
    text = (
        f"{model.name[:80]} ({model.weight_bytes / GIB:.1f} GiB of weights) does not fit on {where}: "
        f"{misfit.missing_bytes / GIB:.1f} GiB missing"
    )
    ways = []
    splits = (tp for tp in _SPLITS if tp > tensor_parallel and model.splits_over(tp))
    if (more := next((tp for tp in splits if fits(model, tp)), None)) is not None:
        ways.append(f"{more} × {accelerator.name}")
    smaller_forms = (("fp8", 1.0), ("4-bit (AWQ or GPTQ)", 0.55))
    for dtype, size in smaller_forms if model.value_bytes <= 2.0 else ():
        smaller = model.in_bytes(size)
        if smaller.weight_bytes < model.weight_bytes and fits(smaller, tensor_parallel):
            ways.append(f"{dtype} weights")
            break
    return Unfit(reason=f"{text}; {' or '.join(ways)} would fit" if ways else text)


def _servable(sizes: RequestSizes, longest: int) -> RequestSizes:
    """The sizes that fit into `max_model_len`, whatever their traffic; all where none does."""
    fits = sizes.input_tokens + sizes.output_tokens <= longest
    keep = fits if fits.any() else np.ones_like(fits)
    return RequestSizes(
        input_tokens=sizes.input_tokens[keep], output_tokens=sizes.output_tokens[keep]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEstimates:
    """The estimates of one group for all sizes of a query, row by row.

    `analytic` is the closed-form estimate that shipped ratios correct and searches start at. Cells
    are of the bare group: without the band, and before data parallelism multiplies them.
    """

    query: CapacityQuery
    group: TensorGroup
    sizes: RequestSizes
    analytic: Estimate

    def settled(self) -> list[CapacityCell | None]:
        """Return the cells that need no simulation, None for the others."""
        absent = self._absent()
        table = None if self.query.exact else shipped_table(self.group.replica, self.query.slo)
        if table is None:
            return [CapacityCell.unserved(reason) if reason else None for reason in absent]
        rates = (table.ratio(self.sizes) * self.analytic.rate_rps).tolist()
        cells: list[CapacityCell | None] = []
        for at, (reason, rate) in enumerate(zip(absent, rates, strict=True)):
            if reason:
                cells.append(CapacityCell.unserved(reason))
            elif math.isnan(rate):
                cells.append(table.point(self._size(at)))
            else:
                cells.append(
                    CapacityCell.estimated(rate)
                    if rate > 0
                    else CapacityCell.unserved(self._slo_reason(at))
                )
        return cells

    def simulated(
        self, settled: Sequence[CapacityCell | None], count: CellCount
    ) -> tuple[CapacityCell, ...]:
        """Return all cells, those not settled from earlier simulations or new ones, which are kept."""
        cache = EstimateCache(self.group.replica, self.query.slo)
        cells: list[CapacityCell] = []
        for at, shipped in enumerate(settled):
            size = self._size(at)
            cell = shipped or cache.get(size)
            if cell is None:
                # compiled code is not wanted where all is shipped or kept
                from melange_sky.profiles.simulated import simulated_cell

                guess_rps = float(self.analytic.rate_rps[at])
                cell = simulated_cell(self.group.replica, size, self.query.slo, guess_rps)
                cache.put(size, cell)
            cells.append(cell)
            count.add()
        cache.save()
        return tuple(cells)

    def _size(self, at: int) -> tuple[int, int]:
        return int(self.sizes.input_tokens[at]), int(self.sizes.output_tokens[at])

    def _absent(self) -> list[str | None]:
        """Why a bucket is not computed at all, None where it is; row by row."""
        totals = (self.sizes.input_tokens + self.sizes.output_tokens).astype(int).tolist()
        needed = self.query.needed
        flat = [True] * len(totals) if needed is None else [n for row in needed for n in row]
        return [
            self._too_long(total) if wanted else NO_TRAFFIC
            for total, wanted in zip(totals, flat, strict=True)
        ]

    def _too_long(self, total: int) -> str | None:
        longest, context = self.group.max_model_len, self.query.model.context_tokens
        if total > context:
            return f"{total} tokens exceed the model's context of {context}"
        if total <= longest:
            return None
        if longest == self.group.replica.pool.longest_tokens:
            return f"{total} tokens exceed the {longest} that fit into the KV cache"
        return f"{total} tokens exceed max_model_len {longest}"

    def _slo_reason(self, at: int) -> str:
        ttft_s, tpot_s = self.analytic.ttft_floor_s[at], self.analytic.tpot_floor_s[at]
        reason = missed_alone(float(ttft_s), float(tpot_s), self.query.slo)
        return reason or "the SLO is not met at any rate"


def replica_cell(cell: CapacityCell, group: TensorGroup, data_parallel: int) -> CapacityCell:
    """Return a group's cell as that of a replica of so many groups, with the band of its error."""
    if cell.max_rate_rps is None:
        return cell
    rate = cell.max_rate_rps * data_parallel
    low_rps, high_rps = rate * group.band.low, rate * group.band.high
    return replace(cell, max_rate_rps=rate, low_rps=low_rps, high_rps=high_rps)


def missed_alone(ttft_s: float, tpot_s: float, slo: SLO) -> str | None:
    """Say which limit a request misses even alone on the replica, None for none (NaN: no TPOT)."""
    if slo.tpot_s is not None and tpot_s > slo.tpot_s:
        return f"TPOT is {tpot_s * 1e3:.1f} ms even alone, the limit is {slo.tpot_s * 1e3:g} ms"
    if slo.ttft_s is not None and ttft_s > slo.ttft_s:
        return f"TTFT is {ttft_s * 1e3:.0f} ms even alone, the limit is {slo.ttft_s * 1e3:g} ms"
    return None
