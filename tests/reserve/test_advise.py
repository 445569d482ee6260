"""The advice against one whole integer program, against trying everything, and by what must hold of any."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import Problem, optimize
from melange_sky.optimizer.answers.rate_sweep import at_rate
from melange_sky.optimizer.deadline import Deadline, TimeUpError
from melange_sky.reserve.advise import advise
from melange_sky.reserve.answer import Advice
from melange_sky.reserve.question import Objective, Purchase, Question
from tests.optimizer.factories import demand, option
from tests.reserve.factories import (
    Case,
    Everything,
    case,
    prices_of,
    random_case,
    random_problem,
    whole_program,
)

OBJECTIVES = (
    Objective(),
    Objective(kind="regret"),
    Objective(kind="cvar", quantile=0.5),
    Objective(kind="cvar", quantile=0.9),
)


@pytest.mark.parametrize("seed", range(20))
def test_equals_a_whole_integer_program(seed: int) -> None:
    rng = random.Random(seed)
    made = random_case(rng, options=rng.choice([2, 3]), periods=rng.choice([3, 5, 6]))
    if len(made.question.scenarios) > 1:
        made = made.asking(objective=OBJECTIVES[seed % 4])
    advice = advise(made.question)
    assert advice.gap == 0
    best = [s.best_usd for s in advice.scenarios]
    assert advice.objective_usd == pytest.approx(whole_program(made, best), rel=1e-9, abs=1e-9)
    check(made.question, advice)


@pytest.mark.parametrize("seed", range(8))
def test_equals_trying_everything(seed: int) -> None:
    rng = random.Random(100 + seed)
    made = random_case(rng, options=rng.choice([1, 2]), periods=rng.choice([3, 6]))
    if seed % 2:
        upfront = [p.upfront_usd for p in made.question.purchases]
        made = made.asking(budget_upfront_usd=max(upfront) * 1.5)
    tried = Everything(made)
    for objective in OBJECTIVES if len(made.question.scenarios) > 1 else OBJECTIVES[:1]:
        advice = advise(made.asking(objective=objective).question)
        assert advice.objective_usd == pytest.approx(tried.least(objective), rel=1e-9, abs=1e-9)
        units = tuple(bought.units for bought in advice.bought)
        told = [s.cost_usd for s in advice.scenarios]
        assert told == pytest.approx(tried.costs[units], rel=1e-9)
        table = np.array(list(tried.costs.values()))
        assert [s.best_usd for s in advice.scenarios] == pytest.approx(table.min(axis=0).tolist())
        nothing = tried.costs[0, 0, 0]
        assert [s.nothing_usd for s in advice.scenarios] == pytest.approx(nothing)


def check(question: Question, advice: Advice) -> None:
    """What holds of any advice, its base case's cost added up again from its fleets."""
    base, owned = question.scenarios[0], question.owned_units()
    rented = advice.fleets - advice.covered
    assert (rented >= -1e-9).all()
    assert (advice.fleets >= advice.covered - 1e-9).all()
    rent = float((rented * base.rents[base.price]).sum()) * question.hours_each
    bought = sum(b.usd for b in advice.bought)
    totals = advice.totals
    assert totals.chosen_usd == pytest.approx(rent + bought, rel=1e-9, abs=1e-9)
    assert totals.bound_usd <= totals.chosen_usd * (1 + 1e-9)
    for t in np.flatnonzero(base.rate_rps > 0):
        served = question.mixes[question.mix[t]].rate(advice.fleets[t])
        assert served >= base.rate_rps[t] * (1 - 1e-9)
    whole = [k for k, p in enumerate(question.purchases) if list(p.draws.values()) == [1.0]]
    covers = owned.copy()
    for k in whole:
        (j,) = question.purchases[k].draws
        covers[:, j] += advice.bought[k].units * question.active(question.purchases[k])
    if len(whole) == len(question.purchases):
        assert advice.covered == pytest.approx(np.minimum(advice.fleets, covers))
    for one in advice.bought:
        assert (one.used_fraction is None) == (one.units == 0)
        assert one.used_fraction is None or 0 <= one.used_fraction <= 1 + 1e-9


def term(option: int, usd: float, most: int = 4, name: str = "term") -> Purchase:
    """A purchase of whole instances that counts always."""
    return Purchase(name=name, usd=usd, draws={option: 1.0}, most=most)


def small(
    seed: int, rates: list[float], discount: float, options: int = 2, hours_each: float = 1.0
) -> Case:
    """One scenario, every option offered for the whole span at one discount."""
    problem = random_problem(random.Random(seed), options)
    span = len(rates) * hours_each
    purchases = tuple(
        term(j, price * (1 - discount) * span, name=f"t{j}")
        for j, price in enumerate(prices_of(problem).tolist())
    )
    return case([problem], [rates], purchases=purchases, hours_each=hours_each)


rates_lists = st.lists(st.integers(0, 40).map(lambda n: n / 10), min_size=2, max_size=5).filter(any)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 30), rates_lists, st.floats(0.05, 0.6), st.floats(0.0, 0.3))
def test_a_cheaper_commitment_never_lowers_the_saving(
    seed: int, rates: list[float], discount: float, more: float
) -> None:
    now, cheaper = small(seed, rates, discount), small(seed, rates, discount + more)
    before, after = advise(now.question), advise(cheaper.question)
    assert after.totals.chosen_usd <= before.totals.chosen_usd * (1 + 1e-9)
    assert after.totals.all_on_demand_usd == pytest.approx(before.totals.all_on_demand_usd)
    assert before.totals.bound_usd <= before.totals.chosen_usd * (1 + 1e-9)
    assert before.totals.chosen_usd <= before.totals.all_on_demand_usd * (1 + 1e-9)
    assert before.totals.chosen_usd <= before.totals.commit_peak_usd * (1 + 1e-9)
    if before.totals.best_single_usd is not None:
        assert before.totals.chosen_usd <= before.totals.best_single_usd * (1 + 1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 30), rates_lists)
def test_without_a_discount_nothing_is_bought(seed: int, rates: list[float]) -> None:
    advice = advise(small(seed, rates, 0.0).question)
    assert [b.units for b in advice.bought] == [0, 0]
    assert advice.flip_fraction is None
    assert advice.totals.chosen_usd == advice.totals.all_on_demand_usd


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 30), st.integers(5, 40), st.floats(0.05, 0.6))
def test_flat_demand_is_all_bought(seed: int, rate: int, discount: float) -> None:
    made = small(seed, [rate / 10] * 4, discount)
    advice = advise(made.question)
    assert (advice.fleets == advice.covered).all()
    cost = advice.totals.all_on_demand_usd * (1 - discount)
    assert advice.totals.chosen_usd == pytest.approx(cost, rel=1e-9)
    assert advice.flip_fraction == pytest.approx(discount, abs=1e-9)
    assert [b.break_even_fraction for b in advice.bought] == pytest.approx([1 - discount] * 2)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 30), rates_lists, st.floats(0.05, 0.6), st.integers(0, 1))
def test_owned_units_never_raise_the_cost(
    seed: int, rates: list[float], discount: float, which: int
) -> None:
    made = small(seed, rates, discount)
    owned = np.zeros((len(rates), 2))
    owned[: 1 + len(rates) // 2, which] = 1.0
    without = advise(made.question).totals
    owning = advise(made.asking(owned=owned).question).totals
    assert owning.chosen_usd <= without.chosen_usd * (1 + 1e-9)
    assert owning.bound_usd <= owning.chosen_usd * (1 + 1e-9)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 30), rates_lists, st.floats(0.05, 0.6))
def test_the_unit_of_time_changes_nothing(seed: int, rates: list[float], discount: float) -> None:
    whole = advise(small(seed, rates, discount).question)
    halves = advise(
        small(seed, [r for r in rates for _ in range(2)], discount, hours_each=0.5).question
    )
    assert halves.totals.chosen_usd == pytest.approx(whole.totals.chosen_usd, rel=1e-9)
    assert halves.totals.bound_usd == pytest.approx(whole.totals.bound_usd, rel=1e-9)
    assert [b.units for b in halves.bought] == [b.units for b in whole.bought]


def test_a_unit_is_bought_where_it_is_busy_for_more_than_it_costs() -> None:
    problem = Problem(demands=(demand([[1.0]], option("a", 2.0, [[1.0]])),))
    rates = [0.5, 0.5, 1.5, 1.5, 1.5, 2.5, 0.5, 1.5]  # busy: 8, 5, 1 of 8 hours
    for discount, bought in ((0.0, 0), (0.2, 1), (0.374, 1), (0.376, 2), (0.87, 2), (0.88, 3)):
        purchase = term(0, 2.0 * (1 - discount) * 8)
        (one,) = advise(case([problem], [rates], purchases=(purchase,)).question).bought
        assert one.units == bought, discount
        busy = {0: None, 1: 1.0, 2: 13 / 16, 3: 14 / 24}[bought]
        assert one.used_fraction == (None if busy is None else pytest.approx(busy))


def test_more_rates_than_the_bound_looks_at_are_proven_too() -> None:
    problem = Problem(demands=(demand([[1.0]], option("a", 2.0, [[1.0]])),))
    rates = [round(0.5 + 0.007 * n, 4) for n in range(500)]  # up to 4 instances
    advice = advise(case([problem], [rates], purchases=(term(0, 0.7 * 2.0 * 500),)).question)
    counts = np.ceil(np.array(rates) - 1e-9)
    costs = [2.0 * np.maximum(counts - y, 0).sum() + 700.0 * y for y in range(5)]
    assert advice.gap == 0
    assert advice.bought[0].units == int(np.argmin(costs))
    assert advice.totals.chosen_usd == pytest.approx(min(costs))


def drawn(rng: random.Random) -> Iterator[Problem]:
    """Problems with attainment levels that some fleet serves."""
    while True:
        problem = random_problem(rng, 3, levels=True)
        with suppress(InfeasibleError):
            optimize(problem)
            yield problem


@pytest.mark.parametrize("seed", range(6))
def test_every_hour_is_the_optimizers_own_where_nothing_is_offered(seed: int) -> None:
    rng = random.Random(100 + seed)
    problem = next(drawn(rng))
    rates = [round(rng.uniform(0.0, 5.0), 2) for _ in range(6)]
    advice = advise(case([problem], [rates]).question)
    alone = [optimize(at_rate(problem, r)).cost_usd_per_hour if r else 0.0 for r in rates]
    assert advice.totals.chosen_usd == pytest.approx(sum(alone), rel=1e-6)
    assert advice.totals.bound_usd == pytest.approx(sum(alone), rel=1e-6)


def test_scenarios_tell_what_knowing_them_is_worth() -> None:
    problem = Problem(demands=(demand([[1.0]], option("a", 1.0, [[1.0]])),))
    purchases = (term(0, 6.0),)  # of ten hours: pays where it is busy for more than six
    made = case([problem], [[1.0] * 10, [1.0] * 4 + [0.0] * 6], purchases=purchases)
    advice = advise(made.question)  # weights 1 : 2
    assert [b.units for b in advice.bought] == [0]  # (10 + 2 × 4) ÷ 3 = 6: a tie buys nothing
    assert [s.cost_usd for s in advice.scenarios] == [10.0, 4.0]
    assert [s.best_usd for s in advice.scenarios] == [6.0, 4.0]
    assert [s.regret_usd for s in advice.scenarios] == [4.0, 0.0]
    assert advice.foresight_value_usd == pytest.approx(4 / 3)
    careful = advise(made.asking(objective=Objective(kind="regret")).question)
    assert [b.units for b in careful.bought] == [1]
    assert careful.objective_usd == pytest.approx(2.0)
    assert [s.regret_of_nothing_usd for s in careful.scenarios] == [4.0, 0.0]
    # The mean of both asks for a third of a unit after the fourth hour: one unit all the time.
    assert careful.stochastic_value_usd == pytest.approx(0.0)
    assert advice.stochastic_value_usd == pytest.approx(0.0)


def test_time_that_ends_leaves_an_answer_with_its_gap() -> None:
    made = small(3, [0.5, 1.0, 2.0, 3.9, 2.2], 0.4)
    with pytest.raises(TimeUpError):
        advise(made.question, deadline=Deadline(0.0, clock=lambda: 1.0))
    seen: list[tuple[float, float]] = []
    whole = advise(made.question, progress=lambda cost, bound: seen.append((cost, bound)))
    assert whole.gap == 0
    assert all(bound <= cost * (1 + 1e-9) for cost, bound in seen)
    loose = advise(replace(made.question, within=0.2))
    assert loose.gap <= 0.2
    assert loose.bound_objective_usd <= whole.objective_usd * (1 + 1e-9)


def test_a_rate_beyond_every_fleet_is_told() -> None:
    strong = Problem(demands=(demand([[1.0]], option("a", 1.0, [[1.0]])),))
    assert advise(case([strong], [[0.0, 0.0]]).question).totals.chosen_usd == 0
