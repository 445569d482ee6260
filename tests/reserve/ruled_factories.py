"""Questions with rules, for one model or two, and a whole integer program of them with the rules written by hand."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import pulp

from melange_sky.capacities import OptionCapacity
from melange_sky.constraints import Constraints
from melange_sky.names.limits import LimitKey, LimitKind
from melange_sky.optimizer import Problem
from melange_sky.optimizer.answers.rate_sweep import at_rate
from melange_sky.reserve.question import Purchase, Question, Scenario
from melange_sky.reserve.ruled import RuledServed, ruled_by
from melange_sky.reserve.serving import Served
from melange_sky.reserve.tied import models_of
from melange_sky.reserve.together import Together
from tests.optimizer.factories import demand, placed
from tests.reserve.factories import _sum, random_mix, random_purchases, random_replica

CLOUDS = ("aws/r0", "gcp/r1", "aws/r2")


def random_options(rng: random.Random, count: int, model: int) -> list[OptionCapacity]:
    """Options on clouds, at names of their own per model; each serves nearly all of 2 × 2 buckets."""
    found = []
    for k in range(count):
        rates, price = random_replica(rng, serves_all=k == 0)
        found.append(placed(f"m{model}o{k}", price, rates, CLOUDS[k % 3], accelerator=f"g{k}"))
    return found


def random_rules(rng: random.Random, kinds: tuple[str, ...]) -> Constraints:
    """Rules of these kinds, drawn by chance."""
    rules = Constraints()
    for kind in kinds:
        if kind == "limits":
            rules = replace(
                rules,
                limits=(
                    (LimitKey(kind=LimitKind.ACCELERATOR, name="g0"), rng.randint(1, 3)),
                    (LimitKey(kind=LimitKind.CLOUD, name="gcp"), 2),
                ),
            )
        elif kind == "spare":
            rules = replace(rules, spare=rng.choice([1, 1, 2]))
        elif kind == "min_replicas":
            rules = replace(rules, min_replicas=rng.randint(2, 4))
        elif kind == "max_option_types":
            rules = replace(rules, max_option_types=rng.choice([1, 2]))
        elif kind == "min_option_types":
            rules = replace(rules, min_option_types=2)
        elif kind == "share":
            rules = replace(rules, max_share_per_cloud=rng.choice([0.5, 0.6, 0.8]))
    return rules


@dataclass(frozen=True)
class RuledCase:
    """A question, and the problem at 1 req/s in all that it came from."""

    problem: Problem
    question: Question
    places: dict[tuple[str, str], int]


def ruled_case(
    rng: random.Random, rules: Constraints, *, options: int = 3, periods: int = 4, models: int = 1
) -> RuledCase:
    """A case of one scenario with three things to buy, of which one may be drawn on by both models."""
    parts = [1.0] if models == 1 else [0.6, 0.4]
    demands = tuple(
        replace(
            demand(
                [[part * x for x in row] for row in random_mix(rng)],
                *random_options(rng, options, m),
            ),
            name=f"model{m}",
        )
        for m, part in enumerate(parts)
    )
    problem = Problem(demands=demands, constraints=rules)
    columns = [(d.name, o.option.name) for d in demands for o in d.options]
    places = {place: n for n, place in enumerate(columns)}
    prices = np.array([o.option.price_usd_per_hour for d in demands for o in d.options])
    rates = [round(rng.uniform(0.0, 4.0), 2) for _ in range(periods)]
    purchases = random_purchases(rng, prices, periods)
    if models == 2:
        both = dict.fromkeys((0, options), 1.0)
        usd = float(min(prices[0], prices[options])) * 0.6 * periods
        purchases[0] = Purchase(name="both", usd=usd, draws=both, most=3)
    return made(problem, places, prices, rates, apart(purchases))


def apart(purchases: list[Purchase]) -> list[Purchase]:
    """Purchases without those that cover an option of one that several options draw on, which is drawn on last."""
    pools = [p for p in purchases if len(p.draws) > 1][:1]
    covered = {k for p in pools for k in p.draws}
    return pools + [p for p in purchases if not covered & set(p.draws)]


def made(
    problem: Problem,
    places: dict[tuple[str, str], int],
    prices: np.ndarray,
    rates: list[float],
    purchases: list[Purchase],
) -> RuledCase:
    """The case of a problem at 1 req/s."""
    top = max(rates) or 1.0
    scenario = Scenario(
        name="s",
        rate_rps=np.array(rates),
        rents=prices[None],
        price=np.zeros(len(rates), dtype=np.intp),
    )
    question = Question(
        options=tuple("/".join(place) for place in places),
        mixes=[served(at_rate(problem, top), places)],
        mix=np.zeros(len(rates), dtype=np.intp),
        hours_each=1.0,
        scenarios=(scenario,),
        purchases=tuple(purchases),
    )
    return RuledCase(problem, question, places)


def served(problem: Problem, places: dict[tuple[str, str], int]) -> Served:
    """The fleets of a problem's one model or several."""
    if len(problem.demands) == 1:
        return ruled_by(problem, places, len(places))
    rates = [d.workload.rate_rps for d in problem.demands]
    shares = [rate / sum(rates) for rate in rates]
    return Together(models_of(problem, places, len(places)), shares)


def in_one_program(case: RuledCase) -> RuledServed:
    """The fleets of a case with all models in one program."""
    top = float(case.question.scenarios[0].rate_rps.max()) or 1.0
    return ruled_by(at_rate(case.problem, top), case.places, len(case.places))


def whole_ruled_program(case: RuledCase) -> float | None:
    """The least cost by one program over purchases, every fleet, share and loss; None: no fleet keeps the rules."""
    return _Whole(case).least()


class _Whole:
    def __init__(self, case: RuledCase) -> None:
        self.case, self.rules = case, case.problem.constraints
        self.lp = pulp.LpProblem("reserve", pulp.LpMinimize)
        self.rows = 0

    def row(self, terms: list[tuple[pulp.LpVariable, float]], sense: int, bound: float) -> None:
        self.rows += 1
        self.lp.addConstraint(pulp.LpConstraint(_sum(terms), sense, f"r{self.rows}", bound))

    def whole(self, name: str, most: float | None = None) -> pulp.LpVariable:
        return self.lp.add_variable(name, 0, most, pulp.LpInteger)

    def least(self) -> float | None:
        question = self.case.question
        bought = (*question.purchases, *question.shared)
        units = [self.whole(f"y_{k}", p.most) for k, p in enumerate(bought)]
        goal = [(y, p.usd) for y, p in zip(units, bought, strict=True)]
        for t, rate in enumerate(question.scenarios[0].rate_rps.tolist()):
            if rate:
                goal += self.period(t, rate, units)
        self.lp.setObjective(_sum(goal))
        tight = {"mip_feasibility_tolerance": 1e-9, "primal_feasibility_tolerance": 1e-9}
        self.lp.solve(pulp.HiGHS(msg=False, gapRel=0.0, gapAbs=0.0, threads=1, **tight))
        if self.lp.sol_status == pulp.LpSolutionInfeasible:
            return None
        assert self.lp.sol_status == pulp.LpSolutionOptimal
        return float(pulp.value(self.lp.objective))

    def period(
        self, t: int, rate: float, units: list[pulp.LpVariable]
    ) -> list[tuple[pulp.LpVariable, float]]:
        question, goal = self.case.question, []
        bought = (*question.purchases, *question.shared)
        rents = question.scenarios[0].rents[0]
        cover = [
            [(y, -1.0 if question.active(p)[t] else 0.0)]
            for y, p in zip(units, bought, strict=True)
        ]
        counts = []
        for j in range(len(question.options)):
            runs, rented = self.whole(f"n_{t}_{j}", 12), self.lp.add_variable(f"m_{t}_{j}", 0)
            counts.append(runs)
            goal.append((rented, float(rents[j])))
            paid = [(rented, 1.0), (runs, -1.0)]
            for k, purchase in enumerate(bought):
                if j in purchase.draws:
                    x = self.lp.add_variable(f"x_{t}_{j}_{k}", 0)
                    paid.append((x, 1.0))
                    cover[k].append((x, purchase.draws[j]))
            self.row(paid, pulp.LpConstraintGE, 0.0)
        for terms in cover:
            self.row(terms, pulp.LpConstraintLE, 0.0)
        self.keep_rules(t, rate, counts)
        return goal

    def keep_rules(self, t: int, rate: float, counts: list[pulp.LpVariable]) -> None:
        rules, first = self.rules, 0
        for limit, most in rules.limits:
            terms = [
                (counts[self.case.places[d.name, o.option.name]], float(o.option.units(limit)))
                for d in self.case.problem.demands
                for o in d.options
            ]
            self.row(terms, pulp.LpConstraintLE, most)
        for m, only in enumerate(self.case.problem.demands):
            own = counts[first : first + len(only.options)]
            first += len(own)
            if rules.min_replicas:
                self.row([(n, 1.0) for n in own], pulp.LpConstraintGE, rules.min_replicas)
            there = []
            for j, n in enumerate(own):
                there.append(self.whole(f"t_{t}_{m}_{j}", 1))
                if rules.max_option_types is not None:
                    self.row([(n, 1.0), (there[-1], -12.0)], pulp.LpConstraintLE, 0.0)
                if rules.min_option_types:
                    self.row([(n, -1.0), (there[-1], 1.0)], pulp.LpConstraintLE, 0.0)
            kinds = [(x, 1.0) for x in there]
            if rules.max_option_types is not None:
                self.row(kinds, pulp.LpConstraintLE, rules.max_option_types)
            if rules.min_option_types:
                self.row(kinds, pulp.LpConstraintGE, rules.min_option_types)
            self.serve(m, rate, [[(n, -1.0)] for n in own], f"{t}_{m}", rules.max_share_per_cloud)
            if rules.spare:
                self.survive(m, rate, own, f"{t}_{m}")

    def survive(self, m: int, rate: float, own: list[pulp.LpVariable], name: str) -> None:
        """Every one or two instances that are there may be lost."""
        there = {}
        for j, n in enumerate(own):
            for count in range(1, self.rules.spare + 1):
                e = there[j, count] = self.whole(f"e_{name}_{j}_{count}", 1)
                self.row([(n, 1.0), (e, -12.0)], pulp.LpConstraintLE, count - 1)
        pairs = [(j, i) for j in range(len(own)) for i in range(j, len(own))]
        for a, b in [(j, -1) for j in range(len(own))] if self.rules.spare == 1 else pairs:
            loads = [[(n, -1.0)] for n in own]
            loads[a].append((there[a, 1], 1.0))
            if b >= 0:
                loads[b].append((there[b, 2 if a == b else 1], 1.0))
            self.serve(m, rate, loads, f"{name}_{a}_{b}", None)

    def serve(
        self,
        m: int,
        rate: float,
        loads: list[list[tuple[pulp.LpVariable, float]]],
        name: str,
        share: float | None,
    ) -> None:
        only = self.case.problem.demands[m]
        clouds: dict[str, list[tuple[pulp.LpVariable, float]]] = {}
        for a, b in only.workload.buckets():
            own = only.workload.rates_rps[a][b]
            shares = []
            for j, terms in enumerate(loads):
                capacity = only.options[j].rate(a, b)
                if capacity is not None:
                    z = self.lp.add_variable(f"z_{name}_{a}_{b}_{j}", 0, 1)
                    shares.append((z, 1.0))
                    terms.append((z, own * rate / capacity))
                    offer = only.options[j].option.offer
                    assert offer is not None
                    part = own / only.workload.rate_rps
                    clouds.setdefault(offer.cloud, []).append((z, part))
            self.row(shares, pulp.LpConstraintEQ, 1.0)
        for terms in loads:
            self.row(terms, pulp.LpConstraintLE, 0.0)
        if share is not None:
            for terms in clouds.values():
                self.row(terms, pulp.LpConstraintLE, share)
