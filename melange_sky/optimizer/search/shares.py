"""From whole instances to shares: who serves what, with the slack spread evenly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.program.linear import LE
from melange_sky.optimizer.program.run import run
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.attainment import late_terms
from melange_sky.optimizer.rules.build import build_program
from melange_sky.optimizer.rules.registry import SHARE_RULES
from melange_sky.optimizer.rules.serving import Load
from melange_sky.plans import Allocation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import IntegerProgram, ShareKey
    from melange_sky.optimizer.program.run import Outcome
    from melange_sky.optimizer.rules.base import LateShares
    from melange_sky.workload import Matrix

TOLERANCE = 1e-6
"""Load above capacity, as a fraction of it, that is rounding and not overload."""

LEAST_LATE = 1e-7
"""Late shares of a smaller fraction of a model's requests are rounding, where anything else serves them."""

Shares = dict["ShareKey", float]
"""Share of bucket b (numbered over all demands) on column k, and the way in which it is served."""


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
    """Return the shares by which fewest requests are late; of those, the highest load fraction is least;
    of those, the cheapest loads.

    So nothing is late that these instances have room to serve, and no replica is full while another
    idles. None where they cannot serve at all. Raises TimeUpError.
    """
    solved = _peak_program(canonical, problem, options, instances, SHARE_RULES, fewest_late=True)
    if solved is None:
        return None
    program, used, outcome = solved
    if outcome is None:
        return {}
    lp, columns = program.lp, program.canonical.columns
    # The peak is the last column of the program; its goal was the peak alone.
    lp.upper[-1] = (outcome.objective or 0.0) * (1 + TOLERANCE / 100)
    lp.goal = [
        (program.y[program.offsets[column.demand] + b, k, way], value * column.price)
        for k, column in enumerate(columns)
        for way, b, value in column.served()
    ]
    second = run(lp, options)
    best = second if second.termination is Termination.OPTIMAL else outcome
    return _in_whole(used, read_shares(program, best.values))


def _in_whole(used: list[int], shares: Shares) -> Shares:
    """Return shares on the columns in use as shares on all columns."""
    return {(b, used[k], way): share for (b, k, way), share in shares.items()}


def _peak_program(
    canonical: Canonical,
    problem: Problem,
    options: SolveOptions,
    instances: list[int],
    only: frozenset[str],
    *,
    fewest_late: bool = False,
) -> tuple[IntegerProgram, list[int], Outcome | None] | None:
    """Solve: min peak with load_k ≤ peak × instances_k, over the columns in use.

    With `fewest_late` no more is late than must be with every instance as full as it may be. None where
    these cannot serve; no outcome where there is nothing to serve. Raises TimeUpError.
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
    if fewest_late and any(way for _, _, way in program.y):
        _bound_late(program, peak)
    program.lp.goal = [(peak, 1.0)]
    outcome = run(program.lp, options)
    if outcome.termination in (Termination.LIMIT, Termination.FEASIBLE):
        raise TimeUpError
    return (program, used, outcome) if outcome.termination is Termination.OPTIMAL else None


def _bound_late(program: IntegerProgram, peak: int) -> None:
    """Let no more be late than must be where the peak is all that headroom leaves."""
    canonical = program.canonical
    terms = [
        term for d in range(len(canonical.demands)) for term in late_terms(program, program.y, d)
    ]
    program.lp.goal, program.lp.upper[peak] = list(terms), program.usable
    least = run(program.lp, program.options)
    if least.termination in (Termination.LIMIT, Termination.FEASIBLE):
        raise TimeUpError
    program.lp.upper[peak] = math.inf
    if least.termination is Termination.OPTIMAL:
        rate_rps = sum(bucket.rate_rps for of_demand in canonical.buckets for bucket in of_demand)
        room = TOLERANCE / 100 * program.slices * rate_rps
        program.row(terms, LE, (least.objective or 0.0) + room, "no_more_late")


def read_shares(program: IntegerProgram, values: Sequence[float]) -> Shares:
    """Return the shares that a solved program holds, cleaned of rounding: each bucket's sum to 1."""
    raw = {
        key: value / program.slices
        for key, y in program.y.items()
        if (value := values[y]) > 1e-9 * program.slices
    }
    in_time = {b for b, _, way in raw if way == 0}
    raw = {
        (b, k, way): share
        for (b, k, way), share in raw.items()
        if way == 0 or b not in in_time or share > _least_late(program, b, k)
    }
    total: dict[int, float] = {}
    for (b, _, _), share in raw.items():
        total[b] = total.get(b, 0.0) + share
    return {(b, k, way): share / total[b] for (b, k, way), share in raw.items()}


def _least_late(program: IntegerProgram, b: int, k: int) -> float:
    """Return the share of a bucket below which being late is rounding."""
    d = program.canonical.columns[k].demand
    bucket = program.canonical.buckets[d][b - program.offsets[d]]
    return LEAST_LATE * program.canonical.demands[d].workload.rate_rps / bucket.rate_rps


def to_allocations(
    canonical: Canonical, offsets: list[int], instances: list[int], fixed: list[int], shares: Shares
) -> tuple[tuple[Allocation, ...], ...]:
    """Return the allocations per demand, in the canonical order."""
    result: list[list[Allocation]] = [[] for _ in canonical.demands]
    for k, column in enumerate(canonical.columns):
        if instances[k] == 0:
            continue
        start, demand = offsets[column.demand], canonical.demands[column.demand]
        rate_rps = load = 0.0
        for b, bucket in enumerate(canonical.buckets[column.demand]):
            for way in column.ways:
                share = shares.get((start + b, k, way), 0.0)
                if share > 0:
                    rate_rps += share * bucket.rate_rps
                    raw = demand.way_rate(column.capacity, bucket.i, bucket.j, way)
                    load += share * bucket.rate_rps / (raw or math.nan)
        both, late_part = _matrices(canonical, k, start, shares)
        result[column.demand].append(
            Allocation(
                candidate=column.capacity,
                instances=instances[k],
                load_fraction=load / instances[k],
                rate_rps=rate_rps,
                shares=both,
                fixed_instances=fixed[k],
                level=demand.level,
                late=late_part,
            )
        )
    return tuple(map(tuple, result))


def to_matrices(
    canonical: Canonical, demand: int, shares: Shares
) -> dict[str, tuple[Matrix, LateShares]]:
    """Return the shares of one demand, its buckets numbered from 0, per option name.

    All of them as a matrix, and those that are late by the attainment that is expected of them.
    """
    return {
        canonical.columns[k].name: _matrices(canonical, k, 0, shares)
        for k in canonical.of_demand(demand)
        if any(column == k for _, column, _ in shares)
    }


def _matrices(
    canonical: Canonical, k: int, start: int, shares: Shares
) -> tuple[Matrix, LateShares]:
    """Return all shares on one column, and the late ones where there are any.

    Its demand's buckets are numbered from `start`.
    """
    d = canonical.columns[k].demand
    demand = canonical.demands[d]
    ways = canonical.columns[k].ways
    grids = [[[0.0] * len(row) for row in demand.workload.rates_rps] for _ in ways]
    for b, bucket in enumerate(canonical.buckets[d]):
        for way in ways:
            grids[way][bucket.i][bucket.j] = shares.get((start + b, k, way), 0.0)
    both = tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*grids, strict=True))
    late = tuple(
        (attained, tuple(map(tuple, grid)))
        for attained, grid in zip(demand.late_levels, grids[1:], strict=True)
        if any(map(any, grid))
    )
    return both, late
