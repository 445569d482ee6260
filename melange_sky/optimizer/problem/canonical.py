"""The problem in canonical form: columns (one per option) and buckets, in an order of their own.

Whatever order demands and options arrive in, they are sorted by name here, so that the same input
always builds the same program and yields the same plan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.errors import InfeasibleError, InputError
from melange_sky.optimizer.deadline import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from melange_sky.capacities import OptionCapacity
    from melange_sky.constraints import Constraints
    from melange_sky.names.limits import LimitKey
    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.optimizer.problem.question import Demand, Problem

MAX_NAMED = 4
"""How many buckets or reasons a message names before it says how many more there are."""

LEAST_LOAD = 1e-6
"""No bucket counts as less of an instance: below the solver's tolerance nothing would serve it."""

ROUNDING = 1e-9
"""Two fractions of the requests so near are the same."""

MOST_INSTANCES = 1e7
"""A fleet beyond this is a slip in a rate or throughput; far beyond it the solver's arithmetic ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One bucket with a positive rate: its demand and its place on that demand's grid."""

    demand: int
    i: int
    j: int
    rate_rps: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Column:
    """One option of one demand.

    `loads`, (ways × buckets of the demand), are the instances that each bucket's whole rate would fill at
    raw capacity (derated on spot), inf where the option cannot serve it so. The first way is in time, the
    others are the late ones (`Demand.late_levels`) where they fill less than every way that misses less;
    `weights` are what a request of each way counts as missed. `place` is the column's among all that were
    not dominated: it settles ties, whichever columns a program then holds.
    """

    demand: int
    capacity: OptionCapacity
    loads: NDArray[np.float64]
    weights: tuple[float, ...] = (0.0,)
    place: int = 0

    @property
    def name(self) -> str:
        """The option's name."""
        return self.capacity.option.name

    @property
    def price(self) -> float:
        """USD per instance-hour."""
        return self.capacity.option.price_usd_per_hour

    @property
    def nodes(self) -> int:
        """Instances of the cloud that each counted one takes."""
        return self.capacity.option.nodes

    @property
    def gpus(self) -> int:
        """GPUs per instance of the option."""
        return self.capacity.option.gpus

    @property
    def cloud(self) -> str | None:
        """The cloud, None for a free label."""
        offer = self.capacity.option.offer
        return None if offer is None else offer.cloud

    @property
    def region(self) -> str | None:
        """``cloud/region``, None for a free label."""
        offer = self.capacity.option.offer
        return None if offer is None else f"{offer.cloud}/{offer.region}"

    @property
    def use_spot(self) -> bool:
        """Whether its instances are spot."""
        return self.capacity.option.use_spot

    @property
    def ways(self) -> range:
        """The ways in which it may serve a bucket: 0 in time, from 1 on late."""
        return range(len(self.loads))

    def served(self) -> Iterator[tuple[int, int, float]]:
        """Yield each way, bucket and load that it can serve so."""
        ways, buckets = np.nonzero(np.isfinite(self.loads))
        loads = self.loads[ways, buckets]
        return zip(ways.tolist(), buckets.tolist(), loads.tolist(), strict=True)

    @property
    def may_be_late(self) -> bool:
        """Whether it can serve any bucket late."""
        return bool(np.isfinite(self.loads[1:]).any())

    @property
    def least_loads(self) -> NDArray[np.float64]:
        """The least that each bucket fills, in whatever way."""
        least: NDArray[np.float64] = self.loads.min(axis=0)
        return least

    @property
    def most_load(self) -> float:
        """What all buckets fill that it can serve, each in the way that fills most."""
        return float(np.where(np.isfinite(self.loads), self.loads, 0.0).max(axis=0).sum())

    def serves(self) -> bool:
        """Return whether it can serve any bucket at all."""
        return bool(np.isfinite(self.loads).any())

    def units(self, key: LimitKey) -> int:
        """Return what one instance counts against the limit `key`: GPUs, an instance, or nothing."""
        return self.capacity.option.units(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canonical:
    """A problem's columns and buckets, after `demands` sorted by name; `learned` is what `Waste.of` found out, by headroom."""

    demands: tuple[Demand, ...]
    buckets: tuple[tuple[Bucket, ...], ...]
    columns: tuple[Column, ...]
    learned: dict[float, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of_demand(self, demand: int) -> list[int]:
        """Return the indices of a demand's columns."""
        return [k for k, column in enumerate(self.columns) if column.demand == demand]

    def covers(self) -> bool:
        """Return whether every bucket has a column that can serve it."""
        return all(
            np.isfinite(self.least_loads(self.of_demand(d)).reshape(-1, len(buckets))).any(0).all()
            for d, buckets in enumerate(self.buckets)
            if buckets
        )

    def least_loads(self, indices: Sequence[int]) -> NDArray[np.float64]:
        """Return the loads of columns of one demand, (columns × buckets), inf: cannot serve.

        Each bucket's in the way that fills least.
        """
        least: NDArray[np.float64] = self.loads_by_way(indices).min(axis=1)
        return least

    def loads_by_way(self, indices: Sequence[int]) -> NDArray[np.float64]:
        """Return the loads of columns of one demand, (columns × ways × buckets), inf: not so."""
        if not indices:
            return np.empty((0, 1, 0))
        return np.array([self.columns[k].loads for k in indices])

    def placed(self) -> Canonical:
        """Return the same problem with its columns' places counted from 0."""
        columns = tuple(replace(column, place=k) for k, column in enumerate(self.columns))
        return replace(self, columns=columns)

    def keep(self, indices: Iterable[int]) -> Canonical:
        """Return the same problem with only these columns."""
        return replace(self, columns=tuple(self.columns[k] for k in sorted(indices)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unserved:
    """Buckets (i, j) of one model that no option serves, and in words why."""

    model: str
    buckets: tuple[tuple[int, int], ...]
    text: str


def canonical_form(problem: Problem, deadline: Deadline = NEVER) -> Canonical:
    """Sort a problem, whose figures were looked at, into columns and buckets.

    Raises InputError for a rate beyond any fleet, InfeasibleError for a bucket that no option serves
    at all (its causes are `Unserved`), TimeUpError.
    """
    demands = tuple(sorted(problem.demands, key=lambda demand: demand.name))
    buckets = tuple(
        tuple(
            Bucket(demand=d, i=i, j=j, rate_rps=demand.workload.rates_rps[i][j])
            for i, j in demand.workload.buckets()
        )
        for d, demand in enumerate(demands)
    )
    columns: list[Column] = []
    for d, demand in enumerate(demands):
        deadline.check()
        columns += _columns(d, demand, buckets[d], problem.constraints)
    canonical = Canonical(demands=demands, buckets=buckets, columns=tuple(columns))
    unserved = [cause for d in range(len(demands)) if (cause := _unserved(canonical, d))]
    if unserved:
        raise InfeasibleError("; ".join(cause.text for cause in unserved), causes=unserved)
    deadline.check()
    return _of_sane_size(canonical)


def _of_sane_size(canonical: Canonical) -> Canonical:
    """Refuse a problem of absurd size; leave out what a column could serve only with one."""
    for d, demand in enumerate(canonical.demands):
        by_option = canonical.least_loads(canonical.of_demand(d))
        if by_option.size and not float(by_option.min(axis=0).sum()) <= MOST_INSTANCES:
            raise InputError(
                f"model '{demand.name[:80]}': {demand.workload.rate_rps:g} req/s would take over "
                f"{MOST_INSTANCES:,.0f} instances; check its rate and the throughputs"
            )
    return replace(canonical, columns=tuple(map(_of_sane_loads, canonical.columns)))


def _of_sane_loads(column: Column) -> Column:
    absurd = np.isfinite(column.loads) & (column.loads > 10 * MOST_INSTANCES)
    if not absurd.any():
        return column
    return replace(column, loads=np.where(absurd, np.inf, column.loads))


def _columns(
    d: int, demand: Demand, buckets: tuple[Bucket, ...], constraints: Constraints
) -> list[Column]:
    capacities = sorted(demand.options, key=lambda c: c.option.name)
    levels = (demand.level, *demand.late_levels)
    weights = tuple(demand.way_weight(way) for way in range(len(levels)))
    if not capacities:
        return []
    alike = {id(c.cells): c for c in capacities}  # the same replica in several places
    grids = {key: [c.rates(level) for level in levels] for key, c in alike.items()}
    rates = np.array([grids[id(c.cells)] for c in capacities])
    rates = rates[:, :, [b.i for b in buckets], [b.j for b in buckets]]
    derated = np.array(
        [
            constraints.available_fraction(use_spot=c.option.use_spot, nodes=c.option.nodes)
            for c in capacities
        ]
    )
    rates *= derated[:, None, None]
    able = np.isfinite(rates) & (rates > 0)
    wanted = np.broadcast_to(np.array([b.rate_rps for b in buckets]), rates.shape)
    loads = np.full(rates.shape, np.inf)
    np.divide(wanted, rates, out=loads, where=able)
    loads = _without_needless_ways(np.maximum(loads, LEAST_LOAD))
    return [
        Column(demand=d, capacity=capacity, loads=own, weights=weights)
        for capacity, own in zip(capacities, loads, strict=True)
    ]


def _without_needless_ways(loads: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return loads, (columns × ways × buckets), inf in late ways that fill no less than a way that misses less."""
    kept: NDArray[np.float64] = loads.copy()
    for way in range(1, loads.shape[1]):
        better = np.concatenate((loads[:, :1], loads[:, way + 1 :]), axis=1).min(axis=1)
        kept[:, way][better <= loads[:, way]] = np.inf
    return kept


def figure_problems(problem: Problem) -> Iterator[str]:
    """Yield what makes a plan impossible whatever the rules: names given twice, absurd figures."""
    names = [demand.name for demand in problem.demands]
    if len(set(names)) != len(names):
        yield "two models of one problem have the same name"
    if not 0 <= problem.headroom < 1:
        yield f"headroom must be at least 0 and below 1, not {problem.headroom:g}"
    for demand in problem.demands:
        options = [capacity.option for capacity in demand.options]
        if len({option.name for option in options}) != len(options):
            yield f"model '{demand.name[:80]}' has two options of the same name"
        for option in options:
            if not (math.isfinite(option.price_usd_per_hour) and option.price_usd_per_hour > 0):
                yield f"option '{option.name[:80]}' has no usable price"
        if not math.isfinite(demand.workload.rate_rps):
            yield f"model '{demand.name[:80]}' has a rate that is not finite"


def _unserved(canonical: Canonical, d: int) -> Unserved | None:
    """Return the buckets of a demand that no option serves, with the reasons, None where all are.

    Where more would be late everywhere than may be, those count as unserved.
    """
    indices = canonical.of_demand(d)
    columns = [canonical.columns[k] for k in indices]
    demand, buckets = canonical.demands[d], canonical.buckets[d]
    able = np.asarray(np.isfinite(canonical.loads_by_way(indices)).any(axis=0))
    late = np.flatnonzero(~able[0]).tolist() if columns else list(range(len(buckets)))
    bad = [b for b in late if not able[:, b].any()] if columns else late
    fraction = sum(
        buckets[b].rate_rps * min((w for c in columns for w in _weights(c, b)), default=1.0)
        for b in late
    ) / (demand.workload.rate_rps or 1.0)
    excess = ""
    if not bad and fraction > demand.may_miss_fraction * (1 + ROUNDING) + ROUNDING:
        bad = late
        excess = (
            f"; they would come to {fraction:.3%} of the requests, where slo.attainment "
            f"{demand.target:g} leaves {demand.may_miss_fraction:.3%} to sizes that are late everywhere"
        )
    if not bad:
        return None
    who = f"model '{demand.name[:80]}': " if len(canonical.demands) > 1 else ""
    labels = [f"({demand.workload.label(buckets[b].i, buckets[b].j)})" for b in bad[:MAX_NAMED]]
    more = f" and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
    text = f"no option serves {', '.join(labels)}{more}: {_reasons(columns, buckets, bad)}"
    if not columns:
        text = "no option to choose from (no offer matches the resources)"
    places = tuple((buckets[b].i, buckets[b].j) for b in bad)
    return Unserved(model=demand.name, buckets=places, text=who + text + excess)


def _weights(column: Column, b: int) -> list[float]:
    """Return what a request of a bucket counts as missed in each way that the column has to serve it."""
    able = np.isfinite(column.loads[:, b]).tolist()
    return [weight for weight, is_able in zip(column.weights, able, strict=True) if is_able]


def _reasons(columns: list[Column], buckets: tuple[Bucket, ...], bad: list[int]) -> str:
    by_reason: dict[str, list[str]] = {}
    for column in columns:
        cell = column.capacity.cells[buckets[bad[0]].i][buckets[bad[0]].j]
        option = column.capacity.option
        accelerators = by_reason.setdefault(cell.reason or "its capacity there is unknown", [])
        label = option.accelerators
        if label not in accelerators:
            accelerators.append(label)
    parts = [f"{', '.join(names[:8])} ({reason})" for reason, names in sorted(by_reason.items())]
    more = f"; {len(parts) - MAX_NAMED} more reasons" if len(parts) > MAX_NAMED else ""
    return "; ".join(parts[:MAX_NAMED]) + more
