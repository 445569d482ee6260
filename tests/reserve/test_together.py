"""Several models at once: each model's fleets and what ties them, against one program of all, and each by itself."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from melange_sky.constraints import Constraints
from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.answers.rate_sweep import at_rate
from melange_sky.optimizer.deadline import Deadline
from melange_sky.reserve.advise import advise
from melange_sky.reserve.in_parts_tied import farthest
from melange_sky.reserve.market import Market
from melange_sky.reserve.question import Purchase
from melange_sky.reserve.ruled import ruled_by
from melange_sky.reserve.together import Together
from tests.reserve.ruled_factories import (
    RuledCase,
    in_one_program,
    made,
    random_rules,
    ruled_case,
    whole_ruled_program,
)

KINDS = (("limits",), ("spare",), ("limits", "spare"), ("min_replicas",), ("limits", "share"), ())


@pytest.mark.parametrize("seed", range(12))
def test_rates_and_cheapest_fleets_are_those_of_one_program(seed: int) -> None:
    rng = random.Random(seed)
    kinds = KINDS[seed % len(KINDS)]
    try:
        case = ruled_case(rng, random_rules(rng, kinds), models=2, options=2)
        whole = in_one_program(case)
    except InfeasibleError:
        return
    (served,) = case.question.mixes
    assert isinstance(served, Together)
    for _ in range(60):
        fleet = np.array([float(rng.randrange(4)) for _ in case.places])
        assert served.rate(fleet) == pytest.approx(whole.rate(fleet), rel=1e-6, abs=1e-9)
    market = Market(case.question)
    for group in market.groups:
        for _ in range(3):
            units = np.array([float(rng.randrange(3)) for _ in market.purchases])
            tariff, rate = market.beside(group, units), float(rng.choice(group.rates_rps))
            best = whole.cheapest(tariff, rate)
            found, near = served.cheapest(tariff, rate), served.near(tariff, rate)
            if best is None:
                assert found is None and near is None
                continue
            assert found is not None and near is not None
            assert found.cost == pytest.approx(best.cost, rel=1e-6, abs=1e-9)
            assert found.bound <= found.cost * (1 + 1e-9) and near.cost >= best.cost * (1 - 1e-6)
            assert served.rate(near.fleet) >= rate * (1 - 1e-9)
            assert served.cheapest(tariff, rate, best.cost * (1 - 1e-6)) is None


@pytest.mark.parametrize("seed", range(6))
def test_models_that_nothing_ties_cost_what_each_does_alone(seed: int) -> None:
    rng = random.Random(seed)
    case = ruled_case(rng, Constraints(spare=seed % 2), models=2, options=2, periods=6)
    rents = case.question.scenarios[0].rents[0]
    own = [
        Purchase(name=f"p{k}", usd=float(rents[k]) * 6 * 0.6, draws={k: 1.0}, most=4)
        for k in range(4)
    ]
    rates = case.question.scenarios[0].rate_rps.tolist()
    both = advise(made(case.problem, case.places, rents, rates, own).question)
    alone = 0.0
    for m, demand in enumerate(case.problem.demands):
        problem = replace(case.problem, demands=(demand,))
        question = replace(
            case.question,
            options=case.question.options[2 * m : 2 * m + 2],
            mixes=[
                ruled_by(
                    at_rate(problem, max(rates) * demand.workload.rate_rps),
                    {(demand.name, o.option.name): k for k, o in enumerate(demand.options)},
                    2,
                )
            ],
            scenarios=(
                replace(
                    case.question.scenarios[0],
                    rate_rps=np.array(rates) * demand.workload.rate_rps,
                    rents=rents[None, 2 * m : 2 * m + 2],
                ),
            ),
            purchases=tuple(
                replace(p, draws={k: 1.0}) for k, p in enumerate(own[2 * m : 2 * m + 2])
            ),
        )
        found = advise(question)
        assert found.gap == 0
        alone += found.totals.chosen_usd
    assert both.gap == 0
    assert both.totals.chosen_usd == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_owned_is_shared_among_models_as_one_program_shares_it(seed: int) -> None:
    rng = random.Random(100 + seed)
    case = ruled_case(rng, random_rules(rng, KINDS[seed % len(KINDS)]), models=2, options=2)
    there = np.array([rng.random() < 0.7 for _ in range(4)])
    shared = (
        Purchase(
            name="owned", usd=0.0, draws={1: 1.0, 3: 1.0}, most=rng.randint(1, 3), active=there
        ),
    )
    bought = case.question.purchases if seed % 3 else ()
    bought = tuple(p for p in bought if not {1, 3} & set(p.draws))
    case = replace(case, question=replace(case.question, purchases=bought, shared=shared))
    least = whole_ruled_program(case)
    if least is None:
        return
    advice = advise(case.question)
    assert advice.gap == 0
    assert advice.totals.chosen_usd == pytest.approx(least, rel=1e-6, abs=1e-9)
    assert len(advice.bought) == len(bought)
    without = advise(replace(ruled_again(case).question, shared=()))
    assert advice.totals.all_on_demand_usd <= without.totals.all_on_demand_usd * (1 + 1e-6)
    assert advice.totals.bound_usd is not None
    assert advice.totals.bound_usd <= advice.totals.chosen_usd * (1 + 1e-6)
    used = advice.fleets[:, [1, 3]].sum(axis=1)
    paid = np.where(there, np.minimum(used, shared[0].most), 0.0)
    assert (advice.covered[:, [1, 3]].sum(axis=1) >= paid - 1e-9).all()


@pytest.mark.parametrize("kinds", [("spare",), ("limits",), ("limits", "spare")])
def test_what_is_told_in_little_time_brackets_the_least(kinds: tuple[str, ...]) -> None:
    rng = random.Random(7)
    for _ in range(3):
        case = ruled_case(rng, random_rules(rng, kinds), models=2, options=3, periods=8)
        try:
            best = advise(case.question)
        except InfeasibleError:
            continue
        soon = advise(ruled_again(case).question, deadline=Deadline(400.0, Ticks().count))
        assert best.gap == 0
        assert soon.bound_objective_usd <= best.objective_usd * (1 + 1e-6)
        assert soon.objective_usd >= best.objective_usd * (1 - 1e-6)


class Ticks:
    """A clock that goes by how often it is looked at."""

    def __init__(self) -> None:
        self.seen = 0

    def count(self) -> float:
        """One more each time."""
        self.seen += 1
        return float(self.seen)


def ruled_again(case: RuledCase) -> RuledCase:
    """The same case with nothing known."""
    scenario = case.question.scenarios[0]
    return made(
        case.problem,
        case.places,
        scenario.rents[0],
        scenario.rate_rps.tolist(),
        list(case.question.purchases),
    )


def test_prices_farthest_off_known_fleets_tell_a_fleet_in_parts_that_is_no_mean_of_them() -> None:
    known = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    outside = np.array([0.5, 0.25])
    prices = farthest(known, outside)
    assert (known @ prices).min() > outside @ prices
    assert not farthest(known, np.array([1.0, 0.5])).any()
    assert not farthest(np.zeros((0, 2)), outside).any()
