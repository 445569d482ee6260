"""Estimated rates of the GPUs that work together: shipped, kept from earlier, or simulated now."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from melange_sky.capacities import BEST_EFFORT, NOT_KNOWN, CapacityCell, Origin
from melange_sky.names.accelerators import find_accelerator
from melange_sky.parallelism import Parallelism
from melange_sky.profiles.alone import missed_alone
from melange_sky.profiles.cache import EstimateCache
from melange_sky.profiles.calibration import calibration_of
from melange_sky.profiles.misfits import out_of_memory, torn
from melange_sky.profiles.shipped import shipped_table
from melange_sky.steps import (
    REGIMES,
    Misfit,
    ReplicaModel,
    RequestSizes,
    knee_batch,
    regime_of,
    split_band,
    split_replica,
)
from melange_sky.topology import linked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.accelerators import Links
    from melange_sky.models import ModelShape
    from melange_sky.profiles.query import CapacityQuery, ReplicaShape
    from melange_sky.steps import ErrorBand, Estimate, Generation, Regime

NO_TRAFFIC = "no traffic"
"""The reason of a cell that nothing asks for."""

NOT_SIMULATED = "not simulated"
"""What a cell says whose rate is the closed form's, because the query forbids to simulate it."""

NEARLY_MISSED = 0.9
"""Of a limit, what a lone request must take by the closed form before simulation is asked whether it misses it."""

WORTH_MISSING = 2.0
"""A level below the target that carries less than this many times its rate is not worth its misses."""

GroupKey = tuple[str, Parallelism, str]
"""(accelerator, split without copies, links) of the GPUs that work together."""


def group_key(shape: ReplicaShape) -> GroupKey:
    """Return the group of a replica: how a GPU is linked that works alone makes no difference."""
    split = shape.split.one_engine
    return shape.accelerator, split, (shape.links if split.gpus > 1 else None) or ""


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
class Group:
    """The GPUs of a replica that work together, as one of the like engines that they are simulated as.

    A replica is `Parallelism.simulated_engines` of these, copies included, which share its requests
    evenly. `bands` are the errors of its estimates by regime, `origin` how its constants are known.
    """

    replica: ReplicaModel
    max_model_len: int
    bands: Mapping[Regime, ErrorBand]
    origin: Origin = Origin.ESTIMATED


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """A group on which the model cannot run; `reason` says why and what would fit."""

    reason: str


def gpu_group(
    query: CapacityQuery, key: GroupKey, sizes: RequestSizes, generation: Generation
) -> Group | Unfit:
    """Return one group as it would run for these sizes, or why it cannot."""
    name, split, links = key
    accelerator = linked(find_accelerator(name), cast("Links", links) if links else None)
    model = query.model
    unable = query.engine.misfit(model, accelerator) or torn(model, accelerator, split)
    if unable is not None:
        return Unfit(reason=unable)
    replica = split_replica(model, accelerator, split, generation)
    if isinstance(replica, Misfit):
        model = model.on(accelerator.has_bf16)
        return Unfit(reason=out_of_memory(model, accelerator, split, generation, replica))
    where = f"{split.gpus} × {accelerator.name}"
    held = replica.pool.longest_tokens
    if query.max_model_len is not None and held < query.max_model_len:
        return Unfit(
            reason=f"the KV cache of {where} holds {held} tokens, "
            f"{query.engine.flags.length} asks for {query.max_model_len}"
        )
    longest = query.max_model_len or min(query.longest_request_tokens, model.context_tokens, held)
    is_one_group = split.gpus == split.tensor * split.data and not split.experts_spread
    found = calibration_of(query, accelerator.name, split.tensor) if is_one_group else None
    if found is not None:
        replica = found.scales.applied(replica)
    sequences = knee_batch(replica, _servable(sizes, longest), query.slo)
    return Group(
        replica=replica.with_max_num_seqs(sequences),
        max_model_len=max(1, longest),
        bands=_stated_bands(generation, accelerator.name, model, split)
        if found is None
        else dict.fromkeys(REGIMES, found.band),
        origin=Origin.ESTIMATED if found is None else Origin(found.origin),
    )


def _stated_bands(
    generation: Generation, accelerator: str, model: ModelShape, split: Parallelism
) -> dict[Regime, ErrorBand]:
    """Return the generation's bands, wider for a model that is not read in full and for some splits."""

    def band(regime: Regime) -> ErrorBand:
        stated = generation.error_band(accelerator, model, split.tensor, regime)
        return split_band(stated.wider(model.doubt), split)

    return {regime: band(regime) for regime in REGIMES}


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
    are of the bare group: without the band, and before data parallelism multiplies them. `levels` are
    closed-form estimates at other attainments than the target's, `BEST_EFFORT` what leaves others in time: cells
    follow them in proportion. `bounds`, where the query asks for them, are the most that simulation could find.
    """

    query: CapacityQuery
    group: Group
    sizes: RequestSizes
    analytic: Estimate
    levels: Mapping[float, Estimate] = field(default_factory=dict)
    bounds: NDArray[np.float64] | None = None

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
                cells.append(table.point(self.size(at)))
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
            size = self.size(at)
            cell = shipped or cache.get(size)
            if cell is None and not self.query.simulate:
                cell = self._guessed(at)
            elif cell is None and self.bounds is not None:
                cell = self._bounded(at)
                if cell.origin is not Origin.BOUND:
                    cache.put(size, cell)
            elif cell is None:
                cell = self.simulate(at)
                cache.put(size, cell)
            cells.append(cell)
            count.add()
        cache.save()
        return tuple(cells)

    def simulate(self, at: int) -> CapacityCell:
        """Return what simulation says of one size."""
        # compiled code is not wanted where all is shipped or kept
        from melange_sky.profiles.simulated import simulated_cell

        guess_rps = float(self.analytic.rate_rps[at])
        return simulated_cell(self.group.replica, self.size(at), self.query.slo, guess_rps)

    def _bounded(self, at: int) -> CapacityCell:
        """Return the most that simulation could find of a size; what it says where a lone request misses."""
        assert self.bounds is not None
        if self._nearly_missed(at):
            from melange_sky.profiles.simulated import refused_alone

            refused = refused_alone(self.group.replica, self.size(at), self.query.slo)
            if refused is not None:
                return refused
        bound_rps = float(self.bounds[at])
        if bound_rps <= 0:
            return self.simulate(at)  # the closed form sees no rate, whatever the limits
        return CapacityCell(max_rate_rps=bound_rps, origin=Origin.BOUND, reason=NOT_KNOWN)

    def _nearly_missed(self, at: int) -> bool:
        slo, alone = self.query.slo, self.analytic
        limits = ((slo.tpot_s, alone.tpot_floor_s), (slo.ttft_s, alone.ttft_floor_s))
        return any(
            limit is not None and float(floor[at]) > NEARLY_MISSED * limit
            for limit, floor in limits
        )

    def _guessed(self, at: int) -> CapacityCell:
        rate_rps = float(self.analytic.rate_rps[at])
        if rate_rps <= 0:
            return CapacityCell.unserved(NOT_SIMULATED)
        return replace(CapacityCell.estimated(rate_rps), reason=NOT_SIMULATED)

    def banded(self, cells: Sequence[CapacityCell]) -> tuple[CapacityCell, ...]:
        """Return the cells with their levels, and the band of each one's regime."""
        sequences = np.minimum(self.analytic.batch, self.group.replica.max_num_seqs).tolist()
        absent = self._absent()
        found = []
        for at, cell in enumerate(cells):
            levels = () if absent[at] else self._levels(cell, at)
            rate = (
                cell.max_rate_rps
                if cell.max_rate_rps is not None
                else dict(levels).get(BEST_EFFORT)
            )
            if rate is None:
                found.append(cell)
                continue
            band = self.group.bands[regime_of(self.size(at)[0], sequences[at])]
            is_bound = cell.origin is Origin.BOUND
            found.append(
                CapacityCell(
                    max_rate_rps=cell.max_rate_rps,
                    origin=Origin.BOUND if is_bound else self.group.origin,
                    reason=cell.reason,
                    low_rps=rate * band.low,
                    high_rps=rate * band.high,
                    levels=levels,
                    alone_ttft_s=float(self.analytic.ttft_floor_s[at]) if levels else None,
                )
            )
        return tuple(found)

    def _levels(self, cell: CapacityCell, at: int) -> tuple[tuple[float, float], ...]:
        """Return a cell's rates at other levels, by what the closed form says of their ratio.

        A size that misses its limits even alone has the rate at which others beside it still meet theirs,
        any other lower levels where these carry a multiple: there its own requests stand in each other's way.
        """
        effort = self.levels.get(BEST_EFFORT)
        if effort is None:
            return ()
        best_rps = float(effort.rate_rps[at])
        if cell.max_rate_rps is None:
            return ((BEST_EFFORT, best_rps),) if best_rps > 0 else ()
        return self._in_proportion(
            cell.max_rate_rps, best_rps, at, is_bound=cell.origin is Origin.BOUND
        )

    def _in_proportion(
        self, rate_rps: float, best_rps: float, at: int, *, is_bound: bool
    ) -> tuple[tuple[float, float], ...]:
        """Return the levels of a rate at the target; none where the closed form sees no rate at all.

        A mere bound has all that any lower rate could have.
        """
        target_rps = float(self.analytic.rate_rps[at])
        levels: list[tuple[float, float]] = []
        largest, worth = rate_rps, 0.0 if is_bound else WORTH_MISSING
        for attainment, estimate in sorted(self.levels.items(), reverse=True):
            level_rps = float(estimate.rate_rps[at])
            if attainment == BEST_EFFORT:
                found = best_rps
            elif min(level_rps, target_rps) > 0:
                found = rate_rps * level_rps / target_rps
            else:
                continue
            if attainment < self.query.slo.attainment:
                found = min(found, level_rps, best_rps)
                if found < worth * largest:
                    continue
                largest = found
            levels.append((attainment, found))
        return tuple(sorted(levels))

    def size(self, at: int) -> tuple[int, int]:
        """Return the (input, output) tokens of one bucket."""
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
        waits = self.group.replica.prompt_token_s > 0
        reason = missed_alone(float(ttft_s), float(tpot_s), self.query.slo, waits=waits)
        return reason or "the SLO is not met at any rate"


def replica_cell(cell: CapacityCell, engines: int) -> CapacityCell:
    """Return a group's cell as that of a replica of so many engines."""
    return cell if engines == 1 else cell.scaled(engines)
