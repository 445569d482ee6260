"""Small questions about reservations, and two ways to answer them that know nothing of cones, boxes and tariffs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
import pulp

from melange_sky.optimizer import Demand, Problem
from melange_sky.optimizer.answers.rate_sweep import at_rate
from melange_sky.reserve.build import served_by
from melange_sky.reserve.question import Objective, Purchase, Question, Scenario
from tests.optimizer.factories import demand, option, with_levels


def random_replica(
    rng: random.Random, *, serves_all: bool
) -> tuple[list[list[float | None]], float]:
    """The rates of a replica on 2 × 2 buckets, of which it serves all or most, and its price."""
    strength = rng.uniform(0.5, 3)
    rates = [
        [
            round(strength * rng.uniform(0.5, 2), 3) if serves_all or rng.random() < 0.8 else None
            for _ in range(2)
        ]
        for _ in range(2)
    ]
    return rates, round(strength * rng.uniform(0.7, 1.4), 2)


def random_problem(rng: random.Random, options: int, levels: bool = False) -> Problem:
    """One model of 2 × 2 buckets at 1 req/s in all."""
    rows = []
    for k in range(options):
        rates, price = random_replica(rng, serves_all=k == 0)
        rows.append(option(f"o{k}", price, rates))
    problem = Problem(demands=(demand(random_mix(rng), *rows),))
    return with_levels(problem, rng) if levels else problem


def random_mix(rng: random.Random) -> list[list[float]]:
    """Shares of 2 × 2 buckets."""
    weights = [[rng.uniform(0.1, 1) for _ in range(2)] for _ in range(2)]
    total = sum(map(sum, weights))
    return [[w / total for w in row] for row in weights]


def prices_of(problem: Problem) -> np.ndarray:
    """USD per hour of each option."""
    return np.array([o.option.price_usd_per_hour for o in problem.demands[0].options])


@dataclass(frozen=True)
class Case:
    """A question and the problems that its mixes came from."""

    problems: tuple[Problem, ...]
    question: Question

    def asking(self, **changes: object) -> Case:
        """The same with other parts of the question."""
        return replace(self, question=replace(self.question, **changes))  # type: ignore[arg-type]


def case(
    problems: Sequence[Problem],
    rates: Sequence[Sequence[float]],
    *,
    rents: np.ndarray | None = None,
    **parts: object,
) -> Case:
    """A question with a scenario for each series of rates, at the problems' own prices unless told otherwise."""
    names = tuple(o.option.name for o in problems[0].demands[0].options)
    top = max(max(series) for series in rates) or 1.0
    periods = len(rates[0])
    table = prices_of(problems[0])[None] if rents is None else rents
    scenarios = tuple(
        Scenario(
            name=f"s{n}",
            rate_rps=np.array(series),
            rents=table,
            price=np.arange(periods) % len(table),
            weight=1.0 + n,
        )
        for n, series in enumerate(rates)
    )
    values = {"mix": np.arange(periods) % len(problems), "hours_each": 1.0} | parts
    mixes = [served_by(at_rate(problem, top), names) for problem in problems]
    return Case(
        tuple(problems),
        Question(options=names, mixes=mixes, scenarios=scenarios, **values),  # type: ignore[arg-type]
    )


def random_case(rng: random.Random, *, options: int = 3, periods: int = 5, **parts: object) -> Case:
    """A case with whole terms, a block, a spend commitment, and maybe several mixes, scenarios and owned units."""
    problem = random_problem(rng, options)
    problems = [problem]
    if rng.random() < 0.3:
        problems.append(Problem(demands=(demand(random_mix(rng), *problem.demands[0].options),)))
    series = [
        [round(rng.uniform(0.0, 4.0), 2) for _ in range(periods)]
        for _ in range(rng.choice([1, 1, 2, 3]))
    ]
    prices = prices_of(problem)
    rents = prices * np.array([[1.0], [rng.choice([0.7, 1.3])]][: rng.choice([1, 2])])
    owned = np.zeros((periods, options))
    if rng.random() < 0.4:
        owned[: rng.randrange(1, periods), rng.randrange(options)] = 1.0
    return case(
        problems,
        series,
        rents=rents,
        purchases=tuple(random_purchases(rng, prices, periods)),
        owned=owned,
        **parts,
    )


def random_purchases(rng: random.Random, prices: np.ndarray, periods: int) -> list[Purchase]:
    """Three things to buy, each of a kind drawn by chance."""
    found = []
    for n in range(3):
        kind = rng.choice(["term", "block", "until", "spend"])
        active = np.ones(periods, dtype=bool)
        if kind == "block":
            first = rng.randrange(periods)
            active = (np.arange(periods) >= first) & (np.arange(periods) < first + 2)
        elif kind == "until":
            active = np.arange(periods) < rng.randrange(1, periods)
        k, hours = rng.randrange(len(prices)), float(active.sum())
        if kind == "spend":
            step = float(prices.max()) / 2
            draws = {j: p * rng.uniform(0.3, 0.9) / step for j, p in enumerate(prices.tolist())}
            usd, most = step * hours, 5
        else:
            draws, usd, most = {k: 1.0}, prices[k] * rng.uniform(0.3, 1.1) * hours, 3
        upfront = usd * rng.choice([0.0, 0.5])
        name = f"{kind}-{n}"
        found.append(
            Purchase(name=name, usd=usd, draws=draws, most=most, upfront_usd=upfront, active=active)
        )
    return found


def whole_program(case: Case, best: Sequence[float] = ()) -> float:
    """The objective's least by one integer program over purchases, every fleet and every share."""
    return _Whole(case, best).least()


def _sum(terms: Iterable[tuple[pulp.LpVariable, float]]) -> pulp.LpAffineExpression:
    """The terms with those of one variable added up, as PuLP does not do by itself."""
    total: dict[pulp.LpVariable, float] = {}
    for variable, coefficient in terms:
        total[variable] = total.get(variable, 0.0) + coefficient
    return pulp.LpAffineExpression(list(total.items()))


class _Whole:
    def __init__(self, case: Case, best: Sequence[float]) -> None:
        self.case, self.best = case, best
        self.lp = pulp.LpProblem("reserve", pulp.LpMinimize)
        self.rows = 0

    def row(self, terms: list[tuple[pulp.LpVariable, float]], sense: int, bound: float) -> None:
        self.rows += 1
        constraint = pulp.LpConstraint(_sum(terms), sense, f"r{self.rows}", bound)
        self.lp.addConstraint(constraint)

    def least(self) -> float:
        question = self.case.question
        units = [
            self.lp.add_variable(f"y_{k}", 0, p.most, pulp.LpInteger)
            for k, p in enumerate(question.purchases)
        ]
        bought = [(y, p.usd) for y, p in zip(units, question.purchases, strict=True)]
        upfront = [(y, p.upfront_usd) for y, p in zip(units, question.purchases, strict=True)]
        if np.isfinite(question.budget_upfront_usd):
            self.row(upfront, pulp.LpConstraintLE, question.budget_upfront_usd)
        costs = [bought + self.scenario(s, units) for s in range(len(question.scenarios))]
        weights = np.array([s.weight for s in question.scenarios])
        weights = weights / weights.sum()
        kind = question.objective.kind
        if kind == "expected":
            goal = [(x, c * w) for w, terms in zip(weights, costs, strict=True) for x, c in terms]
        elif kind == "regret":
            worst = self.lp.add_variable("worst")
            goal = [(worst, 1.0)]
            for terms, least in zip(costs, self.best, strict=True):
                negative = [(x, -c) for x, c in terms]
                self.row([(worst, 1.0), *negative], pulp.LpConstraintGE, -least)
        else:
            tail = self.lp.add_variable("tail")
            goal = [(tail, 1.0)]
            for s, (weight, terms) in enumerate(zip(weights, costs, strict=True)):
                over = self.lp.add_variable(f"over_{s}", 0)
                goal.append((over, weight / (1 - question.objective.quantile)))
                negative = [(x, -c) for x, c in terms]
                self.row([(over, 1.0), (tail, 1.0), *negative], pulp.LpConstraintGE, 0.0)
        self.lp.setObjective(_sum(goal))
        tight = {"mip_feasibility_tolerance": 1e-9, "primal_feasibility_tolerance": 1e-9}
        self.lp.solve(pulp.HiGHS(msg=False, gapRel=0.0, gapAbs=0.0, threads=1, **tight))
        assert self.lp.sol_status == pulp.LpSolutionOptimal
        return float(pulp.value(self.lp.objective))

    def scenario(self, s: int, units: list[pulp.LpVariable]) -> list[tuple[pulp.LpVariable, float]]:
        question = self.case.question
        scenario, owned = question.scenarios[s], question.owned_units()
        costs = []
        for t, rate in enumerate(scenario.rate_rps.tolist()):
            if not rate:
                continue
            only = self.case.problems[question.mix[t]].demands[0]
            loads: list[list[tuple[pulp.LpVariable, float]]] = []
            cover: list[list[tuple[pulp.LpVariable, float]]] = [
                [(y, -1.0 if question.active(p)[t] else 0.0)]
                for y, p in zip(units, question.purchases, strict=True)
            ]
            for j in range(len(question.options)):
                place = f"{s}_{t}_{j}"
                runs = self.lp.add_variable(f"n_{place}", 0, cat=pulp.LpInteger)
                rented = self.lp.add_variable(f"m_{place}", 0)
                costs.append((rented, question.hours_each * scenario.rents[scenario.price[t], j]))
                paid = [(rented, 1.0), (runs, -1.0)]
                for k, purchase in enumerate(question.purchases):
                    if j in purchase.draws:
                        x = self.lp.add_variable(f"x_{place}_{k}", 0)
                        paid.append((x, 1.0))
                        cover[k].append((x, purchase.draws[j]))
                self.row(paid, pulp.LpConstraintGE, -owned[t, j])
                loads.append([(runs, -1.0)])
            for terms in cover:
                self.row(terms, pulp.LpConstraintLE, 0.0)
            self.serve(only, rate, loads, f"{s}_{t}")
        return costs

    def serve(
        self, only: Demand, rate: float, loads: list[list[tuple[pulp.LpVariable, float]]], name: str
    ) -> None:
        for a, b in only.workload.buckets():
            shares = []
            for j, terms in enumerate(loads):
                capacity = only.options[j].rate(a, b)
                if capacity is not None:
                    z = self.lp.add_variable(f"z_{name}_{a}_{b}_{j}", 0, 1)
                    shares.append((z, 1.0))
                    terms.append((z, only.workload.rates_rps[a][b] * rate / capacity))
            self.row(shares, pulp.LpConstraintEQ, 1.0)
        for terms in loads:
            self.row(terms, pulp.LpConstraintLE, 0.0)


@dataclass(frozen=True)
class Everything:
    """All purchases and all fleets of up to `most` instances of each option, one by one."""

    case: Case
    most: int = 5

    @cached_property
    def fleets(self) -> list[tuple[int, ...]]:
        """The fleets."""
        count = len(self.case.question.options)
        return list(product(range(self.most + 1), repeat=count))

    @cached_property
    def rates(self) -> list[list[float]]:
        """The highest rates, (mixes × fleets)."""
        return [[_highest(p, fleet) for fleet in self.fleets] for p in self.case.problems]

    @cached_property
    def costs(self) -> dict[tuple[int, ...], list[float]]:
        """What every scenario costs with every purchase within the budget."""
        purchases = self.case.question.purchases
        found = {}
        for units in product(*(range(p.most + 1) for p in purchases)):
            upfront = sum(n * p.upfront_usd for n, p in zip(units, purchases, strict=True))
            if upfront <= self.case.question.budget_upfront_usd:
                found[units] = self.of(units)
        return found

    def of(self, units: tuple[int, ...]) -> list[float]:
        """What every scenario costs with a purchase."""
        question = self.case.question
        paid = sum(n * p.usd for n, p in zip(units, question.purchases, strict=True))
        seen: dict[tuple[object, ...], list[float]] = {}
        totals = []
        for scenario in question.scenarios:
            total = paid
            for t, rate in enumerate(scenario.rate_rps.tolist()):
                rents = scenario.rents[scenario.price[t]]
                here = [
                    (n if question.active(p)[t] else 0, p)
                    for n, p in zip(units, question.purchases, strict=True)
                ]
                owned = question.owned_units()[t]
                key = (tuple(n for n, _ in here), rents.tobytes(), owned.tobytes())
                if key not in seen:
                    seen[key] = [_rent(fleet, rents, owned, here) for fleet in self.fleets]
                able = self.rates[question.mix[t]]
                if rate:
                    total += question.hours_each * min(
                        cost for cost, most in zip(seen[key], able, strict=True) if most >= rate
                    )
            totals.append(total)
        return totals

    def least(self, objective: Objective) -> float:
        """The objective's least."""
        weights = np.array([s.weight for s in self.case.question.scenarios])
        weights = weights / weights.sum()
        table = np.array(list(self.costs.values()))
        if objective.kind == "expected":
            return float((table @ weights).min())
        if objective.kind == "regret":
            return float((table - table.min(axis=0)).max(axis=1).min())
        tails = []
        for row in table.tolist():
            left, value = 1 - objective.quantile, 0.0
            for cost, weight in sorted(zip(row, weights.tolist(), strict=True), reverse=True):
                value += cost * min(left, weight)
                left -= min(left, weight)
            tails.append(value / (1 - objective.quantile))
        return min(tails)


def _highest(problem: Problem, fleet: tuple[int, ...]) -> float:
    """The highest rate of a fleet, by bisection over feasibility programs' one-shot form: a program over λ."""
    only = problem.demands[0]
    lp = pulp.LpProblem("rate", pulp.LpMaximize)
    top = lp.add_variable("top", 0)
    lp.setObjective(pulp.LpAffineExpression([(top, 1.0)]))
    loads: list[list[tuple[pulp.LpVariable, float]]] = [[] for _ in fleet]
    for i, j in only.workload.buckets():
        terms = [(top, -only.workload.rates_rps[i][j])]
        for k in range(len(fleet)):
            capacity = only.options[k].rate(i, j)
            if capacity is not None:
                z = lp.add_variable(f"z_{i}_{j}_{k}", 0)
                terms.append((z, 1.0))
                loads[k].append((z, 1 / capacity))
        affine = pulp.LpAffineExpression(terms)
        lp.addConstraint(pulp.LpConstraint(affine, pulp.LpConstraintEQ, f"s_{i}_{j}", 0))
    for k, terms in enumerate(loads):
        affine = pulp.LpAffineExpression(terms)
        lp.addConstraint(pulp.LpConstraint(affine, pulp.LpConstraintLE, f"l_{k}", fleet[k]))
    lp.solve(pulp.HiGHS(msg=False, threads=1))
    return float(top.varValue) * (1 + 1e-7)


def _rent(
    fleet: tuple[int, ...], rents: np.ndarray, owned: np.ndarray, here: list[tuple[int, Purchase]]
) -> float:
    """What a fleet costs on demand beside units: owned and whole ones first, then spend, best discount first."""
    rest = [max(0.0, n - o) for n, o in zip(fleet, owned.tolist(), strict=True)]
    for units, purchase in sorted(here, key=lambda one: len(one[1].draws) > 1):
        left = float(units)
        for j in sorted(purchase.draws, key=lambda j: -rents[j] / purchase.draws[j]):
            drawn = min(left, rest[j] * purchase.draws[j])
            left -= drawn
            rest[j] -= drawn / purchase.draws[j]
    return float(np.array(rest) @ rents)
