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


Ways = list[list[list[float | None]]]


def levels_of(demand: Demand) -> list[float | None]:
    """The attainments at which what is served in time may be counted: the target's, and those above."""
    if demand.target is None:
        return [None]
    return [None, *(demand.target + part * (1 - demand.target) for part in (0.2, 0.8))]


def attained_by_way(demand: Demand, level: float | None) -> list[float]:
    """The attainment of each way to serve a request: in time, then late where anything may be."""
    if demand.target is None or level is None:
        return [1.0 if demand.target is None else demand.target]
    return [level, 0.0, demand.target / 2]


def loads_of(demand: Demand, constraints: Constraints, level: float | None = None) -> Ways:
    """Instances filled by each bucket's whole rate, (ways × options × buckets), None: cannot serve."""
    spot = constraints.spot
    ways: Ways = []
    for way, attained in enumerate(attained_by_way(demand, level)):
        rows = []
        for capacity in demand.options:
            derate = 1.0
            if spot is not None and capacity.option.use_spot:
                derate = 1 / (1 + spot.interruption_rate * spot.recovery_s / 3600)
            row: list[float | None] = []
            for i, j in demand.workload.buckets():
                cell = capacity.cells[i][j]
                told = {round(a, 9): rate for a, rate in cell.levels}
                rate = told.get(round(attained, 9))
                if way == 0 and level is None:
                    rate = cell.max_rate_rps
                row.append(None if not rate else demand.workload.rates_rps[i][j] / (rate * derate))
            rows.append(row)
        ways.append(rows)
    return ways


def serves(
    demand: Demand,
    counts: tuple[int, ...],
    problem: Problem,
    options: SolveOptions,
    caps: bool = True,
    level: float | None = None,
) -> bool:
    """Whether these instances can serve the demand within headroom, its SLO and, if asked, share caps."""
    n, m = len(counts), len(demand.workload.buckets())
    if m == 0:
        return True
    ways = loads_of(demand, problem.constraints, level)
    rows, bounds = _rows(demand, counts, problem, options, caps, level)
    if options.assignment == "sliced":
        return _serves_sliced(ways, rows, bounds, options.slice_factor)
    upper = [
        (0.0, 1.0 if loads[k][b] is not None and counts[k] else 0.0)
        for loads in ways
        for k in range(n)
        for b in range(m)
    ]
    equal = np.zeros((m, len(upper)))
    for b in range(m):
        equal[b, b::m] = 1
    result = linprog(
        np.zeros(len(upper)), A_ub=rows, b_ub=bounds, A_eq=equal, b_eq=np.ones(m), bounds=upper
    )
    return bool(result.status == 0)


def _rows(
    demand: Demand,
    counts: tuple[int, ...],
    problem: Problem,
    options: SolveOptions,
    caps: bool,
    level: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """What shares (ways × options × buckets, flat) keep to: rows × shares ≤ bounds."""
    ways = loads_of(demand, problem.constraints, level)
    n, m = len(counts), len(demand.workload.buckets())
    error = options.robustness.throughput_error if options.robustness else 0.0
    gamma = options.robustness.budget if options.robustness else None
    rows, bounds = [], []
    for k in range(n):
        wrongs = itertools.combinations(range(m), m if gamma is None else min(gamma, m))
        for wrong in wrongs:  # every choice of wrong buckets, spelled out
            row = np.zeros((len(ways), n, m))
            for way, loads in enumerate(ways):
                for b in range(m):
                    row[way, k, b] = (loads[k][b] or 0.0) / (1 - error if b in wrong else 1)
            rows.append(row.ravel())
            bounds.append((1 - problem.headroom) * counts[k] + TOLERANCE)
    if demand.target is not None:
        rates = np.array([demand.workload.rates_rps[i][j] for i, j in demand.workload.buckets()])
        missed = np.array([1 - a for a in attained_by_way(demand, level)])
        rows.append((missed[:, None, None] * np.tile(rates, (n, 1))[None]).ravel())
        bounds.append((1 - demand.target) * rates.sum() + TOLERANCE)
    if caps:
        for row, bound in _share_rows(demand, problem.constraints):
            rows.append(np.tile(row, len(ways)))
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


def _serves_sliced(ways: Ways, rows: np.ndarray, bounds: np.ndarray, slices: int) -> bool:
    n, buckets = len(ways[0]), len(ways[0][0])
    able = [
        [(w, k) for w, loads in enumerate(ways) for k in range(n) if loads[k][b] is not None]
        for b in range(buckets)
    ]
    per_bucket = [list(itertools.combinations_with_replacement(ks, slices)) for ks in able]
    for choice in itertools.product(*per_bucket):
        shares = np.zeros((len(ways), n, buckets))
        for b, taken in enumerate(choice):
            for w, k in taken:
                shares[w, k, b] += 1 / slices
        if (rows @ shares.ravel() <= bounds).all():
            return True
    return False


def survives(
    demand: Demand,
    counts: tuple[int, ...],
    problem: Problem,
    options: SolveOptions,
    level: float | None = None,
) -> bool:
    """Whether any `spare` instances may be lost."""
    spare = problem.constraints.spare
    if spare == 0:
        return True
    for lost in itertools.product(*(range(c + 1) for c in counts)):
        if sum(lost) == min(spare, sum(counts)):
            left = tuple(c - n for c, n in zip(counts, lost, strict=True))
            if not serves(demand, left, problem, options, caps=False, level=level):
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
    per_demand: list[tuple[tuple[int, ...], Ways]],
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
    for counts, ways in per_demand:
        types = sum(n > 0 for n in counts)
        if constraints.max_option_types is not None and types > constraints.max_option_types:
            return False
        if sum(n > 0 for n in _able(counts, ways)) < constraints.min_option_types:
            return False
    # An instance that can serve none of the buckets is no replica.
    return all(sum(_able(counts, ways)) >= constraints.min_replicas for counts, ways in per_demand)


def _able(counts: tuple[int, ...], ways: Ways) -> list[int]:
    """The instances of each option that can serve any bucket in any way."""
    return [n for k, n in enumerate(counts) if any(any(loads[k]) for loads in ways)]


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
        at_all_levels = [
            ways for level in levels_of(demand) for ways in loads_of(demand, constraints, level)
        ]
        for k in range(len(demand.options)):
            most = [
                max(v or 0.0 for v in of_bucket)
                for of_bucket in zip(*(w[k] for w in at_all_levels), strict=True)
            ]
            need = math.ceil(sum(most) / usable - 1e-9) + constraints.spare
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
    cost = billed(flat, constraints)
    pairs = list(zip(problem.demands, per_demand, strict=True))
    for levels in itertools.product(*map(levels_of, problem.demands)):
        with_loads = [
            (c, loads_of(d, constraints, level))
            for (d, c), level in zip(pairs, levels, strict=True)
        ]
        if _allowed(flat, with_loads, cost, constraints) and all(
            serves(d, c, problem, options, level=level) and survives(d, c, problem, options, level)
            for (d, c), level in zip(pairs, levels, strict=True)
        ):
            return True
    return False
