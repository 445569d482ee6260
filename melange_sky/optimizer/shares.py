"""From whole instances to shares: who serves what, slack spread evenly, and the final re-check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pulp

from melange_sky.optimizer.model import SHARE_CONSTRAINTS, build_model
from melange_sky.optimizer.solver import run
from melange_sky.plan import Allocation

if TYPE_CHECKING:
    from melange_sky.optimizer.fleet import Fleet
    from melange_sky.optimizer.model import Model
    from melange_sky.optimizer.problem import Problem, SolveOptions

TOLERANCE = 1e-6
"""Load above capacity, in instances, that is rounding and not overload."""

Shares = dict[tuple[int, int], float]
"""Share of bucket b (numbered over all demands) on column k."""


def spread(
    fleet: Fleet, problem: Problem, options: SolveOptions, instances: list[int]
) -> tuple[list[int], Shares, float] | None:
    """Return the columns in use, the shares on them, and the highest load ÷ instances.

    The shares make the highest load fraction least, so that no replica is full while another idles;
    among those, the loads that cost least. None where these instances cannot serve at all.
    """
    used = [k for k, count in enumerate(instances) if count > 0]
    model = build_model(fleet.keep(used), problem, options, only=SHARE_CONSTRAINTS)
    peak = model.lp.add_variable("peak", 0)
    loads = []
    for k, column in enumerate(model.fleet.columns):
        start = model.offsets[column.demand]
        load = [
            (model.y[start + b, k], value / model.slices)
            for b, value in enumerate(column.loads)
            if value is not None
        ]
        loads.append(load)
        terms = [*load, (peak, -float(instances[used[k]]))]
        model.row(terms, pulp.LpConstraintLE, 0, f"peak_option_{k}")
    model.lp.setObjective(pulp.LpAffineExpression([(peak, 1.0)]))
    first = run(model.lp, options, options.time_limit_s)
    if first.status != "optimal" or first.objective is None:
        return None
    peak.upBound = first.objective + TOLERANCE / 100
    model.lp.setObjective(
        pulp.LpAffineExpression(
            [
                (y, value * column.price)
                for load, column in zip(loads, model.fleet.columns, strict=True)
                for y, value in load
            ]
        )
    )
    before = read_shares(model)
    second = run(model.lp, options, options.time_limit_s)
    shares = read_shares(model) if second.status == "optimal" else before
    return used, {(b, used[k]): share for (b, k), share in shares.items()}, first.objective


def read_shares(model: Model) -> Shares:
    """Return the shares that a solved model holds, cleaned of rounding: each bucket's sum to 1."""
    raw = {
        key: value / model.slices
        for key, y in model.y.items()
        if (value := y.varValue or 0.0) > 1e-9 * model.slices
    }
    total: dict[int, float] = {}
    for (b, _), share in raw.items():
        total[b] = total.get(b, 0.0) + share
    return {(b, k): share / total[b] for (b, k), share in raw.items()}


def column_loads(fleet: Fleet, offsets: list[int], shares: Shares) -> list[float]:
    """Return each column's load in instances at raw capacity (derated on spot)."""
    loads = [0.0] * len(fleet.columns)
    for (b, k), share in shares.items():
        column = fleet.columns[k]
        loads[k] += share * (column.loads[b - offsets[column.demand]] or 0.0)
    return loads


def to_allocations(
    fleet: Fleet, offsets: list[int], instances: list[int], fixed: list[int], shares: Shares
) -> tuple[tuple[Allocation, ...], ...]:
    """Return the allocations per demand, in the fleet's order."""
    result: list[list[Allocation]] = [[] for _ in fleet.demands]
    for k, column in enumerate(fleet.columns):
        if instances[k] == 0:
            continue
        start, workload = offsets[column.demand], fleet.demands[column.demand].workload
        grid = [[0.0] * len(row) for row in workload.rates_rps]
        rate_rps = load = 0.0
        for b, bucket in enumerate(fleet.buckets[column.demand]):
            share = shares.get((start + b, k), 0.0)
            if share > 0:
                grid[bucket.i][bucket.j] = share
                rate_rps += share * bucket.rate_rps
                raw = column.capacity.rate(bucket.i, bucket.j) or float("nan")
                load += share * bucket.rate_rps / raw
        result[column.demand].append(
            Allocation(
                option=column.capacity,
                instances=instances[k],
                load_fraction=load / instances[k],
                rate_rps=rate_rps,
                shares=tuple(map(tuple, grid)),
                fixed_instances=fixed[k],
            )
        )
    return tuple(map(tuple, result))
