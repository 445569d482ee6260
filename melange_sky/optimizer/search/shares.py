"""From whole instances to shares: who serves what, with the slack spread evenly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.program.linear import LE
from melange_sky.optimizer.program.run import run
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.build import build_program
from melange_sky.optimizer.rules.registry import SHARE_RULES
from melange_sky.optimizer.rules.serving import Load
from melange_sky.plans import Allocation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.program.run import Outcome
    from melange_sky.workload import Matrix

TOLERANCE = 1e-6
"""Load above capacity, as a fraction of it, that is rounding and not overload."""

Shares = dict[tuple[int, int], float]
"""Share of bucket b (numbered over all demands) on column k."""


def peak_load(
    canonical: Canonical,
    problem: Problem,
    options: SolveOptions,
    instances: list[int],
    only: frozenset[str] = SHARE_RULES,
) -> float | None:
    """Return the least possible highest load ÷ instances, None where these cannot serve at all.

    Raises TimeUpError.
    """
    solved = _peak_program(canonical, problem, options, instances, only)
    if solved is None:
        return None
    return 0.0 if solved[2] is None else solved[2].objective


def peak_shares(
    canonical: Canonical,
    problem: Problem,
    options: SolveOptions,
    instances: list[int],
    only: frozenset[str] = SHARE_RULES,
) -> Shares | None:
    """Return shares with the least possible highest load, None where these cannot serve at all.

    Raises TimeUpError.
    """
    solved = _peak_program(canonical, problem, options, instances, only)
    if solved is None:
        return None
    program, used, outcome = solved
    values = () if outcome is None else outcome.values
    return _in_whole(used, read_shares(program, values)) if values else {}


def spread(
    canonical: Canonical, problem: Problem, options: SolveOptions, instances: list[int]
) -> Shares | None:
    """Return the shares that make the highest load fraction least; of those, the cheapest loads.

    So no replica is full while another idles. None where these instances cannot serve at all.
    Raises TimeUpError.
    """
    solved = _peak_program(canonical, problem, options, instances, SHARE_RULES)
    if solved is None:
        return None
    program, used, outcome = solved
    if outcome is None:
        return {}
    lp, columns = program.lp, program.canonical.columns
    # The peak is the last column of the program; its goal was the peak alone.
    lp.upper[-1] = (outcome.objective or 0.0) * (1 + TOLERANCE / 100)
    lp.goal = [
        (program.y[program.offsets[column.demand] + b, k], value * column.price)
        for k, column in enumerate(columns)
        for b, value in enumerate(column.loads)
        if value is not None
    ]
    second = run(lp, options)
    best = second if second.termination is Termination.OPTIMAL else outcome
    return _in_whole(used, read_shares(program, best.values))


def _in_whole(used: list[int], shares: Shares) -> Shares:
    """Return shares on the columns in use as shares on all columns."""
    return {(b, used[k]): share for (b, k), share in shares.items()}


def _peak_program(
    canonical: Canonical,
    problem: Problem,
    options: SolveOptions,
    instances: list[int],
    only: frozenset[str],
) -> tuple[IntegerProgram, list[int], Outcome | None] | None:
    """Solve: min peak with load_k ≤ peak × instances_k, over the columns in use.

    None where these cannot serve; no outcome where there is nothing to serve. Raises TimeUpError.
    """
    used = [k for k, count in enumerate(instances) if count > 0]
    small = canonical.keep(used)
    if not small.covers():
        return None
    program = build_program(small, problem, options, only=only)
    if not program.y:
        return program, used, None
    rule = Load.of(problem, options)
    loads = [rule.terms(program, program.y, k, "peak") for k in range(len(used))]
    peak = program.lp.add("peak")
    for k, terms in enumerate(loads):
        program.row([*terms, (peak, -float(instances[used[k]]))], LE, 0, f"peak_option_{k}")
    program.lp.goal = [(peak, 1.0)]
    outcome = run(program.lp, options)
    if outcome.termination in (Termination.LIMIT, Termination.FEASIBLE):
        raise TimeUpError
    return (program, used, outcome) if outcome.termination is Termination.OPTIMAL else None


def read_shares(program: IntegerProgram, values: Sequence[float]) -> Shares:
    """Return the shares that a solved program holds, cleaned of rounding: each bucket's sum to 1."""
    raw = {
        key: value / program.slices
        for key, y in program.y.items()
        if (value := values[y]) > 1e-9 * program.slices
    }
    total: dict[int, float] = {}
    for (b, _), share in raw.items():
        total[b] = total.get(b, 0.0) + share
    return {(b, k): share / total[b] for (b, k), share in raw.items()}


def to_allocations(
    canonical: Canonical, offsets: list[int], instances: list[int], fixed: list[int], shares: Shares
) -> tuple[tuple[Allocation, ...], ...]:
    """Return the allocations per demand, in the canonical order."""
    result: list[list[Allocation]] = [[] for _ in canonical.demands]
    for k, column in enumerate(canonical.columns):
        if instances[k] == 0:
            continue
        start = offsets[column.demand]
        rate_rps = load = 0.0
        for b, bucket in enumerate(canonical.buckets[column.demand]):
            share = shares.get((start + b, k), 0.0)
            if share > 0:
                rate_rps += share * bucket.rate_rps
                raw = column.capacity.rate(bucket.i, bucket.j) or float("nan")
                load += share * bucket.rate_rps / raw
        result[column.demand].append(
            Allocation(
                candidate=column.capacity,
                instances=instances[k],
                load_fraction=load / instances[k],
                rate_rps=rate_rps,
                shares=_matrix(canonical, k, start, shares),
                fixed_instances=fixed[k],
            )
        )
    return tuple(map(tuple, result))


def to_matrices(canonical: Canonical, demand: int, shares: Shares) -> dict[str, Matrix]:
    """Return the shares of one demand, its buckets numbered from 0, as a matrix per option name."""
    return {
        canonical.columns[k].name: _matrix(canonical, k, 0, shares)
        for k in canonical.of_demand(demand)
        if any(column == k for _, column in shares)
    }


def _matrix(canonical: Canonical, k: int, start: int, shares: Shares) -> Matrix:
    """Return the shares on one column as a matrix; its demand's buckets are numbered from `start`."""
    demand = canonical.columns[k].demand
    grid = [[0.0] * len(row) for row in canonical.demands[demand].workload.rates_rps]
    for b, bucket in enumerate(canonical.buckets[demand]):
        grid[bucket.i][bucket.j] = shares.get((start + b, k), 0.0)
    return tuple(map(tuple, grid))
