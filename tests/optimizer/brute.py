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
from melange_sky.optimizer import Constraints, Demand, InstanceGroup, Problem, SolveOptions

TOLERANCE = 1e-7


@dataclass(frozen=True)
class Best:
    """The goal of the simplest fleet within the band (0: of the least goal), its types and instances."""

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
    n, m = len(counts), len(demand.workload.buckets())
    if m == 0:
        return True
    loads = loads_of(demand, problem.constraints)
    rows, bounds = _rows(demand, counts, problem, options, caps)
    if options.assignment == "sliced":
        return _serves_sliced(loads, rows, bounds, options.slice_factor)
    upper = [
        (0.0, 1.0 if loads[k][b] is not None and counts[k] else 0.0)
        for k in range(n)
        for b in range(m)
    ]
    equal = np.zeros((m, n * m))
    for b in range(m):
        equal[b, b::m] = 1
    result = linprog(
        np.zeros(n * m), A_ub=rows, b_ub=bounds, A_eq=equal, b_eq=np.ones(m), bounds=upper
    )
    return bool(result.status == 0)


def _rows(
    demand: Demand, counts: tuple[int, ...], problem: Problem, options: SolveOptions, caps: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What shares (options × buckets, flat) keep to: rows × shares ≤ bounds."""
    loads = loads_of(demand, problem.constraints)
    n, m = len(counts), len(demand.workload.buckets())
    error = options.robustness.throughput_error if options.robustness else 0.0
    gamma = options.robustness.budget if options.robustness else None
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
    return np.array(rows), np.array(bounds)


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


def _serves_sliced(
    loads: list[list[float | None]], rows: np.ndarray, bounds: np.ndarray, slices: int
) -> bool:
    buckets = len(loads[0])
    able = [[k for k, row in enumerate(loads) if row[b] is not None] for b in range(buckets)]
    per_bucket = [list(itertools.combinations_with_replacement(ks, slices)) for ks in able]
    for choice in itertools.product(*per_bucket):
        shares = np.zeros(len(loads) * buckets)
        for b, ks in enumerate(choice):
            for k in ks:
                shares[k * buckets + b] += 1 / slices
        if (rows @ shares <= bounds).all():
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
        return option.accelerator_count * option.nodes
    there = offer is not None and key in (
        offer.cloud,
        f"{offer.cloud}/{offer.region}",
        offer.instance_type,
    )
    return option.nodes if there else 0


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
        if sum(n * c.option.nodes for c, n in flat if _is_of(c, group)) < group.instances:
            return False
    for counts, loads in per_demand:
        types = sum(n > 0 for n in counts)
        if constraints.max_option_types is not None and types > constraints.max_option_types:
            return False
        able = sum(n > 0 and any(row) for n, row in zip(counts, loads, strict=True))
        if able < constraints.min_option_types:
            return False
    # An instance that can serve none of the buckets is no replica.
    return all(
        sum(n for n, row in zip(counts, loads, strict=True) if any(row)) >= constraints.min_replicas
        for counts, loads in per_demand
    )


def _is_of(capacity: OptionCapacity, group: InstanceGroup) -> bool:
    option, offer = capacity.option, capacity.option.offer
    named = (group.cloud, group.region, group.instance_type)
    there = (None, None, None)
    if offer is not None:
        there = (offer.cloud, offer.region, offer.instance_type)
    return (
        group.accelerator == option.accelerator
        and group.accelerator_count in (None, option.accelerator_count)
        and all(want in (None, have) for want, have in zip(named, there, strict=True))
    )


def billed(flat: list[tuple[OptionCapacity, int]], constraints: Constraints) -> float:
    """The least bill: every way in which paid groups can pay for instances is tried."""
    cost = sum(c.option.price_usd_per_hour * n for c, n in flat)
    return cost - _paid(
        [c for c, _ in flat], [n * c.option.nodes for c, n in flat], constraints.fixed
    )


def _paid(
    options: list[OptionCapacity], counts: list[int], groups: tuple[InstanceGroup, ...]
) -> float:
    """The most that groups save; `counts` are instances, each node of a replica by itself."""
    if not groups:
        return 0.0
    group, *rest = groups
    mine = [k for k, c in enumerate(options) if _is_of(c, group)]
    best = 0.0
    for taken in itertools.product(*(range(counts[k] + 1) for k in mine)):
        if sum(taken) > group.instances:
            continue
        left = list(counts)
        for k, n in zip(mine, taken, strict=True):
            left[k] -= n
        saved = sum(
            options[k].option.price_usd_per_hour / options[k].option.nodes * n
            for k, n in zip(mine, taken, strict=True)
        )
        best = max(best, saved + _paid(options, left, tuple(rest)))
    return best


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
    least: float | None = None
    within: list[tuple[int, int, float]] = []
    for goal, types, instances, counts in _fleets(problem, options):
        # Fleets come by goal: past the band none can be the simplest within it.
        if least is not None and goal > least + options.within_fraction * least + 1e-9:
            break
        if not _is_fleet(problem, options, counts):
            continue
        least = goal if least is None else least
        within.append((types, instances, goal))
    if not within:
        return None
    types, instances, goal = min(within)
    return Best(goal=goal, types=types, instances=instances)


def _fleets(
    problem: Problem, options: SolveOptions
) -> list[tuple[float, int, int, tuple[int, ...]]]:
    """Every fleet by goal, types and instances, with more of each option than any best one needs."""
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
            ranges.append(range(max(need, asked) + 2))
    flat_options = [c for d in problem.demands for c in d.options]
    fleets = []
    for counts in itertools.product(*ranges):
        flat = list(zip(flat_options, counts, strict=True))
        goal = billed(flat, constraints) + _changes(problem, counts, options)
        fleets.append((round(goal, 12), sum(n > 0 for n in counts), sum(counts), counts))
    return sorted(fleets)


def _is_fleet(problem: Problem, options: SolveOptions, counts: tuple[int, ...]) -> bool:
    """Whether these instances serve every demand within all constraints."""
    constraints = problem.constraints
    flat_options = [c for d in problem.demands for c in d.options]
    flat = list(zip(flat_options, counts, strict=True))
    per_demand, at = [], 0
    for demand in problem.demands:
        per_demand.append(counts[at : at + len(demand.options)])
        at += len(demand.options)
    with_loads = [
        (c, loads_of(d, constraints)) for d, c in zip(problem.demands, per_demand, strict=True)
    ]
    return _allowed(flat, with_loads, billed(flat, constraints), constraints) and all(
        serves(d, c, problem, options) and survives(d, c, problem, options)
        for d, c in zip(problem.demands, per_demand, strict=True)
    )
