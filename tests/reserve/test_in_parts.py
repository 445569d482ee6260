"""The bound with fleets in parts against whole integer programs, and the advice of many options."""

from __future__ import annotations

import random

import numpy as np
import pytest

from melange_sky.optimizer.deadline import NEVER
from melange_sky.reserve.advise import advise
from melange_sky.reserve.in_parts import InParts
from melange_sky.reserve.known import Known
from melange_sky.reserve.market import Market
from melange_sky.reserve.objective import Measure
from melange_sky.reserve.question import Objective, Purchase, Question
from tests.reserve.factories import (
    Case,
    case,
    prices_of,
    random_case,
    random_problem,
    whole_program,
)
from tests.reserve.test_advise import check, term

OBJECTIVES = (Objective(), Objective(kind="regret"), Objective(kind="cvar", quantile=0.5))


def bounds(question: Question, best: list[float]) -> tuple[float, float]:
    """What the program comes to with lines of fleets in parts, then with those of whole ones."""
    market = Market(question)
    measure = Measure(
        objective=question.objective, weights=market.weights, best=np.array(best or [0.0])
    )
    program = InParts(market, Known(question.mixes), measure, NEVER)
    seen: list[float] = []
    in_parts = program.bound(lambda mean: seen.append(mean.value), lambda: False).value
    whole = program.bound(lambda mean: seen.append(mean.value), lambda: False, whole=True).value
    assert seen == sorted(seen) or np.diff(seen).min() > -1e-6
    return in_parts, whole


@pytest.mark.parametrize("seed", [0, 1, 2, 5])
def test_several_levels_of_attainment_are_bounded_before_anything_has_a_price(seed: int) -> None:
    rng = random.Random(seed)
    problem = random_problem(rng, 4, levels=True)
    rates = [round(rng.uniform(5.0, 20.0), 2) for _ in range(6)]
    usd = enumerate((6 * 0.6 * prices_of(problem)).tolist())
    terms = tuple(term(k, each, 6, name=f"t{k}") for k, each in usd)
    made = case([problem], [rates], purchases=terms)
    assert len(made.question.mixes[0].levels) > 1
    in_parts, _ = bounds(made.question, [0.0])
    assert 0 < in_parts <= whole_program(made)


@pytest.mark.parametrize("seed", range(12))
def test_no_purchase_comes_below(seed: int) -> None:
    rng = random.Random(700 + seed)
    made = random_case(rng, options=rng.choice([2, 3, 4]), periods=rng.choice([3, 5]))
    best = [0.0] * len(made.question.scenarios)
    if len(made.question.scenarios) > 1:
        made = made.asking(objective=OBJECTIVES[seed % 3])
        best = [s.best_usd for s in advise(made.question).scenarios]
    if seed % 3 == 0:
        upfront = max(p.upfront_usd for p in made.question.purchases)
        made = made.asking(budget_upfront_usd=upfront * 1.5)
        best = [s.best_usd for s in advise(made.question).scenarios]
    least = whole_program(made, best)
    in_parts, whole = bounds(made.question, best)
    room = 1e-6 * max(1.0, abs(least))
    assert in_parts <= whole + room
    assert whole <= least + room


def test_whole_fleets_raise_the_bound() -> None:
    made = of_many(16, 4, 5)
    in_parts, whole = bounds(made.question, [0.0])
    least = whole_program(made)
    assert 1.1 * in_parts < whole <= least * (1 + 1e-9)


def of_many(options: int, periods: int, seed: int) -> Case:
    """Many options with a term each and two blocks."""
    rng = random.Random(seed)
    problem = random_problem(rng, options)
    prices = prices_of(problem).tolist()
    half = np.arange(periods) < periods // 2
    terms = [
        term(j, p * rng.uniform(0.5, 0.75) * periods, name=f"t{j}") for j, p in enumerate(prices)
    ]
    rates = [round(rng.uniform(0.5, 4.0), 2) for _ in range(periods)]
    blocks = [
        Purchase(
            name=f"b{j}",
            usd=prices[j] * rng.uniform(0.4, 0.7) * float(half.sum()),
            draws={j: 1.0},
            most=3,
            active=half,
        )
        for j in range(2)
    ]
    return case([problem], [rates], purchases=(*terms, *blocks))


@pytest.mark.parametrize(("options", "periods"), [(6, 4), (8, 4), (12, 3), (16, 4)])
def test_many_options_equal_a_whole_integer_program(options: int, periods: int) -> None:
    made = of_many(options, periods, options)
    least = whole_program(made)
    advice = advise(made.question)
    assert advice.gap == 0
    assert advice.objective_usd == pytest.approx(least, rel=1e-9)
    check(made.question, advice)
    loose = advise(made.asking(within=0.05).question)
    assert loose.bound_objective_usd <= least * (1 + 1e-9)
    assert least <= loose.objective_usd * (1 + 1e-9)
    assert loose.gap <= 0.05
