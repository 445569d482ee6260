"""The truth from elsewhere: every fleet of a small problem tried, feasibility by SciPy's simplex.

Nothing here calls the optimizer; only its input types are shared.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from melange_sky.capacities import OptionCapacity
from melange_sky.optimizer import Constraints, Demand, Problem, SolveOptions

TOLERANCE = 1e-7


@dataclass(frozen=True)
class Best:
    """Least goal and, at that goal, the fewest (types, instances)."""

    goal: float
    types: int
    instances: int


def loads_of(demand: Demand, constraints: Constraints) -> list[list[float | None]]:
    """Instances filled by each bucket's whole rate, (options × buckets), None: cannot serve."""
    spot = constraints.spot
    rows = []
    for capacity in demand.options:
        derate = 1.0
        if spot is not None and capacity.option.use_spot:
            derate = 1 / (1 + spot.interruption_rate * spot.recovery_s / 3600)
        row: list[float | None] = []
        for i, j in demand.workload.buckets():
            rate = capacity.rate(i, j)
            row.append(None if not rate else demand.workload.rates_rps[i][j] / (rate * derate))
        rows.append(row)
    return rows


def serves(
    demand: Demand,
    counts: tuple[int, ...],
    problem: Problem,
    options: SolveOptions,
    caps: bool = True,
) -> bool:
    """Whether these instances can serve the demand within headroom and, if asked, share caps."""
    if options.assignment == "sliced":
        return _serves_sliced(demand, counts, problem, options.slice_factor)
    loads = loads_of(demand, problem.constraints)
    buckets = demand.workload.buckets()
    n, m = len(counts), len(buckets)
    if m == 0:
        return True
    error = options.robustness.throughput_error if options.robustness else 0.0
    gamma = options.robustness.budget if options.robustness else None
    upper = [
        (0.0, 1.0 if loads[k][b] is not None and counts[k] else 0.0)
        for k in range(n)
        for b in range(m)
    ]
    rows, bounds = [], []
    for k in range(n):
        wrongs = itertools.combinations(range(m), m if gamma is None else min(gamma, m))
        for wrong in wrongs:  # every choice of wrong buckets, spelled out
            row = np.zeros(n * m)
            for b in range(m):
                row[k * m + b] = (loads[k][b] or 0.0) / (1 - error if b in wrong else 1)
            rows.append(row)
            bounds.append((1 - problem.headroom) * counts[k] + TOLERANCE)
    if caps:
        for row, bound in _share_rows(demand, problem.constraints):
            rows.append(row)
            bounds.append(bound + TOLERANCE)
    equal = np.zeros((m, n * m))
    for b in range(m):
        equal[b, b::m] = 1
    result = linprog(
        np.zeros(n * m), A_ub=np.array(rows), b_ub=bounds, A_eq=equal, b_eq=np.ones(m), bounds=upper
    )
    return bool(result.status == 0)


def _share_rows(demand: Demand, constraints: Constraints) -> list[tuple[np.ndarray, float]]:
    rates = np.array([demand.workload.rates_rps[i][j] for i, j in demand.workload.buckets()])
    m = len(rates)

    def row(members: list[int]) -> np.ndarray:
        values = np.zeros(len(demand.options) * m)
        for k in members:
            values[k * m : (k + 1) * m] = rates / rates.sum()
        return values

    places: dict[tuple[str, str], list[int]] = {}
    for k, capacity in enumerate(demand.options):
        offer = capacity.option.offer
        if offer is not None:
            places.setdefault(("cloud", offer.cloud), []).append(k)
            places.setdefault(("region", f"{offer.cloud}/{offer.region}"), []).append(k)
    most = {"cloud": constraints.max_share_per_cloud, "region": constraints.max_share_per_region}
    rows = [
        (row(ks), limit) for (kind, _), ks in places.items() if (limit := most[kind]) is not None
    ]
    if constraints.spot is not None:
        spots = [k for k, c in enumerate(demand.options) if c.option.use_spot]
        rows.append((row(spots), constraints.spot.max_fraction))
    return rows


def _serves_sliced(demand: Demand, counts: tuple[int, ...], problem: Problem, slices: int) -> bool:
    loads = loads_of(demand, problem.constraints)
    buckets = len(demand.workload.buckets())
    one = [[(k, b) for k in range(len(counts)) if loads[k][b] is not None] for b in range(buckets)]
    per_bucket = [list(itertools.combinations_with_replacement(ways, slices)) for ways in one]
    for choice in itertools.product(*per_bucket):
        load = [0.0] * len(counts)
        for k, b in itertools.chain(*choice):
            load[k] += (loads[k][b] or 0.0) / slices
        if all(
            v <= (1 - problem.headroom) * c + TOLERANCE for v, c in zip(load, counts, strict=True)
        ):
            return True
    return False


def survives(
    demand: Demand, counts: tuple[int, ...], problem: Problem, options: SolveOptions
) -> bool:
    """Whether any `spare` instances may be lost."""
    spare = problem.constraints.spare
    if spare == 0:
        return True
    for lost in itertools.product(*(range(c + 1) for c in counts)):
        if sum(lost) == min(spare, sum(counts)):
            left = tuple(c - n for c, n in zip(counts, lost, strict=True))
            if not serves(demand, left, problem, options, caps=False):
                return False
    return True


def _units(capacity: OptionCapacity, key: str) -> int:
    option, offer = capacity.option, capacity.option.offer
    if key == option.accelerator:
        return option.accelerator_count
    return int(
        offer is not None
        and key in (offer.cloud, f"{offer.cloud}/{offer.region}", offer.instance_type)
    )


def _allowed(
    flat: list[tuple[OptionCapacity, int]],
    per_demand: list[tuple[tuple[int, ...], list[list[float | None]]]],
    cost: float,
    constraints: Constraints,
) -> bool:
    if any(
        sum(_units(c, key.name) * n for c, n in flat) > limit for key, limit in constraints.limits
    ):
        return False
    if (
        constraints.budget_usd_per_hour is not None
        and cost > constraints.budget_usd_per_hour + 1e-9
    ):
        return False
    for group in constraints.minimum:
        if sum(n for c, n in flat if c.option.accelerator == group.accelerator) < group.instances:
            return False
    # An instance that can serve none of the buckets is no replica.
    return all(
        sum(n for n, row in zip(counts, loads, strict=True) if any(row)) >= constraints.min_replicas
        for counts, loads in per_demand
    )


def billed(flat: list[tuple[OptionCapacity, int]], constraints: Constraints) -> float:
    """Cost after fixed capacity (matched by accelerator) has paid for its dearest instances."""
    cost = sum(c.option.price_usd_per_hour * n for c, n in flat)
    for group in constraints.fixed:
        prices = sorted(
            (
                c.option.price_usd_per_hour
                for c, n in flat
                for _ in range(n)
                if c.option.accelerator == group.accelerator
            ),
            reverse=True,
        )
        cost -= sum(prices[: group.instances])
    return cost


def _changes(problem: Problem, counts: tuple[int, ...], options: SolveOptions) -> float:
    """What the goal counts beside the cost: a price for every instance started or stopped."""
    close = options.stay_close
    if close is None:
        return 0.0
    running = {(demand, option): n for demand, option, n in close.instances}
    names = [(d.name, c.option.name) for d in problem.demands for c in d.options]
    moved = sum(abs(n - running.get(name, 0)) for name, n in zip(names, counts, strict=True))
    return close.switch_usd_per_hour * moved


def brute_force(problem: Problem, options: SolveOptions | None = None) -> Best | None:
    """Return the best over every fleet, None where there is none."""
    options = options or SolveOptions()
    constraints = problem.constraints
    usable = 1 - problem.headroom
    if options.robustness:
        usable *= 1 - options.robustness.throughput_error
    asked = max([constraints.min_replicas, *(p.instances for p in constraints.minimum), 0])
    if options.stay_close:
        asked = max([asked, *(n for _, _, n in options.stay_close.instances)])
    ranges = []
    for demand in problem.demands:
        for row in loads_of(demand, constraints):
            need = math.ceil(sum(v or 0.0 for v in row) / usable - 1e-9) + constraints.spare
            ranges.append(range(max(need, asked) + 1))
    flat_options = [c for d in problem.demands for c in d.options]
    fleets = []
    for counts in itertools.product(*ranges):
        flat = list(zip(flat_options, counts, strict=True))
        goal = billed(flat, constraints) + _changes(problem, counts, options)
        fleets.append((round(goal, 12), sum(n > 0 for n in counts), sum(counts), counts))
    fleets.sort()
    for goal, types, instances, counts in fleets:
        flat = list(zip(flat_options, counts, strict=True))
        per_demand, at = [], 0
        for demand in problem.demands:
            per_demand.append(counts[at : at + len(demand.options)])
            at += len(demand.options)
        with_loads = [
            (c, loads_of(d, constraints)) for d, c in zip(problem.demands, per_demand, strict=True)
        ]
        cost = billed(flat, constraints)
        if _allowed(flat, with_loads, cost, constraints) and all(
            serves(d, c, problem, options) and survives(d, c, problem, options)
            for d, c in zip(problem.demands, per_demand, strict=True)
        ):
            return Best(goal=goal, types=types, instances=instances)
    return None
