"""Rows of one accelerator alone: each is told as well as the time for all allows."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from melange_sky.optimizer import Constraints, Problem, Solution, SolveOptions, baselines, optimize
from melange_sky.optimizer.answers import baseline, optimum
from melange_sky.optimizer.answers.lowest_cost import LeastCost, least_cost
from melange_sky.optimizer.program.termination import Termination
from tests.optimizer.factories import at_most, demand, option
from tests.optimizer.test_brute_force import random_problem

TWO = Problem(
    demands=(demand([[7.0]], option("a", 1.0, [[2.0]]), option("b", 1.7, [[3.0]])),),
)


@pytest.mark.parametrize("cut_short", [1, 2])
def test_a_row_that_is_cut_short_is_taken_up_again_once(
    cut_short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def least(problem: Problem, options: SolveOptions, *, settle: bool = False) -> LeastCost:
        (name,) = {c.option.accelerator for c in problem.demands[0].options}
        asked.append(name)
        if name == "a" and asked.count("a") <= cut_short:
            return LeastCost(termination=Termination.LIMIT)
        return least_cost(problem, options, settle=settle)

    ((*whole,),) = baselines(TWO, (3.0,))
    monkeypatch.setattr(baseline, "least_cost", least)
    ((*rows,),) = baselines(TWO, (3.0,))
    assert asked == ["a", "b", "a"]
    assert rows[1] == whole[1]
    if cut_short == 1:
        assert rows[0] == whole[0]
    else:
        assert (rows[0].feasible, rows[0].cost_usd_per_hour) == (None, None)


@pytest.mark.parametrize("seed", range(12))
def test_the_least_cost_of_models_that_nothing_ties_is_the_sum_of_their_own(seed: int) -> None:
    rng = random.Random(f"untied {seed}")
    demands = [random_problem(rng, options=3, buckets=3).demands[0] for _ in range(4)]
    named = tuple(replace(one, name=f"m{n}") for n, one in enumerate(demands))
    problem = Problem(demands=named, headroom=0.1)
    found, whole = least_cost(problem, SolveOptions()), optimize(problem)
    assert found.termination is Termination.OPTIMAL
    assert found.cost_usd_per_hour == pytest.approx(whole.cost_usd_per_hour, rel=1e-9)
    assert found.gap <= 1e-9
    used = {c.option.accelerator for one in named for c in one.options}
    tied = replace(problem, constraints=Constraints(limits=at_most(*((name, 99) for name in used))))
    assert least_cost(tied, SolveOptions()).cost_usd_per_hour == pytest.approx(
        whole.cost_usd_per_hour, rel=1e-9
    )


def test_a_model_that_its_part_of_the_time_does_not_prove_is_planned_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first search of one of three models is cut short; what the others left proves it."""
    rng = random.Random("again")
    demands = [random_problem(rng, options=3, buckets=3).demands[0] for _ in range(3)]
    named = tuple(replace(one, name=f"m{n}") for n, one in enumerate(demands))
    problem, planned = Problem(demands=named, headroom=0.1), []
    whole = optimize(problem)
    together = optimum._together

    def one(part: Problem, options: SolveOptions) -> Solution:
        name = part.demands[0].name
        planned.append(name)
        found = together(part, options)
        if name == "m1" and planned.count(name) == 1:
            report = replace(found.report, status="feasible", mip_gap=0.3)
            return replace(found, report=report, cost_usd_per_hour=found.cost_usd_per_hour + 1)
        return found

    monkeypatch.setattr(optimum, "_together", one)
    again = optimize(problem)
    assert planned == ["m0", "m1", "m2", "m1"]
    assert again.report.is_optimal
    assert again.cost_usd_per_hour == pytest.approx(whole.cost_usd_per_hour, rel=1e-9)
