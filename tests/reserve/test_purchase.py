"""The purchase against a whole integer program that knows nothing of cones, spans and boxes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import product

import numpy as np
import pulp
import pytest

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import Problem, SolveOptions, optimize
from melange_sky.optimizer.answers.rate_sweep import at_rate
from melange_sky.reserve.build import served_by
from melange_sky.reserve.covering import Covering, Tariff
from melange_sky.reserve.hours import Hours
from melange_sky.reserve.master import Prices
from melange_sky.reserve.purchase import Answer, Offered, Search
from tests.optimizer.factories import demand, option, with_levels

NEVER = SolveOptions().deadline


def random_problem(rng: random.Random, options: int, levels: bool = False) -> Problem:
    """One model of 2 × 2 buckets at 1 req/s in all."""
    weights = [[rng.uniform(0.1, 1) for _ in range(2)] for _ in range(2)]
    total = sum(map(sum, weights))
    rows = []
    for k in range(options):
        strength = rng.uniform(0.5, 3)
        rates = [
            [
                round(strength * rng.uniform(0.5, 2), 3) if k == 0 or rng.random() < 0.8 else None
                for _ in range(2)
            ]
            for _ in range(2)
        ]
        rows.append(option(f"o{k}", round(strength * rng.uniform(0.7, 1.4), 2), rates))
    problem = Problem(demands=(demand([[w / total for w in row] for row in weights], *rows),))
    return with_levels(problem, rng) if levels else problem


def prices_of(problem: Problem) -> np.ndarray:
    """USD per hour of each option."""
    return np.array([o.option.price_usd_per_hour for o in problem.demands[0].options])


def search(
    mixes: list[Problem], hours: Hours, prices: Prices, most: float = 4.0, owned: float = 0.0
) -> Search:
    """The search over mixes of the same options."""
    names = [o.option.name for o in mixes[0].demands[0].options]
    top = float(hours.rate_rps.max())
    return Search(
        mixes=[served_by(at_rate(mix, top), names) for mix in mixes],
        hours=hours,
        prices=prices,
        offered=Offered(owned=np.full(len(names), owned), most=np.full(len(names), most)),
    )


def random_hours(rng: random.Random, count: int, mixes: int = 1, prices: int = 1) -> Hours:
    """Hours of 0 to 5 req/s."""
    return Hours(
        mix=np.array([rng.randrange(mixes) for _ in range(count)]),
        rate_rps=np.array([round(rng.uniform(0.0, 5.0), 2) for _ in range(count)]),
        weight=np.array([float(rng.choice([1, 1, 2])) for _ in range(count)]),
        price=np.array([rng.randrange(prices) for _ in range(count)]),
    )


def whole_program(mixes: list[Problem], hours: Hours, prices: Prices, most: float) -> float:
    """The least cost by one integer program over purchases, every hour's fleet and every share."""
    lp = pulp.LpProblem("reserve", pulp.LpMinimize)
    options = range(len(prices.commit))
    held = [lp.add_variable(f"y_{k}", 0, most, pulp.LpInteger) for k in options]
    goal = [(held[k], prices.hours * prices.commit[k]) for k in options]
    for t, rate in enumerate(hours.rate_rps.tolist()):
        only = mixes[hours.mix[t]].demands[0]
        rent = [lp.add_variable(f"r_{t}_{k}", 0, cat=pulp.LpInteger) for k in options]
        goal += [(rent[k], hours.weight[t] * prices.rent[hours.price[t], k]) for k in options]
        loads = [[(held[k], -1.0), (rent[k], -1.0)] for k in options]
        for i, j in only.workload.buckets() if rate else ():
            shares = []
            for k in options:
                capacity = only.options[k].rate(i, j)
                if capacity is not None:
                    share = lp.add_variable(f"z_{t}_{i}_{j}_{k}", 0, 1)
                    shares.append((share, 1.0))
                    loads[k].append((share, only.workload.rates_rps[i][j] * rate / capacity))
            row = pulp.LpConstraint(
                pulp.LpAffineExpression(shares), pulp.LpConstraintEQ, f"s_{t}_{i}_{j}", 1
            )
            lp.addConstraint(row)
        for k in options:
            load = pulp.LpAffineExpression(loads[k])
            lp.addConstraint(pulp.LpConstraint(load, pulp.LpConstraintLE, f"l_{t}_{k}", 0))
    lp.setObjective(pulp.LpAffineExpression(goal))
    lp.solve(pulp.HiGHS(msg=False, gapRel=0.0, threads=1))
    assert lp.sol_status == pulp.LpSolutionOptimal
    return float(pulp.value(lp.objective))


def random_prices(rng: random.Random, problem: Problem, hours: Hours, rows: int = 1) -> Prices:
    """Rents of every row near the options' prices, and commitments at 30 to 110 % of them."""
    prices = prices_of(problem)
    return Prices(
        rent=np.array([prices * rng.choice([1.0, 0.7, 1.3]) for _ in range(rows)]),
        commit=np.array([p * rng.uniform(0.3, 1.1) for p in prices]),
        hours=float(hours.weight.sum()),
    )


@pytest.mark.parametrize("seed", range(20))
def test_equals_a_whole_integer_program(seed: int) -> None:
    rng = random.Random(seed)
    mixes = [random_problem(rng, rng.choice([2, 3]))]
    if seed % 3 == 0:
        other = random_problem(rng, 2).demands[0].workload
        mixes.append(Problem(demands=(demand(other.rates_rps, *mixes[0].demands[0].options),)))
    rows = 1 + seed % 2
    hours = random_hours(rng, rng.choice([3, 6, 8]), len(mixes), rows)
    prices = random_prices(rng, mixes[0], hours, rows)
    answer = search(mixes, hours, prices).best()
    assert answer.gap == 0
    expected = whole_program(mixes, hours, prices, 4.0)
    assert answer.cost_usd == pytest.approx(expected, rel=1e-6)
    assert cost_of(answer, hours, prices) == pytest.approx(answer.cost_usd, rel=1e-9)


def cost_of(answer: Answer, hours: Hours, prices: Prices) -> float:
    """What an answer costs, added up again from its fleets."""
    rented = np.maximum(answer.fleets - answer.held, 0.0)
    billed = (rented * prices.rent[hours.price]).sum(axis=1) @ hours.weight
    return float(billed + prices.hours * prices.commit @ answer.held)


def drawn(rng: random.Random) -> Iterator[Problem]:
    """Problems with attainment levels that some fleet serves."""
    while True:
        problem = random_problem(rng, 3, levels=True)
        with suppress(InfeasibleError):
            optimize(problem)
            yield problem


@pytest.mark.parametrize("seed", range(6))
def test_every_hour_is_the_optimizers_own_where_nothing_pays(seed: int) -> None:
    rng = random.Random(100 + seed)
    problem = next(drawn(rng))
    hours = random_hours(rng, 6)
    prices = prices_of(problem)
    terms = Prices(rent=prices[None], commit=prices, hours=float(hours.weight.sum()))
    answer = search([problem], hours, terms).best()
    alone = sum(
        weight * optimize(at_rate(problem, rate)).cost_usd_per_hour
        for rate, weight in zip(hours.rate_rps.tolist(), hours.weight.tolist(), strict=True)
        if rate
    )
    assert answer.cost_usd == pytest.approx(alone, rel=1e-6)
    assert answer.fleets[hours.rate_rps == 0].sum() == 0


def test_a_unit_is_bought_where_it_is_busy_for_more_than_it_costs() -> None:
    problem = Problem(demands=(demand([[1.0]], option("a", 2.0, [[1.0]])),))
    rates = np.array([0.5, 0.5, 1.5, 1.5, 1.5, 2.5, 0.5, 1.5])  # busy: 8, 5, 1 of 8 hours
    hours = Hours(mix=np.zeros(8, int), rate_rps=rates, weight=np.ones(8), price=np.zeros(8, int))
    for discount, bought in ((0.0, 0), (0.2, 1), (0.374, 1), (0.376, 2), (0.87, 2), (0.88, 3)):
        prices = Prices(rent=np.array([[2.0]]), commit=np.array([2.0 * (1 - discount)]), hours=8.0)
        answer = search([problem], hours, prices).best()
        assert answer.held.tolist() == [bought], discount


@pytest.mark.parametrize("seed", range(6))
def test_owned_units_and_cheaper_terms_never_cost_more(seed: int) -> None:
    rng = random.Random(200 + seed)
    problem = random_problem(rng, 3)
    hours = random_hours(rng, 6)
    prices = random_prices(rng, problem, hours)
    cost = search([problem], hours, prices).best().cost_usd
    cheaper = Prices(rent=prices.rent, commit=prices.commit * 0.8, hours=prices.hours)
    assert search([problem], hours, cheaper).best().cost_usd <= cost * (1 + 1e-9)
    owning = search([problem], hours, prices, owned=1.0).best()
    paid = prices.hours * float(prices.commit.sum())
    assert owning.cost_usd - paid <= cost * (1 + 1e-9)
    dear = Prices(rent=prices.rent, commit=prices.rent[0] * 1.01, hours=prices.hours)
    assert search([problem], hours, dear).best().held.sum() == 0


@pytest.mark.parametrize("seed", range(30))
def test_cover_equals_trying_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    options, rows = 3, int(rng.integers(1, 5))
    covering = Covering(
        worths=rng.uniform(0, 1, (rows, options)) * (rng.random((rows, options)) < 0.8),
        leasts=rng.uniform(0.2, 2, rows),
        most=rng.integers(1, 5, options).astype(float),
    )
    full = rng.uniform(0.5, 2, options)
    tariff = Tariff(
        free=rng.integers(0, 2, options).astype(float),
        width=rng.integers(0, 2, options).astype(float),
        price=full * rng.choice([0.0, 0.5, 1.0]),
        full=full,
    )
    fleets = np.array(list(product(*(range(7) for _ in range(options)))), dtype=float)
    most = np.maximum(covering.most, tariff.free + tariff.width * (tariff.price <= 0))
    able = (fleets @ covering.worths.T >= covering.leasts).all(axis=1) & (fleets <= most).all(
        axis=1
    )
    found = covering.cheapest(tariff, np.inf, NEVER)
    if not able.any():
        assert found is None
        return
    least = float(tariff.cost(fleets[able]).min())
    assert found is not None
    assert float(tariff.cost(found)) == pytest.approx(least)
    assert (covering.worths @ found >= covering.leasts - 1e-9).all()
    if least > 0:
        assert covering.cheapest(tariff, least * (1 - 1e-9), NEVER) is None
