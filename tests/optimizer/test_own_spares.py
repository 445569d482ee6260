"""Fleets whose kinds hold spares of their own, and what is told of problems too hard to prove."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.optimizer import Constraints, Problem, SolveOptions, optimize
from melange_sky.optimizer.search.cheapest import with_own_spares
from melange_sky.optimizer.search.column_bounds import least_goal
from melange_sky.optimizer.search.levels import levelled_forms
from tests.optimizer.brute import survives
from tests.optimizer.factories import with_levels
from tests.optimizer.test_brute_force import random_problem
from tests.optimizer.test_outcomes import hard


def drawn(rng: random.Random) -> tuple[Problem, float]:
    """A problem with spares, every second of which some requests may miss their limits, and its least cost."""
    while True:
        problem = random_problem(rng, options=rng.randint(1, 4), buckets=rng.randint(1, 3))
        problem = with_levels(problem, rng) if rng.random() < 0.5 else problem
        problem = replace(problem, constraints=Constraints(spare=rng.choice([1, 2])))
        try:
            return problem, optimize(problem).cost_usd_per_hour
        except InfeasibleError:
            continue


@pytest.mark.parametrize("seed", range(40))
def test_a_fleet_with_own_spares_survives_every_loss(seed: int) -> None:
    options, rng = SolveOptions().started(), random.Random(f"own spares {seed}")
    problem, optimum = drawn(rng)
    bounds = []
    for form in levelled_forms(problem, options):
        own = with_own_spares(form.canonical, form.problem, options)
        assert own is not None
        columns = own.program.canonical.columns
        held = {c.name: n for c, n in zip(columns, own.point.instances, strict=True)}
        (demand,) = form.problem.demands
        counts = tuple(held.get(capacity.option.name, 0) for capacity in demand.options)
        assert survives(demand, counts, form.problem, options, demand.level)
        assert own.point.cost >= optimum * (1 - 1e-9)
        assert not own.is_proven
        bounds.append(least_goal(form.canonical, form.problem, options))
    assert min(bounds) <= optimum * (1 + 1e-9)


@pytest.mark.parametrize("limit_s", [1.0, 4.0])
def test_no_cost_below_that_of_divisible_instances_is_left_open(limit_s: float) -> None:
    problem, options = hard(spare=1), SolveOptions(time_limit_s=limit_s)
    try:
        solution = optimize(problem, options)
    except NoPlanInTimeError:
        return
    (form,) = levelled_forms(problem, options)
    bound = least_goal(form.canonical, problem, options)
    report = solution.report
    assert 0 < bound <= solution.cost_usd_per_hour * (1 - report.mip_gap) * (1 + 1e-9)
