"""Fleets of one cost: counted or asked of the solver, the simplest is the same."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import Problem, baselines, optimize
from melange_sky.optimizer.problem.canonical import canonical_form
from melange_sky.optimizer.problem.question import SolveOptions
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search import equal_cost, simplest
from melange_sky.optimizer.search.dominance import drop_dominated
from melange_sky.optimizer.search.solution_point import rank_of
from tests.optimizer.brute import serves
from tests.optimizer.factories import demand, option, placed
from tests.optimizer.test_brute_force import CASES, hash_of, random_problem


def many_ties(rng: random.Random, options: int = 4) -> Problem:
    """Prices of a few whole dollars, capacities that follow them: equal costs abound."""
    rows = []
    for k in range(options):
        size = rng.choice([1, 1, 2, 2, 3, 4])
        rates = [[float(size * rng.choice([0.8, 1, 1, 1.2])) for _ in range(3)]]
        rows.append(option(f"o{k}", float(size), rates))
    return Problem(demands=(demand([[rng.uniform(0.2, 4) for _ in range(3)]], *rows),))


@pytest.mark.parametrize("seed", range(25))
def test_counting_finds_every_simpler_fleet_of_the_same_cost(seed: int) -> None:
    rng = random.Random(seed)
    problem = many_ties(rng)
    canonical = canonical_form(problem)
    solution = optimize(problem)
    counts = {a.candidate.option.name: a.instances for a in solution.allocations[0]}
    # A rank behind every other: all fleets of the cost come before it.
    worst = [99] * len(canonical.columns)
    counted = equal_cost.simpler_fleets(canonical, problem, solution.cost_usd_per_hour, worst)
    mine = [counts.get(c.name, 0) for c in canonical.columns]
    if counted is None:  # more than are tried one by one
        return
    assert mine in counted
    serving = [f for f in counted if _serves(problem, [c.name for c in canonical.columns], f)]
    assert serving[0] == mine
    places = [c.place for c in canonical.columns]
    ranks = [rank_of(f, places) for f in counted]
    assert ranks == sorted(ranks)


def _serves(problem: Problem, names: list[str], counts: list[int]) -> bool:
    assert names == [c.option.name for c in problem.demands[0].options]
    return serves(problem.demands[0], tuple(counts), problem, SolveOptions())


@pytest.mark.parametrize("case", ["plain", "limits", "min_replicas", "cloud_share", "spot_share"])
def test_counted_or_solved_the_fleet_is_the_same(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0
    for seed in range(8):
        rng = random.Random(hash_of(case) + seed)
        problem = many_ties(rng) if case == "plain" else random_problem(rng, options=4, buckets=3)
        if case != "plain":
            problem = replace(problem, constraints=CASES[case](rng))
        try:
            counted = optimize(problem)
        except InfeasibleError:
            continue
        with monkeypatch.context() as patch:
            patch.setattr(simplest, "simpler_fleets", lambda *_: None)
            tried = optimize(problem)
            patch.setattr(simplest, "simpler_by_counting", lambda *_: None)
            solved = optimize(problem)
        fleets = [
            [(a.candidate.option.name, a.instances) for mine in s.allocations for a in mine]
            for s in (counted, tried, solved)
        ]
        assert fleets[0] == fleets[1] == fleets[2]
        compared += 1
    assert compared >= 3


def ties_of_quarters(seed: int) -> Problem:
    """Seven options of which every price is a multiple of a quarter, and six sizes."""
    rng = random.Random(f"quarters {seed}")
    rows = [
        option(f"o{k}", size / 4, [[size * rng.uniform(0.85, 1.15) for _ in range(6)]])
        for k, size in enumerate(rng.choices(range(2, 12), k=7))
    ]
    return Problem(demands=(demand([[rng.uniform(2, 20) for _ in range(6)]], *rows),))


def chosen(problem: Problem) -> tuple[int, int, int, list[int]]:
    """Return the rank of the fleet that is chosen."""
    counts = {a.candidate.option.name: a.instances for a in optimize(problem).allocations[0]}
    columns = canonical_form(problem).columns
    return rank_of([counts.get(c.name, 0) for c in columns], [c.place for c in columns])


def test_of_many_fleets_of_one_cost_the_first_by_rank_that_serves_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tried in their order, or asked of the solver, which leaves open which of two alike: nearly all are tried."""
    monkeypatch.setattr(simplest, "simpler_fleets", lambda *_: None)
    ask, asked = simplest._ask_for_simplest, set()
    for seed in range(30):
        problem = ties_of_quarters(seed)
        with monkeypatch.context() as patch:
            patch.setattr(
                simplest,
                "_ask_for_simplest",
                lambda *words, seed=seed: (asked.add(seed), ask(*words)),
            )
            tried = chosen(problem)
        with monkeypatch.context() as patch:
            patch.setattr(simplest, "simpler_by_counting", lambda *_: None)
            solved = chosen(problem)
        assert tried <= solved and tried[:3] == solved[:3], seed
    assert len(asked) <= 4


def test_a_long_count_is_left_to_the_solver() -> None:
    rows = [option(f"o{k}", 0.001 * (k + 7), [[1.0 + 0.001 * k]]) for k in range(12)]
    problem = Problem(demands=(demand([[4000.0]], *rows),))
    canonical = drop_dominated(canonical_form(problem), RuleSet.of(problem, SolveOptions()))
    assert (
        equal_cost.simpler_fleets(canonical, problem, 100.0, [99] * len(canonical.columns)) is None
    )


def test_an_accelerator_alone_is_told_by_its_simplest_fleet_whatever_the_solver_finds() -> None:
    """One instance of four GPUs costs what four of one do: the figure must not hang on the solver."""
    sizes = {"x1": 1, "x2": 2, "x4": 4}
    rows = [
        placed(name, float(n), [[float(n)]], "aws/us-east-1", accelerator="A", accelerator_count=n)
        for name, n in sizes.items()
    ]
    for order in itertools.permutations(rows):
        problem = Problem(demands=(demand([[4.0]], *order),))
        for solver in ("highs", "cbc"):
            ((only,),) = baselines(problem, (4.0,), SolveOptions(solver=solver))  # type: ignore[arg-type]
            assert (only.instances, only.cost_usd_per_hour) == (1, 4.0)
