"""Figures at the edge of the solver's arithmetic, and answers at the edge of its time."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from melange_sky.errors import InputError, NoPlanInTimeError
from melange_sky.optimizer import (
    Deadline,
    Problem,
    SolveOptions,
    Termination,
    baselines,
    optimize,
)
from melange_sky.optimizer.program.run import Outcome
from melange_sky.optimizer.search.cheapest import gap_of
from tests.optimizer.factories import demand, option, shipped_config


@pytest.mark.parametrize("rate_rps", [1e-300, 1e-12, 1e-9, 1e-6])
def test_a_tiny_rate_still_takes_one_instance(rate_rps: float) -> None:
    problem = Problem(demands=(demand([[rate_rps, 0.0]], option("L4", 1.0, [[2.0, 2.0]])),))
    (only,) = optimize(problem).allocations[0]
    assert (only.instances, only.shares) == (1, ((1.0, 0.0),))


def test_a_tiny_bucket_beside_a_large_one_is_served_by_what_can() -> None:
    # The cheap option serves the large bucket only; one request in ten million needs the dear one.
    problem = Problem(
        demands=(
            demand([[9.0, 1e-6]], option("A", 1.0, [[5.0, None]]), option("B", 9.0, [[5.0, 5.0]])),
        )
    )
    solution = optimize(problem)
    assert {a.candidate.option.name: a.instances for a in solution.allocations[0]} == {
        "A": 1,
        "B": 1,
    }
    assert solution.cost_usd_per_hour == pytest.approx(10.0)


@pytest.mark.parametrize("rate_rps", [1e9, 1e300])
def test_an_absurd_rate_is_refused_at_once(rate_rps: float) -> None:
    with pytest.raises(InputError, match=r"would take over 10,000,000 instances"):
        optimize(shipped_config(rate_rps))


def test_an_absurdly_slow_option_beside_a_sane_one_is_not_used() -> None:
    problem = Problem(
        demands=(demand([[10.0]], option("A", 1e-6, [[1e-12]]), option("B", 2.0, [[10.0]])),)
    )
    (only,) = optimize(problem).allocations[0]
    assert (only.candidate.option.name, only.instances) == ("B", 1)


def test_no_solve_goes_on_past_the_clock() -> None:
    past = SolveOptions(time_limit_s=30.0, deadline=Deadline.after(-1))
    start = time.perf_counter()
    with pytest.raises(NoPlanInTimeError) as caught:
        optimize(replace(shipped_config(1e5), headroom=0.1), past)
    assert str(caught.value) == (
        "no plan was found within the time limit of 30 s (none is proven impossible)"
    )
    assert time.perf_counter() - start < 2


def test_a_gap_without_a_bound_is_never_told_as_proven() -> None:
    late = Outcome(termination=Termination.FEASIBLE, objective=5.0, bound=None, solver="cbc")
    assert gap_of(late, 5.0) == 1.0
    assert gap_of(replace(late, bound=4.0), 5.0) == pytest.approx(0.2)
    assert gap_of(replace(late, termination=Termination.OPTIMAL, bound=5.0), 5.0) == 0.0


def test_a_baseline_that_is_not_proven_says_how_much_less_it_may_be() -> None:
    from melange_sky.optimizer.answers.baseline import _doubt

    assert _doubt(0.0, SolveOptions()) is None
    assert _doubt(0.125, SolveOptions()) == (
        "not proven optimal within the time limit: may cost up to 12.5% less"
    )
    proven = baselines(shipped_config(), (4.68,))
    assert all(b.feasible and b.reason is None for b in proven[0])
