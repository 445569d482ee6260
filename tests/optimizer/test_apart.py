"""Several models: each alone where nothing ties them, by the worth of limits where these do."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest

from melange_sky.constraints import Constraints, InstanceGroup
from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import (
    Demand,
    Problem,
    Solution,
    SolveOptions,
    Termination,
    least_cost,
    optimize,
)
from melange_sky.optimizer.answers import apart
from tests.optimizer.factories import at_most, demand, placed

OFFERS = {"A": 1.0, "B": 1.7, "C": 4.1}


def models(count: int, seed: int = 0, options: str = "ABC", buckets: int = 3) -> Problem:
    """So many models, each with rates and capacities of its own, on the same offers."""
    rng = random.Random(seed)

    def one(n: int) -> Demand:
        choices = [
            placed(
                f"{letter}-{n}",
                OFFERS[letter],
                [[rng.uniform(1, 3) * OFFERS[letter] for _ in range(buckets)]],
                "aws/us-east-1",
                accelerator=letter,
            )
            for letter in options
        ]
        return demand([[rng.uniform(0.2, 4) for _ in range(buckets)]], *choices, name=f"m{n:02d}")

    return Problem(demands=tuple(one(n) for n in range(count)), headroom=0.1)


def used(solution: Solution, letter: str) -> int:
    return sum(
        a.instances
        for chosen in solution.allocations
        for a in chosen
        if a.candidate.option.accelerator == letter
    )


def alone(problem: Problem) -> list[Solution]:
    return [optimize(replace(problem, demands=(one,))) for one in problem.demands]


@pytest.mark.parametrize("count", [1, 2, 10, 40])
def test_untied_models_cost_what_each_costs_alone(count: int) -> None:
    problem = models(count)
    together, each = optimize(problem), alone(problem)
    assert together.report.status == "optimal"
    assert together.cost_usd_per_hour == pytest.approx(sum(s.cost_usd_per_hour for s in each))
    assert together.allocations == tuple(s.allocations[0] for s in each)


@pytest.mark.parametrize(
    "constraints",
    [
        Constraints(limits=at_most(("A", 999))),
        Constraints(budget_usd_per_hour=1e6),
        Constraints(limits=at_most(("B", 999)), spare=1, min_replicas=2),
    ],
)
def test_what_spans_models_and_does_not_bind_changes_nothing(constraints: Constraints) -> None:
    problem = models(6)
    own = replace(constraints, limits=(), budget_usd_per_hour=None)
    free, tied = (optimize(replace(problem, constraints=c)) for c in (own, constraints))
    assert tied.report.status == "optimal"
    assert tied.cost_usd_per_hour == pytest.approx(free.cost_usd_per_hour, abs=1e-9)


def test_the_order_of_the_models_changes_nothing_but_the_order() -> None:
    problem = replace(models(8), constraints=Constraints(limits=at_most(("A", 6), ("C", 9))))
    first = optimize(problem)
    turned = optimize(replace(problem, demands=problem.demands[::-1]))
    assert turned.allocations == first.allocations[::-1]


@pytest.mark.parametrize("seed", range(6))
def test_limits_that_bind_are_kept_and_the_gap_is_small(seed: int) -> None:
    problem = models(12, seed)
    free = optimize(problem)
    limits = at_most(
        *((letter, used(free, letter) // 2 + 1) for letter in "AC" if used(free, letter))
    )
    solution = optimize(replace(problem, constraints=Constraints(limits=limits)))
    assert solution.cost_usd_per_hour >= free.cost_usd_per_hour - 1e-9
    for key, most in limits:
        assert used(solution, key.name) <= most
    assert solution.report.mip_gap <= 0.02
    # What is billed serves something.
    assert all(a.load_fraction > 0 for chosen in solution.allocations for a in chosen)


def test_the_bound_adds_up_again_from_the_prices_of_the_limits() -> None:
    problem = models(12)
    free = optimize(problem)
    limits = at_most(("A", used(free, "A") // 2), ("C", used(free, "C") // 2 + 1))
    report = optimize(replace(problem, constraints=Constraints(limits=limits))).report
    assert report.limit_prices and report.bound_usd_per_hour is not None
    price = dict(report.limit_prices)
    least = 0.0
    for one in problem.demands:
        dearer = tuple(
            replace(
                c,
                option=replace(
                    c.option,
                    price_usd_per_hour=c.option.price_usd_per_hour
                    + price.get(c.option.accelerator, 0.0),
                ),
            )
            for c in one.options
        )
        least += optimize(
            replace(problem, demands=(replace(one, options=dearer),))
        ).cost_usd_per_hour
    bound = least - sum(price.get(key.name, 0.0) * most for key, most in limits)
    assert report.bound_usd_per_hour == pytest.approx(bound)


def truth(problem: Problem) -> float | None:
    """The least cost by trying every fleet of each model, then every sum of what they count against A."""
    ((_, most),) = problem.constraints.limits
    sums = {0: 0.0}
    for one in problem.demands:
        fleets: dict[int, float] = {}
        need = [
            sum(
                one.workload.rates_rps[i][j] / (c.rate(i, j) or math.inf)
                for i, j in one.workload.buckets()
            )
            / (1 - problem.headroom)
            for c in one.options
        ]
        bounds = [range(math.ceil(n) + 1) for n in need]
        for counts in itertools.product(*bounds):
            # One bucket: shares may be split at will, so that the rooms add up.
            if sum(n / load for n, load in zip(counts, need, strict=True)) >= 1 - 1e-9:
                units = counts[0]
                cost = sum(
                    n * c.option.price_usd_per_hour
                    for n, c in zip(counts, one.options, strict=True)
                )
                fleets[units] = min(cost, fleets.get(units, math.inf))
        sums = {
            total: min(sums[u] + cost for u in sums for v, cost in fleets.items() if u + v == total)
            for total in {u + v for u in sums for v in fleets if u + v <= most}
        }
        if not sums:
            return None
    return min(sums.values())


@pytest.mark.parametrize("count", [2, 5, 7])
@pytest.mark.parametrize("seed", range(8))
def test_tied_models_against_brute_force(count: int, seed: int) -> None:
    problem = models(count, seed, options="AB", buckets=1)
    most = random.Random(seed).randint(0, max(1, used(optimize(problem), "A")))
    limited = replace(problem, constraints=Constraints(limits=at_most(("A", most))))
    least = truth(limited)
    assert least is not None  # B serves everything
    solution = optimize(limited)
    report = solution.report
    assert solution.cost_usd_per_hour >= least - 1e-9
    assert solution.cost_usd_per_hour * (1 - report.mip_gap) <= least + 1e-6
    if report.status == "optimal":
        assert solution.cost_usd_per_hour == pytest.approx(least)
    if report.bound_usd_per_hour is not None:
        assert report.bound_usd_per_hour <= least + 1e-6
    assert report.mip_gap < 0.05


def test_a_model_that_cannot_be_served_is_named() -> None:
    problem = replace(models(3), constraints=Constraints(max_share_per_region=0.5))
    with pytest.raises(InfeasibleError, match=r"^m00: a share per region of at most 0.5"):
        optimize(problem)


def test_a_budget_below_the_sum_is_told_with_what_it_takes() -> None:
    problem = models(30)
    cost = optimize(problem).cost_usd_per_hour
    poor = replace(problem, constraints=Constraints(budget_usd_per_hour=10))
    with pytest.raises(InfeasibleError) as raised:
        optimize(poor)
    assert str(raised.value) == (
        "the budget of $10/h cannot be met at this rate; to make it possible, "
        f"raise the budget to ${cost:.2f}/h"
    )
    assert least_cost(poor, SolveOptions()).termination is Termination.INFEASIBLE


def test_paid_capacity_and_minimums_are_planned_in_one_program() -> None:
    """Which model uses what is paid for is chosen for all models at once."""
    problem = models(3)
    paid = Constraints(fixed=(InstanceGroup(accelerator="C", instances=1),))
    assert apart.plan_apart(replace(problem, constraints=paid), SolveOptions(), optimize) is None
    cost = optimize(replace(problem, constraints=paid)).cost_usd_per_hour
    assert cost < optimize(problem).cost_usd_per_hour
    asked = Constraints(minimum=(InstanceGroup(accelerator="C", instances=3),))
    solution = optimize(replace(problem, constraints=asked))
    assert used(solution, "C") >= 3


def test_the_least_cost_of_several_models_is_that_of_their_plan() -> None:
    problem = replace(models(7), constraints=Constraints(limits=at_most(("A", 2))))
    plan, least = optimize(problem), least_cost(problem, SolveOptions(), settle=True)
    assert least.cost_usd_per_hour == pytest.approx(plan.cost_usd_per_hour)
    assert least.gap == plan.report.mip_gap
