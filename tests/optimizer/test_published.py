"""Answers that others have published, reproduced to the cent."""

from __future__ import annotations

import pytest

from melange_sky.optimizer import Problem, Solution, SolveOptions, baselines, optimize
from tests.optimizer.factories import demand, option, shipped_config


def fleet(solution: Solution) -> dict[str, int]:
    return {a.candidate.option.name: a.instances for a in solution.allocations[0]}


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_sliced_reproduces_the_shipped_config(solver: str) -> None:
    options = SolveOptions(assignment="sliced", slice_factor=1, solver=solver)  # type: ignore[arg-type]
    solution = optimize(shipped_config(), options)
    assert fleet(solution) == {"A10G": 3, "A100-80GB": 1}
    assert solution.cost_usd_per_hour == pytest.approx(6.70, abs=1e-9)
    assert solution.report.status == "optimal"
    assert solution.report.solver == solver


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_fractional_saves_thirty_percent_on_it(solver: str) -> None:
    solution = optimize(shipped_config(), SolveOptions(solver=solver))  # type: ignore[arg-type]
    assert fleet(solution) == {"A10G": 1, "A100-80GB": 1}
    assert solution.cost_usd_per_hour == pytest.approx(4.68, abs=1e-9)


def test_the_papers_rate_figure() -> None:
    problem = Problem(
        demands=(demand([[4.37]], option("A10G", 1.01, [[0.37]]), option("A100", 3.67, [[2.0]])),)
    )
    solution = optimize(problem)
    assert fleet(solution) == {"A10G": 1, "A100": 2}
    assert solution.cost_usd_per_hour == pytest.approx(8.35, abs=1e-9)


def test_baselines_are_each_accelerator_alone() -> None:
    problem = shipped_config()
    cost = optimize(problem).cost_usd_per_hour
    by_name = {b.accelerator: b for b in baselines(problem, (cost,))[0]}
    # 30 req/s fill 6/2 + 3/1 + 15/5 + 6/2 = 12 A10G, or 6/20 + 3/20 + 15/40 + 6/20 = 1.125 A100s.
    assert by_name["A10G"].instances == 12
    assert by_name["A10G"].cost_usd_per_hour == pytest.approx(12.12)
    assert by_name["A100-80GB"].instances == 2
    assert by_name["A100-80GB"].saving_fraction == pytest.approx(1 - 4.68 / 7.34)
