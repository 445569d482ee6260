"""From whole instances to shares: who serves what, with the slack spread evenly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pulp

from melange_sky.optimizer.model import SHARE_CONSTRAINTS, build_model
from melange_sky.optimizer.program import load_terms
from melange_sky.optimizer.solver import run
from melange_sky.plan import Allocation

if TYPE_CHECKING:
    from melange_sky.optimizer.fleet import Fleet
    from melange_sky.optimizer.problem import Problem, SolveOptions
    from melange_sky.optimizer.program import Model

TOLERANCE = 1e-6
"""Load above capacity, as a fraction of it, that is rounding and not overload."""

Shares = dict[tuple[int, int], float]
"""Share of bucket b (numbered over all demands) on column k."""


def peak_load(
    fleet: Fleet,
    problem: Problem,
    options: SolveOptions,
    instances: list[int],
    only: frozenset[str] = SHARE_CONSTRAINTS,
) -> float | None:
    """Return the least possible highest load ÷ instances, None where these cannot serve at all."""
    model = _peak_model(fleet, problem, options, instances, only)
    return None if model is None else model[2]


def spread(
    fleet: Fleet, problem: Problem, options: SolveOptions, instances: list[int]
) -> Shares | None:
    """Return the shares that make the highest load fraction least; of those, the cheapest loads.

    So no replica is full while another idles. None where these instances cannot serve at all.
    """
    found = _peak_model(fleet, problem, options, instances, SHARE_CONSTRAINTS)
    if found is None:
        return None
    model, used, peak = found
    before = read_shares(model)
    model.lp.variablesDict()["peak"].upBound = peak * (1 + TOLERANCE / 100)
    model.lp.setObjective(
        pulp.LpAffineExpression(
            [
                (model.y[model.offsets[column.demand] + b, k], value * column.price)
                for k, column in enumerate(model.fleet.columns)
                for b, value in enumerate(column.loads)
                if value is not None
            ]
        )
    )
    second = run(model.lp, options, options.time_limit_s)
    shares = read_shares(model) if second.status == "optimal" else before
    return {(b, used[k]): share for (b, k), share in shares.items()}


def _peak_model(
    fleet: Fleet,
    problem: Problem,
    options: SolveOptions,
    instances: list[int],
    only: frozenset[str],
) -> tuple[Model, list[int], float] | None:
    """Solve: min peak with load_k ≤ peak × instances_k, over the columns in use."""
    used = [k for k, count in enumerate(instances) if count > 0]
    small = fleet.keep(used)
    if any(
        all(c.loads[b] is None for c in small.columns if c.demand == d)
        for d, buckets in enumerate(small.buckets)
        for b in range(len(buckets))
    ):
        return None
    model = build_model(small, problem, options, only=only)
    peak = model.lp.add_variable("peak", 0)
    for k in range(len(used)):
        terms = [*load_terms(model, model.y, k, "peak"), (peak, -float(instances[used[k]]))]
        model.row(terms, pulp.LpConstraintLE, 0, f"peak_option_{k}")
    model.lp.setObjective(pulp.LpAffineExpression([(peak, 1.0)]))
    if not model.y:
        return model, used, 0.0
    outcome = run(model.lp, options, options.time_limit_s)
    if outcome.status != "optimal" or outcome.objective is None:
        return None
    return model, used, outcome.objective


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
