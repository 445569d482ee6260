"""The bound by better and better prices, and the machine code that prices cells, against trying all and whole programs."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest

from melange_sky.optimizer import Problem
from melange_sky.optimizer.deadline import NEVER, Deadline
from melange_sky.reserve import pricing_cells
from melange_sky.reserve.advise import advise
from melange_sky.reserve.ascent import Ascent, Climb
from melange_sky.reserve.cells import FEW_CELLS, cells_of
from melange_sky.reserve.cone import Shape
from melange_sky.reserve.in_parts import InParts
from melange_sky.reserve.known import Known
from melange_sky.reserve.levels import Box, Levels
from melange_sky.reserve.market import Market
from melange_sky.reserve.objective import Measure
from melange_sky.reserve.pricing_cells import PATIENT, PricedCells
from melange_sky.reserve.question import Purchase
from tests.machine import slowness
from tests.optimizer.factories import demand, option
from tests.reserve.factories import (
    Case,
    case,
    prices_of,
    random_case,
    random_problem,
    whole_program,
)
from tests.reserve.test_advise import OBJECTIVES, check
from tests.reserve.test_in_parts import of_many


def climbed(made: Case, best: list[float], box: Box | None = None) -> tuple[float, Climb, Market]:
    """What the program in parts comes to, and what an ascent from its prices does in a box."""
    market = Market(made.question)
    measure = Measure(
        objective=made.question.objective, weights=market.weights, best=np.array(best or [0.0])
    )
    known = Known(made.question.mixes)
    program = InParts(market, known, measure, NEVER)
    mean = program.bound(lambda _: None, lambda: False)
    ascent = Ascent(
        market=market,
        known=known,
        matter=mean.matter,
        offsets=measure.offsets,
        deadline=NEVER,
    )
    known.learn(np.ceil(made.question.mixes[0].most * 10))
    cells = cells_of(market.groups, made.question.hours_each, FEW_CELLS)
    start = ascent.from_mean(cells, program.spans, mean)
    above = max(mean.value * 1.5, 1.0)
    told: list[float] = []
    climb = ascent.of(cells, start, box or market.root, (above, above), told.append)
    assert told == sorted(told)
    assert told[-1] == climb.bound
    return mean.value, climb, market


@pytest.mark.parametrize("seed", range(16))
def test_no_purchase_comes_below(seed: int) -> None:
    rng = random.Random(900 + seed)
    made = random_case(rng, options=rng.choice([2, 3, 4]), periods=rng.choice([3, 5]))
    best = [0.0] * len(made.question.scenarios)
    if len(made.question.scenarios) > 1:
        made = made.asking(objective=OBJECTIVES[seed % 4])
        best = [s.best_usd for s in advise(made.question).scenarios]
    least = whole_program(made, best)
    _, climb, _ = climbed(made, best)
    assert climb.bound <= least + 1e-6 * max(1.0, abs(least))


@pytest.mark.parametrize("seed", range(6))
def test_no_purchase_of_a_box_comes_below(seed: int) -> None:
    rng = random.Random(950 + seed)
    made = random_case(rng, options=3, periods=4)
    market = Market(made.question)
    if not len(market.usd) or market.root.is_point:
        return
    low = np.array([float(rng.randrange(int(most) + 1)) for most in market.root.high])
    made = made.asking(objective=OBJECTIVES[0])
    box = Box(low=low, high=np.minimum(low + 1, market.root.high))
    _, climb, market = climbed(made, [0.0] * len(made.question.scenarios), box)
    costs = []
    for units in product(
        *(range(int(a), int(b) + 1) for a, b in zip(box.low, box.high, strict=True))
    ):
        bought = dict(zip(market.kept, units, strict=True))
        costs.append(_cost(made, bought))
    assert climb.bound <= min(costs) * (1 + 1e-6) + 1e-9


def _cost(made: Case, bought: dict[int, int]) -> float:
    """What a purchase costs, by a whole program in which nothing else can be bought and it must be."""
    usd = sum(n * made.question.purchases[k].usd for k, n in bought.items())
    free = tuple(
        type(p)(
            name=p.name,
            usd=0.0,
            draws=p.draws,
            most=bought.get(k, 0),
            active=p.active,
        )
        for k, p in enumerate(made.question.purchases)
    )
    return usd + whole_program(made.asking(purchases=free))


def test_whole_fleets_raise_the_bound() -> None:
    made = of_many(16, 4, 5)
    in_parts, climb, _ = climbed(made, [0.0])
    least = whole_program(made)
    assert 1.1 * in_parts < climb.bound <= least * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_a_search_to_a_gap_brackets_a_whole_integer_program(seed: int) -> None:
    rng = random.Random(300 + seed)
    made = random_case(rng, options=rng.choice([2, 3]), periods=rng.choice([4, 6]))
    least = whole_program(made)
    for within in (1e-4, 1e-2):
        advice = advise(made.asking(within=within).question)
        assert advice.bound_objective_usd <= least * (1 + 1e-9)
        assert least <= advice.objective_usd * (1 + 1e-9)
        assert advice.gap <= within
        check(made.question, advice)


@pytest.mark.parametrize("options", [8, 16])
def test_many_options_to_a_gap(options: int) -> None:
    made = of_many(options, 4, options)
    least = whole_program(made)
    advice = advise(made.asking(within=1e-3).question)
    assert advice.bound_objective_usd <= least * (1 + 1e-9)
    assert least <= advice.objective_usd * (1 + 1e-9)
    assert advice.gap <= 1e-3


@pytest.mark.parametrize("seed", range(10))
def test_cells_are_priced_as_by_trying_all_fleets(seed: int) -> None:
    rng = random.Random(seed)
    problem = random_problem(rng, 3)
    rates = [round(rng.uniform(0.5, 3.0), 2) for _ in range(4)]
    made = case([problem], [rates], purchases=of_many(3, 4, seed).question.purchases)
    market, mix = Market(made.question), made.question.mixes[0]
    known = Known(made.question.mixes)
    known.learn(np.ceil(mix.most * 10))
    cells = cells_of(market.groups, 1.0, FEW_CELLS)
    root = market.root
    levels = Levels.of(root, [set(np.arange(most).tolist()) for most in root.high])
    priced = PricedCells(market, known, cells, levels, np.ones(1))
    numbers = np.random.default_rng(seed)
    prices = numbers.uniform(0, 1, priced.dearest.shape) * priced.dearest
    no_pools = np.zeros((len(cells), 0))
    for _ in range(30):  # until why fleets serve no more is known
        priced.at(prices, no_pools, PATIENT)
        priced.learn()
    found = priced.at(prices, no_pools, PATIENT)
    fleets = np.array(list(product(range(9), repeat=3)), dtype=float)
    highest = np.array([mix.rate(fleet) for fleet in fleets])
    least = []
    for g, cell in enumerate(cells):
        tariff = market.tariff(market.groups[cell.group], levels, prices[g])
        least.append(tariff.cost(fleets[highest >= cell.rate_rps]).min())
    reduced = market.usd[levels.purchase] - priced.weights @ prices
    bound = float(np.minimum(reduced, 0.0).sum() + priced.weights @ np.array(least))
    assert found.bound == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_cells_are_priced_so_where_a_pool_pays_for_nearly_nothing(seed: int) -> None:
    rng, numbers = random.Random(40 + seed), np.random.default_rng(seed)
    problem = random_problem(rng, 3)
    rates = [round(rng.uniform(0.5, 3.0), 2) for _ in range(4)]
    draws = {k: rng.uniform(0.2, 1.0) for k in range(3) if k != seed % 4}
    bought = (
        Purchase(name="term", usd=0.1, draws={seed % 3: 1.0}, most=3),
        Purchase(name="spend", usd=0.1, draws=draws, most=5),
    )
    made = case([problem], [rates], purchases=bought)
    market = Market(made.question)
    fleets = np.array(list(product(range(9), repeat=3)), dtype=float)
    known = Known(made.question.mixes)
    for fleet in fleets:
        known.learn(fleet)
    cells = cells_of(market.groups, 1.0, FEW_CELLS)
    levels = Levels.of(market.root, [set(np.arange(most).tolist()) for most in market.root.high])
    priced = PricedCells(market, known, cells, levels, np.ones(1))
    prices = numbers.choice([0.0, 0.3, 1.0], priced.dearest.shape) * priced.dearest
    pooled = numbers.choice([0.0, 1e-6, 0.4], priced.dearest_pooled.shape) * priced.dearest_pooled
    least = []
    for g, cell in enumerate(cells):
        rents = prices_of(problem)
        for k, drawn in draws.items():
            rents[k] = min(rents[k], drawn * pooled[g, 0])
        own = np.sort(np.minimum(prices[g, levels.purchase == 0], rents[seed % 3]))
        costs = [
            sum(rents[k] * fleet[k] for k in range(3) if k != seed % 3)
            + own[: int(fleet[seed % 3])].sum()
            + rents[seed % 3] * max(fleet[seed % 3] - len(own), 0)
            for fleet in fleets
        ]
        least.append(np.array(costs)[known.rates[:, 0] >= cell.rate_rps].min())
    term = market.usd[0] - priced.weights @ prices[:, levels.purchase == 0]
    spend = market.usd[1] - float(priced.weights @ pooled[:, 0])
    fixed = np.minimum(term, 0.0).sum() + min(spend, 0.0) * market.root.high[1]
    found = priced.at(prices, pooled, PATIENT)
    assert found.bound == pytest.approx(fixed + float(priced.weights @ np.array(least)), rel=1e-6)


def test_thousands_of_small_instances_that_could_do_all_cost_no_time() -> None:
    """What few large ones do, the smallest would by the thousand: a search that tries such counts has no end."""
    numbers, sizes = np.random.default_rng(3), np.arange(12)
    rows = [
        option(f"o{k}", price, [(most * fall**sizes * numbers.lognormal(0, 0.1, 12)).tolist()])
        for k, (price, most, fall) in enumerate(
            ((0.2, 9.0, 0.35), (0.4, 14.0, 0.42), (3.0, 30.0, 0.7), (9.0, 75.0, 0.75))
        )
    ]
    shares = 0.75**sizes
    problem = Problem(demands=(demand([(shares / shares.sum()).tolist()], *rows),))
    rates = 22 + 18 * np.sin(np.arange(120) * np.pi / 12) * numbers.lognormal(0, 0.1, 120)
    terms = tuple(
        Purchase(
            name=f"term{k}", usd=0.65 * row.option.price_usd_per_hour * 120, draws={k: 1.0}, most=20
        )
        for k, row in enumerate(rows)
    )
    made = case([problem], [rates.clip(1).round(2).tolist()], purchases=terms)
    assert made.question.mixes[0].most.max() * rates.max() > 1000
    in_time = Deadline.after(6 * slowness())  # takes a tenth of that
    advice = advise(made.asking(within=1e-3).question, deadline=in_time)
    assert advice.gap <= 1e-3
    check(made.question, advice)


def test_a_worth_asks_no_less_than_prices_do() -> None:
    rng = np.random.default_rng(0)
    loads = rng.uniform(0.1, 1.0, (4, 1, 5))
    loads[1, 0, 2] = np.inf
    shape = Shape(loads=loads, weights=np.zeros((4, 1)), shares=np.full(5, 0.2), may_miss=0.0)
    prices = rng.uniform(0.5, 2.0, (3, 4))
    for price, worth in zip(prices, shape.worths(prices), strict=True):
        least = (price[:, None] * loads[:, 0]).min(axis=0).sum()
        assert (worth <= price / least * (1 + 1e-12)).all()
        assert shape.worth(price) == pytest.approx(worth)
        costs = worth[:, None] * loads[:, 0]
        assert costs.min(axis=0).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_cells_are_priced_alike_on_any_number_of_cores_and_to_a_part(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = of_many(6, 12, seed)
    market = Market(made.question)
    known = Known(made.question.mixes)
    known.learn(np.ceil(made.question.mixes[0].most * 10))
    cells = cells_of(market.groups, 1.0, FEW_CELLS)
    levels = Levels.of(market.root, [set(np.arange(most).tolist()) for most in market.root.high])
    pools = np.zeros((len(cells), 0))
    monkeypatch.setattr(pricing_cells, "_FEW", 1)
    bounds = {}
    for cores, within in ((1, 0.0), (3, 0.0), (3, 0.05)):
        monkeypatch.setattr(pricing_cells, "usable_cores", lambda cores=cores: cores)
        priced = PricedCells(market, known, cells, levels, np.ones(1), within)
        prices = np.random.default_rng(seed).uniform(0.5, 1, priced.dearest.shape)
        for _ in range(10):
            found = priced.at(prices * priced.dearest, pools, PATIENT)
        bounds[cores, within] = found.bound
    exact = bounds[1, 0.0]
    assert bounds[3, 0.0] == exact
    rented = exact - np.minimum(found.reduced, 0.0).sum()
    assert exact - 0.05 * rented * (1 + 1e-9) <= bounds[3, 0.05] <= exact


@pytest.mark.parametrize("seed", range(6))
def test_a_purchase_is_not_below_what_it_costs_beside_a_climb(seed: int) -> None:
    rng = random.Random(970 + seed)
    made = of_many(4, 5, seed)
    _, climb, market = climbed(made, [0.0])
    known = Known(made.question.mixes)
    known.learn(np.ceil(made.question.mixes[0].most * 10))
    ascent = Ascent(
        market=market, known=known, matter=np.ones(1), offsets=np.zeros(1), deadline=NEVER
    )
    units = np.array([float(rng.randrange(min(int(most), 2) + 1)) for most in market.root.high])
    for _ in range(20):  # until why fleets serve no more is known
        least = ascent.beside(climb, units)
    cost = _cost(made, dict(zip(market.kept, units.astype(int).tolist(), strict=True)))
    assert least <= cost * (1 + 1e-9)
    assert known.totals(market, units)[0] == pytest.approx(cost, rel=1e-6)
