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

MOST_INSTANCES = 1e7
"""A fleet beyond this is a slip in a rate or throughput; far beyond it the solver's arithmetic ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One bucket with a positive rate: its demand and its place on that demand's grid."""

    demand: int
    i: int
    j: int
    rate_rps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One option of one demand.

    `loads` holds, per bucket of the demand, the instances that its whole rate would fill at raw
    capacity (derated on spot), None where the option cannot serve it. `place` is the column's
    among all that were not dominated: it settles ties, whichever columns a program then holds.
    """

    demand: int
    capacity: OptionCapacity
    loads: tuple[float | None, ...]
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

    def serves(self) -> bool:
        """Return whether it can serve any bucket at all."""
        return any(load is not None for load in self.loads)

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
            any(self.columns[k].loads[b] is not None for k in candidates)
            for d, buckets in enumerate(self.buckets)
            for candidates in [self.of_demand(d)]
            for b in range(len(buckets))
        )

    def loads(self, indices: Sequence[int]) -> NDArray[np.float64]:
        """Return the loads of columns of one demand, (columns × buckets), inf: cannot serve."""
        rows = [self.columns[k].loads for k in indices]
        return np.array([[np.inf if v is None else v for v in row] for row in rows])

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
            _column(d, capacity, buckets[d], problem.constraints)
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
        by_option = [canonical.columns[k].loads for k in canonical.of_demand(d)]
        by_bucket = zip(*by_option, strict=True)
        least = sum(min(v for v in loads if v is not None) for loads in by_bucket)
        if not least <= MOST_INSTANCES:
            raise InputError(
                f"model '{demand.name[:80]}': {demand.workload.rate_rps:g} req/s would take over "
                f"{MOST_INSTANCES:,.0f} instances; check its rate and the throughputs"
            )
    columns = tuple(
        replace(
            column,
            loads=tuple(v if v is None or v <= 10 * MOST_INSTANCES else None for v in column.loads),
        )
        for column in canonical.columns
    )
    return replace(canonical, columns=columns)


def _column(
    demand: int, capacity: OptionCapacity, buckets: tuple[Bucket, ...], constraints: Constraints
) -> Column:
    option = capacity.option
    derate = constraints.available_fraction(use_spot=option.use_spot, nodes=option.nodes)
    loads: list[float | None] = []
    for bucket in buckets:
        rate = capacity.rate(bucket.i, bucket.j)
        usable = rate is not None and math.isfinite(rate) and rate > 0
        load = bucket.rate_rps / (rate * derate) if usable and rate is not None else None
        loads.append(None if load is None else max(load, LEAST_LOAD))
    return Column(demand=demand, capacity=capacity, loads=tuple(loads))


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
    """Return the buckets of a demand that no option serves, with the reasons, None where all are."""
    columns = [canonical.columns[k] for k in canonical.of_demand(d)]
    demand, buckets = canonical.demands[d], canonical.buckets[d]
    bad = [b for b, _ in enumerate(buckets) if all(column.loads[b] is None for column in columns)]
    if not bad:
        return None
    who = f"model '{demand.name[:80]}': " if len(canonical.demands) > 1 else ""
    labels = [f"({demand.workload.label(buckets[b].i, buckets[b].j)})" for b in bad[:MAX_NAMED]]
    more = f" and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
    text = f"no option serves {', '.join(labels)}{more}: {_reasons(columns, buckets, bad)}"
    if not columns:
        text = "no option to choose from (no offer matches the resources)"
    places = tuple((buckets[b].i, buckets[b].j) for b in bad)
    return Unserved(model=demand.name, buckets=places, text=who + text)


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
