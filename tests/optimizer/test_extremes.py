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
from tests.machine import slowness
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
    assert time.perf_counter() - start < 2 * slowness()


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
    assert _doubt(5e-4, SolveOptions(mip_gap=1e-3)) == (
        "found to within a gap: may cost up to 0.05% less"
    )
    proven = baselines(shipped_config(), (4.68,))
    assert all(b.feasible and b.reason is None for b in proven[0])


def test_fleets_of_one_accelerator_beside_a_large_plan_are_near_the_least_and_say_how_near() -> (
    None
):
    """The last tenth of a percent of a row that only compares is not worth more time than the plan."""
    own = [
        option(f"A{n}", price, rates, accelerator="A")
        for n, (price, rates) in enumerate(
            [(1.0, [[3.1, 0.71]]), (1.93, [[6.3, 1.37]]), (3.87, [[11.9, 3.03]]), (7.6, [[24, 6]])]
        )
    ]
    problem = Problem(demands=(demand([[9000.0, 2700.0]], *own),), headroom=0.1)
    least = optimize(problem).cost_usd_per_hour
    ((row,),) = baselines(problem, (least,))
    assert row.cost_usd_per_hour is not None
    assert least - 1e-6 <= row.cost_usd_per_hour <= least * 1.001
    assert row.reason is None or row.reason.startswith("found to within a gap")


def test_counting_fleets_of_a_huge_rate_takes_little_memory() -> None:
    import tracemalloc

    many = [option(f"A{n}", 1.0 + 0.013 * n, [[3.1 + 0.04 * n]]) for n in range(8)]
    problem = Problem(demands=(demand([[30_000.0]], *many),))
    tracemalloc.start()
    optimize(problem)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
