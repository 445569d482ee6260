"""What a deployment option can carry, bucket by bucket, and where each figure comes from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.names.accelerators import names_of
from melange_sky.names.limits import LimitKind
from melange_sky.parallelism import Parallelism, split_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from melange_sky.names.limits import LimitKey
    from melange_sky.offers import Offer, ReservedNodes


class Origin(str, Enum):
    """How a capacity is known, best first. `GIVEN` stands for figures the user's own file states.

    `CALIBRATED` is an estimate whose constants were fitted on a few probes of the user's own replica, `OBSERVED` one
    whose constants its own traffic told.
    `BOUND` is no estimate but the most that simulation could find: of a size that was not simulated because
    no cheapest fleet serves it so.
    """

    MEASURED = "measured"
    GIVEN = "given"
    OBSERVED = "observed"
    INTERPOLATED = "interpolated"
    CALIBRATED = "calibrated"
    ESTIMATED = "estimated"
    BOUND = "bound"


NOT_KNOWN = "not simulated: no cheapest fleet serves it so"
"""What is said of a size of which only a bound is known."""

INFERRED = frozenset({Origin.OBSERVED, Origin.CALIBRATED, Origin.ESTIMATED, Origin.BOUND})
"""Figures of the engine model, which its error bands hold for."""

_RANK = {origin: rank for rank, origin in enumerate(Origin)}


def weakest(origins: Iterable[Origin]) -> Origin | None:
    """Return the least certain of several origins, None for none."""
    return max(origins, key=_RANK.__getitem__, default=None)


BEST_EFFORT = 0.0
"""The level at which no request is counted as within its limits."""

SPENT_ABOVE = (0.2, 0.8)
"""What the levels above a target leave to other requests, as parts of the misses that it allows."""

_SAME_LEVEL = 1e-9
"""Attainments no further apart are the same one, written and read back."""


def levels_below(target: float) -> tuple[float, ...]:
    """Return the attainments below a target at which requests may be served late, lowest first.

    `BEST_EFFORT`, and half the target: for sizes that meet their limits alone, but barely.
    """
    return (BEST_EFFORT, target / 2)


def levels_above(target: float) -> tuple[float, ...]:
    """Return the attainments above a target at which capacities are asked for too, lowest first.

    Those leave room for requests that are expected to miss. None where all must be in time.

    >>> [round(level, 3) for level in levels_above(0.95)], levels_above(1.0)
    ([0.96, 0.99], ())
    """
    return tuple(target + part * (1 - target) for part in SPENT_ABOVE if target < 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityCell:
    """Highest open-loop Poisson rate of one bucket that one instance serves within the SLO.

    `max_rate_rps` is None where it cannot serve the bucket at all; then `reason` says why.
    `low_rps` … `high_rps` is the error band of the figure where one is known, that of `best_effort_rps`
    where nothing is served within the SLO. `levels` are rates at other attainments than the target's, as
    (attainment, rate); `BEST_EFFORT`, for sizes that miss their limits even alone or but barely, is the
    rate at which others beside them still meet theirs, all of them counted as missed. `alone_ttft_s` is the time to the first
    token on an idle instance, known where there are levels.
    """

    max_rate_rps: float | None
    origin: Origin | None = None
    reason: str | None = None
    low_rps: float | None = None
    high_rps: float | None = None
    levels: tuple[tuple[float, float], ...] = ()
    alone_ttft_s: float | None = None

    def at(self, attainment: float) -> float | None:
        """Return the rate at one of the levels, None where there is none."""
        for level, rate in self.levels:
            if abs(level - attainment) <= _SAME_LEVEL:
                return rate
        return None

    @property
    def best_effort_rps(self) -> float | None:
        """The rate of requests that all count as missed, None where that is not known or not wanted."""
        return self.at(BEST_EFFORT)

    def can_be_late(self, target: float) -> bool:
        """Return whether requests may be served at an attainment below the target."""
        return any(attainment < target for attainment, _ in self.levels)

    @property
    def largest_rps(self) -> float | None:
        """The highest rate of all, in time or late, None where it cannot serve the bucket."""
        rates = [rate for _, rate in self.levels]
        return max([*rates, self.max_rate_rps or 0.0]) or None

    @property
    def banded_rps(self) -> float | None:
        """The rate that `low_rps` … `high_rps` is the band of."""
        return self.best_effort_rps if self.max_rate_rps is None else self.max_rate_rps

    def scaled(self, factor: float) -> CapacityCell:
        """Return the cell with every rate times `factor`; its origin stays."""

        def times(rate: float | None) -> float | None:
            return None if rate is None else rate * factor

        return CapacityCell(
            max_rate_rps=times(self.max_rate_rps),
            origin=self.origin,
            reason=self.reason,
            low_rps=times(self.low_rps),
            high_rps=times(self.high_rps),
            levels=tuple([(a, rate * factor) for a, rate in self.levels]),
            alone_ttft_s=self.alone_ttft_s,
        )

    def with_levels_of(self, estimate: CapacityCell) -> CapacityCell:
        """Return the cell with an estimate's levels, in proportion where both are served within the SLO."""
        ours, theirs = self.max_rate_rps, estimate.max_rate_rps
        if ours is None or theirs is None:
            kept = tuple(row for row in estimate.levels if row[0] == BEST_EFFORT)
            served = () if ours is not None else kept
            return replace(self, levels=served, alone_ttft_s=estimate.alone_ttft_s)
        levels = tuple((a, rate * ours / theirs) for a, rate in estimate.levels)
        return replace(self, levels=levels, alone_ttft_s=estimate.alone_ttft_s)

    @classmethod
    def estimated(cls, rate_rps: float) -> CapacityCell:
        """Return an estimate whose band is not known yet."""
        return cls(max_rate_rps=rate_rps, origin=Origin.ESTIMATED)

    @classmethod
    def unserved(cls, reason: str) -> CapacityCell:
        """Return the cell of a bucket that cannot be served at any rate."""
        return cls(max_rate_rps=None, reason=reason)


Cells = tuple[tuple[CapacityCell, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How the engine of one replica is started: a function of option, model, SLO and grid alone.

    Never derived from the plan's rate or shares, so that two plans with the same option differ in
    `replicas` only. `max_num_seqs` sits at the option's knee; `max_model_len` is the grid's longest
    request, at most the model's context and at most what the KV cache holds. `max_num_seqs` and
    `kv_cache_tokens` are of one engine, of which there are `data_parallel`. `expert_parallel` True where
    the routed experts are spread over all of them, `nodes` the instances of one replica.
    """

    tensor_parallel: int
    data_parallel: int
    max_model_len: int
    max_num_seqs: int
    gpu_memory_utilization: float = 0.92
    kv_cache_tokens: int | None = None
    dtype: str | None = None
    pipeline_parallel: int = 1
    expert_parallel: bool = False
    nodes: int = 1

    @property
    def split(self) -> Parallelism:
        """How the replica's GPUs share the model."""
        return split_of(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentOption:
    """One way to run one replica: accelerator × count × parallelism on one priced offer.

    `name` is unique within a plan and stable between plans. `accelerator_count` is whole GPUs per
    instance that a cloud sells; a replica takes `nodes` of these, one unless its engine says more. A plan
    counts replicas and calls them instances. `price_usd_per_hour` is what one of them is billed, all nodes together.
    `offer` is None only for a Mélange JSON config, whose names are free labels. `fallbacks` are the
    same instance type in other regions where it may run too, at prices that the plan does not count on.
    `figures` names the very GPU in the accelerator table where SkyPilot's name covers several (its
    "H100" is SXM, PCIe or NVL); None: `accelerator` itself. `form` names the form in which the option holds
    the model where there are several (`plans.ModelForm`); None: the first. `reserved` are the free nodes
    of a reservation for whose sake the option keeps to their zone; None leaves zones to SkyPilot.
    """

    name: str
    accelerator: str
    accelerator_count: int
    price_usd_per_hour: float
    use_spot: bool = False
    offer: Offer | None = None
    engine: EngineSettings | None = None
    fallbacks: tuple[Offer, ...] = ()
    figures: str | None = None
    form: str | None = None
    reserved: ReservedNodes | None = None

    @property
    def gpu(self) -> str:
        """The very GPU, under its name in the accelerator table."""
        return self.figures or self.accelerator

    @property
    def places(self) -> tuple[Offer, ...]:
        """The offer of every region where it may run, that of the plan first."""
        return () if self.offer is None else (self.offer, *self.fallbacks)

    @property
    def nodes(self) -> int:
        """Instances of the cloud that one replica takes."""
        return 1 if self.engine is None else self.engine.nodes

    @property
    def gpus(self) -> int:
        """GPUs of one replica, over all its nodes."""
        return self.accelerator_count * self.nodes

    @property
    def accelerators(self) -> str:
        """Accelerator and count of an instance, and how many of these a replica takes where several."""
        one = f"{self.accelerator}:{self.accelerator_count}"
        return one if self.nodes == 1 else f"{self.nodes} nodes of {one}"

    @property
    def shape(self) -> str:
        """What a replica is, with its split and the model's form where there can be several."""
        text = self.accelerators
        if self.engine is not None and self.gpus > 1:
            text = f"{text} {self.engine.split.label}"
        return text if self.form is None else f"{text} {self.form}"

    def units(self, key: LimitKey) -> int:
        """Return what one replica counts against a limit: its GPUs, its instances, or nothing."""
        if key.kind is LimitKind.ACCELERATOR:
            return self.gpus if self.accelerator in names_of(key.name) else 0
        if self.offer is None:
            return 0
        if key.kind is LimitKind.CLOUD:
            counts = self.offer.cloud == key.name
        elif key.kind is LimitKind.REGION:
            counts = f"{self.offer.cloud}/{self.offer.region}" == key.name
        else:
            counts = self.offer.instance_type == key.name
        return self.nodes if counts else 0

    def price_in(self, place: Offer) -> float:
        """Return what a replica costs per hour in one of its places."""
        return self.nodes * (place.price(self.use_spot) or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionCapacity:
    """A deployment option and its capacity per bucket, shape (input buckets × output buckets)."""

    option: DeploymentOption
    cells: Cells
    _grids: dict[float | None, NDArray[np.float64]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def rates(self, level: float | None = None) -> NDArray[np.float64]:
        """Return the raw capacity of every bucket at an attainment, None: at the target.

        Shape (input buckets × output buckets), NaN where it cannot serve a bucket so.
        """
        if not self._grids:
            self._grids.update(_by_level(self.cells))
        if level is not None and level not in self._grids:
            known = _same_level(level, tuple(self._grids))  # other threads may add one
            self._grids[level] = self._grids.get(known, np.full_like(self._grids[None], np.nan))
        return self._grids[level]

    def largest_rates(self) -> NDArray[np.float64]:
        """Return the highest rate of every bucket, in time or late; as `rates`."""
        self.rates()
        largest: NDArray[np.float64] = np.fmax.reduce(list(self._grids.values()))
        return largest

    def rate(self, i: int, j: int) -> float | None:
        """Return the raw capacity of bucket (i, j), None where it cannot serve it."""
        return self.cells[i][j].max_rate_rps

    @property
    def has_bounds(self) -> bool:
        """Whether any figure is a mere bound of what simulation could find."""
        return any(cell.origin is Origin.BOUND for row in self.cells for cell in row)

    def with_cells(self, cells: Cells, factors: NDArray[np.float64]) -> OptionCapacity:
        """Return the option with other cells: its own rates times `factors`, (I × O), none where that is 0."""
        self.rates()
        moved, times = replace(self, cells=cells), np.where(factors > 0, factors, np.nan)
        moved._grids.update({level: grid * times for level, grid in self._grids.items()})
        return moved

    def without_bounds(self) -> OptionCapacity:
        """Return the option serving nothing at sizes of which only a bound is known."""
        if not self.has_bounds:
            return self
        unknown = CapacityCell.unserved(NOT_KNOWN)
        cells = tuple(
            tuple(unknown if cell.origin is Origin.BOUND else cell for cell in row)
            for row in self.cells
        )
        return replace(self, cells=cells)


def _by_level(cells: Cells) -> dict[float | None, NDArray[np.float64]]:
    """Return the rates of cells at the target (None) and at each level, NaN where there is none."""
    flat = [cell for row in cells for cell in row]
    found: dict[float | None, list[float | None]] = {None: [cell.max_rate_rps for cell in flat]}
    for n, cell in enumerate(flat):
        for level, rate in cell.levels:
            known = level if level in found else _same_level(level, found)
            if known not in found:
                found[known] = [None] * len(flat)
            found[known][n] = rate
    shape = len(cells), -1
    return {
        level: np.array(rates, dtype=np.float64).reshape(shape) for level, rates in found.items()
    }


def _same_level(level: float, known: Iterable[float | None]) -> float:
    """Return the level among known ones that it is but for rounding, else itself."""
    return next((k for k in known if k is not None and abs(k - level) <= _SAME_LEVEL), level)
