"""What stands beside a plan is solved in threads or one after the other, with the same answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from melange_sky.optimizer import Deadline, Demand, Problem, SolveOptions, optimize
from melange_sky.planner.sensitivity import MeasuringAdvice, cost_band
from melange_sky.planner.side_solves import AMPLE_S, SOON_S, InTurn, side_pool
from tests.factories import make_capacity, make_option, make_workload


def _problem() -> Problem:
    options = tuple(
        make_capacity([[rate]], make_option(name, accelerator=name, price_usd_per_hour=price))
        for name, price, rate in (("A10G", 4.0, 12.0), ("L4", 1.0, 2.5))
    )
    demand = Demand(name="m", workload=make_workload([[20.0]]), options=options)
    return Problem(demands=(demand,))


@pytest.mark.parametrize(
    ("took_s", "left_s", "in_turn"),
    [
        (SOON_S / 2, 30.0, True),
        (SOON_S * 2, 30.0, False),
        (SOON_S / 2, AMPLE_S / 2, False),  # the first could take the time of the last
    ],
)
def test_threads_stand_by_where_solves_are_long_or_time_is_short(
    took_s: float, left_s: float, in_turn: bool
) -> None:
    solution = optimize(_problem())
    solution = replace(solution, report=replace(solution.report, solve_seconds=took_s))
    solve = SolveOptions(deadline=Deadline.after(left_s))
    with side_pool(solution, solve, 2) as pool:
        assert isinstance(pool, InTurn) is in_turn


def test_one_after_the_other_gives_the_same_band() -> None:
    problem = _problem()
    solution, advice = optimize(problem), MeasuringAdvice("measure")
    with ThreadPoolExecutor(2) as threads, InTurn() as in_turn:
        first, second = (
            cost_band(problem, solution, SolveOptions(), advice=advice, pool=pool)
            for pool in (threads, in_turn)
        )
    assert first == second is not None


def test_an_error_waits_for_who_asks_for_the_result() -> None:
    with InTurn() as pool:
        failed = pool.submit(int, "one")
        assert pool.submit(int, "2").result() == 2
        with pytest.raises(ValueError, match="one"):
            failed.result()
