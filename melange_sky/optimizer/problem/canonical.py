"""The problem in canonical form: columns (one per option) and buckets, in an order of their own.

Whatever order demands and options arrive in, they are sorted by name here, so that the same input
always builds the same program and yields the same plan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

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


Loads = tuple[float | None, ...]
"""Instances that each bucket's whole rate fills, None where it cannot be served so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One option of one demand.

    `loads` holds, per bucket of the demand, the instances that its whole rate would fill at raw
    capacity (derated on spot), None where the option cannot serve it in time. `late_loads` are the same
    for each late way (`Demand.late_levels`), None where that is no way to serve the bucket, and `weights`
    what a request of each way counts as missed, 0 in time. `place` is the column's among all that were
    not dominated: it settles ties, whichever columns a program then holds.
    """

    demand: int
    capacity: OptionCapacity
    loads: Loads
    late_loads: tuple[Loads, ...] = ()
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
    def ways(self) -> tuple[Loads, ...]:
        """Its loads by way: in time, then late."""
        return (self.loads, *self.late_loads)

    @property
    def may_be_late(self) -> bool:
        """Whether it can serve any bucket late."""
        return any(load is not None for loads in self.late_loads for load in loads)

    @property
    def least_loads(self) -> Loads:
        """The least that each bucket fills, in whatever way."""
        if not self.late_loads:
            return self.loads
        return tuple(
            min((v for v in of_bucket if v is not None), default=None)
            for of_bucket in zip(*self.ways, strict=True)
        )

    @property
    def most_load(self) -> float:
        """What all buckets fill that it can serve, each in the way that fills most."""
        if not self.late_loads:
            return sum(v for v in self.loads if v)
        return sum(max(v or 0.0 for v in of_bucket) for of_bucket in zip(*self.ways, strict=True))

    def serves(self) -> bool:
        """Return whether it can serve any bucket at all."""
        return any(load is not None for loads in self.ways for load in loads)

    def units(self, key: LimitKey) -> int:
        """Return what one instance counts against the limit `key`: GPUs, an instance, or nothing."""
        return self.capacity.option.units(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canonical:
    """A problem's columns and buckets. `demands` are sorted by name; both lists follow them."""

    demands: tuple[Demand, ...]
    buckets: tuple[tuple[Bucket, ...], ...]
    columns: tuple[Column, ...]

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
        by_way = self.loads_by_way(indices)
        least: NDArray[np.float64] = by_way.min(axis=1) if by_way.size else by_way
        return least

    def loads_by_way(self, indices: Sequence[int]) -> NDArray[np.float64]:
        """Return the loads of columns of one demand, (columns × ways × buckets), inf: not so."""
        if not indices:
            return np.empty((0, 1, 0))
        of_columns = [self.columns[k].ways for k in indices]
        return np.stack([_matrix(list(rows)) for rows in zip(*of_columns, strict=True)], axis=1)

    def placed(self) -> Canonical:
        """Return the same problem with its columns' places counted from 0."""
        columns = tuple(replace(column, place=k) for k, column in enumerate(self.columns))
        return replace(self, columns=columns)

    def keep(self, indices: Iterable[int]) -> Canonical:
        """Return the same problem with only these columns."""
        return Canonical(
            demands=self.demands,
            buckets=self.buckets,
            columns=tuple(self.columns[k] for k in sorted(indices)),
        )


def _matrix(rows: list[Loads]) -> NDArray[np.float64]:
    return np.array([[np.inf if v is None else v for v in row] for row in rows])


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
        columns += [
            _column(d, demand, capacity, buckets[d], problem.constraints)
            for capacity in sorted(demand.options, key=lambda c: c.option.name)
        ]
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
    if all(v is None or v <= 10 * MOST_INSTANCES for loads in column.ways for v in loads):
        return column
    late = tuple(_sane(loads) for loads in column.late_loads)
    return replace(column, loads=_sane(column.loads), late_loads=late)


def _sane(loads: Loads) -> Loads:
    return tuple(v if v is None or v <= 10 * MOST_INSTANCES else None for v in loads)


def _column(
    d: int,
    demand: Demand,
    capacity: OptionCapacity,
    buckets: tuple[Bucket, ...],
    constraints: Constraints,
) -> Column:
    option = capacity.option
    derate = constraints.available_fraction(use_spot=option.use_spot, nodes=option.nodes)

    def load(bucket: Bucket, rate: float | None) -> float | None:
        if rate is None or not math.isfinite(rate) or rate <= 0:
            return None
        return max(bucket.rate_rps / (rate * derate), LEAST_LOAD)

    cells = [capacity.cells[b.i][b.j] for b in buckets]
    rates = [[demand.rate(capacity, b.i, b.j) for b in buckets]]
    rates += [[cell.at(level) for cell in cells] for level in demand.late_levels]
    ways = [tuple(map(load, buckets, of_way)) for of_way in rates]
    return Column(
        demand=d,
        capacity=capacity,
        loads=ways[0],
        late_loads=tuple(_wanted(ways, way) for way in range(1, len(ways))),
        weights=tuple(demand.way_weight(way) for way in range(len(ways))),
    )


def _wanted(ways: Sequence[Loads], way: int) -> Loads:
    """Return a late way's loads where they are less than those of every way that misses less."""
    better = [ways[0], *ways[way + 1 :]]
    return tuple(
        None if v is None or any(o is not None and o <= v for o in others) else v
        for v, *others in zip(ways[way], *better, strict=True)
    )


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
    columns = [canonical.columns[k] for k in canonical.of_demand(d)]
    demand, buckets = canonical.demands[d], canonical.buckets[d]
    late = [b for b, _ in enumerate(buckets) if all(c.loads[b] is None for c in columns)]
    bad = [b for b in late if all(column.least_loads[b] is None for column in columns)]
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
    pairs = zip(column.weights, column.ways, strict=True)
    return [weight for weight, loads in pairs if loads[b] is not None]


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
