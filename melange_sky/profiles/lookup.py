"""What replicas carry: engine settings, and per bucket a rate with its origin.

Per tensor-parallel group the shipped table answers first, then what was simulated before, then a new
simulation; the user's measured tables go over all of them, per replica.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.capacities import (
    BEST_EFFORT,
    CapacityCell,
    EngineSettings,
    Origin,
    levels_above,
    levels_below,
)
from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.errors import InputError
from melange_sky.names.accelerators import find_accelerator
from melange_sky.profiles.bounds import slos_of_bounds, upper_bounds
from melange_sky.profiles.cache import EstimateCache
from melange_sky.profiles.constants import engine_generation
from melange_sky.profiles.estimate import (
    NO_TRAFFIC,
    CellCount,
    Group,
    GroupEstimates,
    GroupKey,
    Unfit,
    gpu_group,
    group_key,
    replica_cell,
)
from melange_sky.profiles.measured import MeasuredRates, matching, measured_tables
from melange_sky.profiles.query import CapacityQuery, ReplicaCapacity, ReplicaShape
from melange_sky.settings import usable_cores
from melange_sky.steps import (
    Misfit,
    ReplicaModel,
    RequestSizes,
    capacity_estimates_within,
    split_replica,
)
from melange_sky.topology import linked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.models import ModelShape
    from melange_sky.profiletable import MeasuredCell
    from melange_sky.slo import SLO
    from melange_sky.steps import Generation

log = logging.getLogger(__name__)

LARGEST_TOKENS = 10_000_000


def engine_replica(
    model: ModelShape, shape: ReplicaShape, generation: str = DEFAULT_ENGINE.generation
) -> ReplicaModel | Misfit:
    """Return one of the engines that the replica is simulated as, or what keeps the model from fitting.

    A replica is `shape.split.simulated_engines` of them.
    """
    accelerator = linked(find_accelerator(shape.accelerator), shape.links)
    return split_replica(model, accelerator, shape.split, engine_generation(generation))


def replica_capacities(
    query: CapacityQuery, shapes: Sequence[ReplicaShape]
) -> tuple[ReplicaCapacity, ...]:
    """Return what each replica shape carries, in the order given.

    Raises InputError for an unknown accelerator or engine and for sizes that cannot be.
    """
    return CapacityLookup(query, shapes).capacities(shapes)


def _unfit(query: CapacityQuery, shape: ReplicaShape, reason: str) -> ReplicaCapacity:
    cell = CapacityCell.unserved(reason)
    cells = tuple(tuple(cell for _ in row) for row in query.input_sizes)
    return ReplicaCapacity(shape=shape, settings=None, cells=cells, reason=reason)


def _replica_cells(
    query: CapacityQuery,
    shape: ReplicaShape,
    estimates: _GroupCells,
    measured: Sequence[MeasuredCell],
) -> tuple[tuple[CapacityCell, ...], ...]:
    """Return the cells of a replica, shape (I × O): measured ones over estimates."""
    group, copies = estimates.group, shape.split.simulated_engines
    rates = MeasuredRates.of(measured, query, group.replica, copies) if measured else None
    of_group = iter(estimates.cells)
    rows = []
    for inputs, outputs in zip(query.input_sizes, query.output_sizes, strict=True):
        row = []
        for size in zip(inputs, outputs, strict=True):
            cell = replica_cell(next(of_group), copies)
            if rates and cell.reason != NO_TRAFFIC and sum(size) <= group.max_model_len:
                cell = rates.over(cell, size).with_levels_of(cell)
            row.append(cell)
        rows.append(tuple(row))
    return tuple(rows)


def _check(query: CapacityQuery) -> None:
    sizes = [s for matrix in (query.input_sizes, query.output_sizes) for row in matrix for s in row]
    for size in sizes:
        if not 0 <= size <= LARGEST_TOKENS:  # NaN fails too
            raise InputError(f"request sizes must lie between 0 and {LARGEST_TOKENS} tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class _GroupCells:
    """One group and its estimated cell per bucket, row by row."""

    group: Group
    cells: tuple[CapacityCell, ...]


Bucket = tuple[int, int]
"""Its place on the query's grid: (row, column)."""


class CapacityLookup:
    """One question's answers, which a bounded one lets simulate size by size."""

    def __init__(self, query: CapacityQuery, shapes: Iterable[ReplicaShape]) -> None:
        """Look up what tables, the closed form and earlier simulations say of these replicas.

        Simulates the rest, but for a bounded query. Raises as `replica_capacities` does.
        """
        _check(query)
        wanted = tuple(shapes)
        self._generation = engine_generation(query.generation)
        self._tables = measured_tables() if query.measured else ()
        if query.bounded and any(matching(self._tables, query, shape) for shape in wanted):
            query = dataclasses.replace(query, bounded=False)  # measured rates follow estimates
        self.query = query
        keys = sorted({group_key(shape) for shape in wanted})
        sizes = sizes_of(query)
        self._groups = {key: gpu_group(query, key, sizes, self._generation) for key in keys}
        self._estimates = _estimates(query, self._groups, sizes)
        self._cells = _looked_up(self._estimates, CellCount.of(query, len(keys)), len(keys))
        self._told: dict[GroupKey, dict[ReplicaShape, ReplicaCapacity]] = {key: {} for key in keys}

    @property
    def is_calibrated(self) -> bool:
        """Whether the user's own calibration stands behind any of it."""
        fitting = (group for group in self._groups.values() if isinstance(group, Group))
        return any(group.origin is Origin.CALIBRATED for group in fitting)

    def capacities(self, shapes: Iterable[ReplicaShape]) -> tuple[ReplicaCapacity, ...]:
        """Return what replicas carry by what is known now, in the order given."""
        asked = [(group_key(shape), shape) for shape in shapes]
        new = {key for key, shape in asked if shape not in self._told[key]}
        found = {key: self.of_group(key) for key in new}
        for key, shape in asked:
            if shape not in self._told[key]:
                self._told[key][shape] = self._capacity(shape, found[key])
        return tuple(self._told[key][shape] for key, shape in asked)

    def of_group(self, key: GroupKey) -> _GroupCells | Unfit:
        """Return what one group carries by what is known now."""
        group = self._groups[key]
        if isinstance(group, Unfit):
            return group
        return _GroupCells(group=group, cells=self._estimates[key].banded(self._cells[key]))

    def _capacity(self, shape: ReplicaShape, of_group: _GroupCells | Unfit) -> ReplicaCapacity:
        if isinstance(of_group, Unfit):
            return _unfit(self.query, shape, of_group.reason)
        measured = matching(self._tables, self.query, shape)
        return ReplicaCapacity(
            shape=shape,
            settings=_settings_of(shape, of_group.group, self._generation),
            cells=_replica_cells(self.query, shape, of_group, measured),
        )

    def take_kept(self) -> bool:
        """Put what was simulated meanwhile, for another question, in the place of bounds; whether any was."""
        news = False
        for key, estimate in self._estimates.items():
            if all(cell.origin is not Origin.BOUND for cell in self._cells[key]):
                continue
            cache = EstimateCache(estimate.group.replica, self.query.slo)
            for at, cell in enumerate(self._cells[key]):
                kept = cache.get(estimate.size(at)) if cell.origin is Origin.BOUND else None
                if kept is not None:
                    self._cells[key][at], news = kept, True
                    self._told[key].clear()
        return news

    def simulate(self, asked: Iterable[tuple[ReplicaShape, Bucket]]) -> None:
        """Simulate sizes of which only a bound is known, on all cores, and keep what comes out."""
        columns = len(self.query.input_sizes[0])
        places = sorted({(group_key(shape), i * columns + j) for shape, (i, j) in asked})
        left = [(key, at) for key, at in places if self._cells[key][at].origin is Origin.BOUND]
        if not left:
            return
        with _pool(len(left)) as pool:
            found = list(pool.map(lambda place: self._estimates[place[0]].simulate(place[1]), left))
        for key in dict.fromkeys(key for key, _ in left):
            estimate = self._estimates[key]
            cache = EstimateCache(estimate.group.replica, self.query.slo)
            self._told[key].clear()
            for (other, at), cell in zip(left, found, strict=True):
                if other == key:
                    self._cells[key][at] = cell
                    cache.put(estimate.size(at), cell)
            cache.save()


MOST_THREADS = 2
"""63 % of a search's processor time is Python's own, of which one thread has the turn at a time: with two threads that
is what is waited for, and more could not end sooner on any machine."""


def _pool(tasks: int) -> ThreadPoolExecutor:
    """Return threads for so many simulations: the compiled simulator lets others run."""
    return ThreadPoolExecutor(max_workers=min(tasks, usable_cores(), MOST_THREADS))


def _looked_up(
    estimates: Mapping[GroupKey, GroupEstimates], count: CellCount, groups: int
) -> dict[GroupKey, list[CapacityCell]]:
    """Return the bare cells of each group that fits."""
    settled = {key: estimate.settled() for key, estimate in estimates.items()}
    cells = {
        key: [cell for cell in row if cell is not None]
        for key, row in settled.items()
        if None not in row
    }
    left = [key for key in settled if key not in cells]
    count.add(count.total // max(groups, 1) * (groups - len(left)))
    log.info(
        "capacities of %d GPU groups: %d from tables, formulas and the cache, %d to simulate",
        groups,
        groups - len(left),
        len(left),
    )
    for accelerator, split, _ in left:
        log.debug("to simulate: %s in %s", accelerator, split.label)
    if left:
        asked = _bounded([estimates[key] for key in left])
        with _pool(len(left)) as pool:
            rows = [settled[key] for key in left]
            simulated = pool.map(lambda one, row: one.simulated(row, count), asked, rows)
            cells.update(zip(left, map(list, simulated), strict=True))
    return cells


def _estimates(
    query: CapacityQuery, groups: Mapping[GroupKey, Group | Unfit], sizes: RequestSizes
) -> dict[GroupKey, GroupEstimates]:
    fitting = {key: group for key, group in groups.items() if isinstance(group, Group)}
    replicas = [group.replica for group in fitting.values()]
    slos, wanted = _slos_of_levels(query), _wanted(query, sizes)
    # The last of them are late: that others beside them wait is what is held against the limits.
    found = capacity_estimates_within(
        replicas,
        sizes.of(wanted),
        (query.slo, *slos.values()),
        patient=(len(slos),) if slos else (),
    )
    analytic, *others = ([row.spread(wanted) for row in rows] for rows in found)
    levels = dict(zip(slos, others, strict=True))
    return {
        key: GroupEstimates(
            query=query,
            group=group,
            sizes=sizes,
            analytic=estimate,
            levels={level: rows[k] for level, rows in levels.items()},
        )
        for k, ((key, group), estimate) in enumerate(zip(fitting.items(), analytic, strict=True))
    }


def _bounded(estimates: Sequence[GroupEstimates]) -> Sequence[GroupEstimates]:
    """Return estimates of a bounded query with the most that simulation could find of each size."""
    if not estimates[0].query.bounded:
        return estimates
    query, sizes = estimates[0].query, estimates[0].sizes
    wanted, slos = _wanted(query, sizes), slos_of_bounds(query.slo)
    found = capacity_estimates_within(
        [estimate.group.replica for estimate in estimates], sizes.of(wanted), slos
    )
    ends = zip(*([row.spread(wanted) for row in rows] for rows in found), strict=True)
    return [
        dataclasses.replace(estimate, bounds=upper_bounds(estimate.analytic, *end))
        for estimate, end in zip(estimates, ends, strict=True)
    ]


def _wanted(query: CapacityQuery, sizes: RequestSizes) -> NDArray[np.bool_]:
    """Return which buckets have traffic, row by row."""
    if query.needed is None:
        return np.ones(len(sizes.input_tokens), dtype=np.bool_)
    return np.array([is_needed for row in query.needed for is_needed in row], dtype=np.bool_)


def _slos_of_levels(query: CapacityQuery) -> dict[float, SLO]:
    """Return the SLOs of the levels beside the target, where they are asked for, best effort last."""
    target = query.slo.attainment
    above = levels_above(target) if query.levels else ()
    asked = (*levels_below(target)[1:], *above) if above else ()
    slos = {level: dataclasses.replace(query.slo, attainment=level) for level in asked}
    if slos:
        slos[BEST_EFFORT] = query.slo
    return slos


def _settings_of(shape: ReplicaShape, group: Group, generation: Generation) -> EngineSettings:
    """Return how each engine is started: what is simulated of a pipeline is one of its batches."""
    pipeline = shape.pipeline_parallel
    return EngineSettings(
        tensor_parallel=shape.tensor_parallel,
        data_parallel=shape.data_parallel,
        max_model_len=group.max_model_len,
        max_num_seqs=group.replica.max_num_seqs * pipeline,
        gpu_memory_utilization=generation.schedule.gpu_memory_utilization,
        kv_cache_tokens=group.replica.pool.tokens_at(group.max_model_len) * pipeline,
        dtype=None,
        pipeline_parallel=pipeline,
        expert_parallel=shape.expert_parallel,
        nodes=shape.nodes,
    )


def sizes_of(query: CapacityQuery) -> RequestSizes:
    """Return all buckets, row by row, in whole tokens; sizes below one token count as one."""
    flat = (
        np.array(m, dtype=np.float64).reshape(-1) for m in (query.input_sizes, query.output_sizes)
    )
    inputs, outputs = (np.maximum(np.round(sizes), 1.0) for sizes in flat)
    return RequestSizes(input_tokens=inputs, output_tokens=outputs)
