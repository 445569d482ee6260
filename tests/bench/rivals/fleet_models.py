"""Models of the cheapest fleet for other solvers: one demand, its options, no further rules.

Two kinds. The released sliced model of Mélange (arXiv 2404.14527, §5.3): each bucket's rate cut into
slices, each slice to one option. And the fractional one that this project solves: any part of a bucket to
any option that can serve it, whole instances. CP-SAT has no continuous variables, so that it takes
10,000ths of a bucket there, which costs at most as much more.

Each function returns the cost in $/h, or None where nothing was found within the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pulp

from melange_sky.optimizer import Problem

SLICES = 8
PARTS = 10_000
FINE = 10**6
"""CP-SAT's coefficients: loads in millionths of an instance, rounded up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Which option serves which bucket at what load of an instance; arrays of one row per pair."""

    prices: tuple[float, ...]
    buckets: int
    bucket: tuple[int, ...]
    option: tuple[int, ...]
    load: tuple[float, ...]


def pairs(problem: Problem) -> Pairs:
    """Return the pairs of a problem of one demand."""
    only = problem.demands[0]
    rows = [
        (b, k, only.workload.rates_rps[i][j] / rate)
        for b, (i, j) in enumerate(only.workload.buckets())
        for k, option in enumerate(only.options)
        if (rate := option.rate(i, j)) is not None
    ]
    bucket, option, load = zip(*rows, strict=True)
    prices = tuple(option.option.price_usd_per_hour for option in only.options)
    return Pairs(prices=prices, buckets=max(bucket) + 1, bucket=bucket, option=option, load=load)


def sliced_cbc(problem: Problem, cap_s: float) -> float | None:
    """The released model in CBC, through PuLP."""
    path = pulp.PULP_CBC_CMD.pulp_cbc_path
    return _sliced(problem, pulp.COIN_CMD(path=path, msg=False, timeLimit=cap_s, threads=1))


def sliced_highs(problem: Problem, cap_s: float) -> float | None:
    """The released model in HiGHS, through PuLP."""
    return _sliced(problem, pulp.HiGHS(msg=False, timeLimit=cap_s, gapRel=0.0, threads=1))


def _sliced(problem: Problem, solver: pulp.LpSolver) -> float | None:
    known = pairs(problem)
    lp = pulp.LpProblem("slices", pulp.LpMinimize)
    counts = [lp.add_variable(f"x_{k}", 0, cat=pulp.LpInteger) for k in range(len(known.prices))]
    loads: list[list[tuple[pulp.LpVariable, float]]] = [[(count, -1.0)] for count in counts]
    ones: dict[tuple[int, int], list[tuple[pulp.LpVariable, float]]] = {}
    for b, k, load in zip(known.bucket, known.option, known.load, strict=True):
        for s in range(SLICES):
            pick = lp.add_variable(f"z_{b}_{s}_{k}", 0, 1, pulp.LpInteger)
            ones.setdefault((b, s), []).append((pick, 1.0))
            loads[k].append((pick, load / SLICES))
    for (b, s), picks in ones.items():
        lp.addConstraint(
            pulp.LpConstraint(
                pulp.LpAffineExpression(picks), pulp.LpConstraintEQ, f"one_{b}_{s}", 1
            )
        )
    for k, parts in enumerate(loads):
        lp.addConstraint(
            pulp.LpConstraint(pulp.LpAffineExpression(parts), pulp.LpConstraintLE, f"load_{k}", 0)
        )
    priced = list(zip(counts, known.prices, strict=True))
    lp.setObjective(pulp.LpAffineExpression(priced))
    lp.solve(solver)
    found = lp.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    return sum(round(x.varValue or 0) * price for x, price in priced) if found else None


def fractional_highs(problem: Problem, cap_s: float) -> float | None:
    """The fractional model handed to HiGHS as it stands."""
    import highspy

    known = pairs(problem)
    n, shares = len(known.prices), len(known.load)
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = n + shares, known.buckets + n
    model.col_cost_ = np.array([*known.prices, *([0.0] * shares)])
    model.col_lower_ = np.zeros(n + shares)
    model.col_upper_ = np.array([highspy.kHighsInf] * n + [1.0] * shares)
    model.integrality_ = [highspy.HighsVarType.kInteger] * n + [
        highspy.HighsVarType.kContinuous
    ] * shares
    model.row_lower_ = np.array([1.0] * known.buckets + [-highspy.kHighsInf] * n)
    model.row_upper_ = np.array([1.0] * known.buckets + [0.0] * n)
    starts, rows, values = [], [], []
    for column in _columns(known):
        starts.append(len(rows))
        for row, value in column:
            rows.append(row)
            values.append(value)
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = np.array([*starts, len(rows)])
    model.a_matrix_.index_ = np.array(rows)
    model.a_matrix_.value_ = np.array(values)
    solver = highspy.Highs()
    for option, value in (
        ("output_flag", False),
        ("time_limit", cap_s),
        ("mip_rel_gap", 0.0),
        ("threads", 1),
    ):
        solver.setOptionValue(option, value)
    solver.passModel(model)
    solver.run()
    info = solver.getInfo()
    return info.objective_function_value if info.primal_solution_status == 2 else None


def _columns(known: Pairs) -> Iterator[list[tuple[int, float]]]:
    """Yield (row, coefficient) of each count, then of each pair's share."""
    for k in range(len(known.prices)):
        yield [(known.buckets + k, -1.0)]
    for b, k, load in zip(known.bucket, known.option, known.load, strict=True):
        yield [(b, 1.0), (known.buckets + k, load)]


def fractional_cp_sat(problem: Problem, cap_s: float) -> float | None:
    """The fractional model in Google's CP-SAT, by 10,000ths of a bucket."""
    from ortools.sat.python import cp_model

    known = pairs(problem)
    model = cp_model.CpModel()
    counts = [model.new_int_var(0, FINE, f"n{k}") for k in range(len(known.prices))]
    whole: list[list[cp_model.IntVar]] = [[] for _ in range(known.buckets)]
    loads: list[list[tuple[cp_model.IntVar, int]]] = [[] for _ in known.prices]
    for at, (b, k, load) in enumerate(zip(known.bucket, known.option, known.load, strict=True)):
        part = model.new_int_var(0, PARTS, f"z{at}")
        whole[b].append(part)
        loads[k].append((part, int(np.ceil(load / PARTS * FINE * 100))))
    for parts in whole:
        model.add(sum(parts) == PARTS)
    for count, terms in zip(counts, loads, strict=True):
        model.add(sum(part * load for part, load in terms) <= count * FINE * 100)
    model.minimize(
        sum(c * round(price * 1e6) for c, price in zip(counts, known.prices, strict=True))
    )
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = cap_s
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return float(sum(solver.value(c) * p for c, p in zip(counts, known.prices, strict=True)))


def fractional_scip(problem: Problem, cap_s: float) -> float | None:
    """The fractional model in SCIP."""
    from pyscipopt import Model, quicksum

    known = pairs(problem)
    model = Model()
    model.hideOutput()
    model.setParam("limits/time", cap_s)
    counts = [model.addVar(vtype="I", lb=0) for _ in known.prices]
    whole: list[list[object]] = [[] for _ in range(known.buckets)]
    loads: list[list[object]] = [[] for _ in known.prices]
    for b, k, load in zip(known.bucket, known.option, known.load, strict=True):
        share = model.addVar(lb=0.0, ub=1.0)
        whole[b].append(share)
        loads[k].append(load * share)
    for shares in whole:
        model.addCons(quicksum(shares) == 1)
    for count, terms in zip(counts, loads, strict=True):
        model.addCons(quicksum(terms) <= count)
    model.setObjective(
        quicksum(price * count for price, count in zip(known.prices, counts, strict=True)),
        "minimize",
    )
    model.optimize()
    if not model.getNSols():
        return None
    return float(sum(round(model.getVal(c)) * p for c, p in zip(counts, known.prices, strict=True)))


RIVALS: dict[str, Callable[[Problem, float], float | None]] = {
    "HiGHS": fractional_highs,
    "CP-SAT": fractional_cp_sat,
    "SCIP": fractional_scip,
    "sliced CBC": sliced_cbc,
    "sliced HiGHS": sliced_highs,
}
"""Solvers by name; the first three solve the model that this project solves."""
