"""How a solve ends: by proof, by its deadline, or against constraints; and what is said of each."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.optimizer import (
    NEVER,
    Constraints,
    Deadline,
    Problem,
    Robustness,
    SolveOptions,
    Step,
    Termination,
    TimeUpError,
    baselines,
    least_cost,
    optimize,
    robust_report,
    sweep_rates,
)
from melange_sky.optimizer.answers.allocations import allocate
from melange_sky.optimizer.answers.conflict import Conflict, find_conflict
from melange_sky.optimizer.answers.wording import conflict_text
from melange_sky.optimizer.problem.canonical import Unserved, canonical_form
from melange_sky.optimizer.program.linear import GE, LE, Linear
from melange_sky.optimizer.program.run import run
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.cheapest import Cheapest, find_cheapest
from melange_sky.optimizer.search.dominance import drop_dominated
from melange_sky.optimizer.search.levels import Levelled
from melange_sky.optimizer.search.simplest import settle_ties
from tests.optimizer.factories import at_most, demand, option, placed, shipped_config

AT_ONCE = SolveOptions(time_limit_s=1e-6)
LATE = "no plan was found within the time limit of 1e-06 s (none is proven impossible)"
SOLVERS: tuple[Literal["highs", "cbc"], ...] = ("highs", "cbc")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_deadline_reads_the_clock_that_it_is_given() -> None:
    clock = Clock()
    deadline = Deadline.after(10.0, clock)
    assert (deadline.left_s, deadline.passed) == (10.0, False)
    half, soon, later = deadline.share(0.5), deadline.within(3.0), deadline.within(30.0)
    assert (half.left_s, soon.left_s, later.left_s) == (5.0, 3.0, 10.0)
    assert (soon.at_least(4.0).left_s, deadline.at_least(4.0).left_s) == (4.0, 10.0)
    clock.now_s += 4.0
    assert (deadline.left_s, half.left_s, soon.left_s, soon.passed) == (6.0, 1.0, 0.0, True)
    deadline.check()
    with pytest.raises(TimeUpError):
        soon.check()
    clock.now_s += 6.0
    assert (deadline.passed, deadline.share(0.5).passed) == (True, True)
    assert (NEVER.passed, NEVER.left_s, NEVER.share(0.5).left_s) == (False, math.inf, math.inf)


def test_options_once_started_keep_the_sooner_deadline() -> None:
    clock = Clock()
    whole = SolveOptions(time_limit_s=10.0, deadline=Deadline(math.inf, clock)).started()
    clock.now_s += 4.0
    assert whole.started().deadline.left_s == 6.0
    assert replace(whole, time_limit_s=1.0).started().deadline.left_s == 1.0


def knapsack(least: float) -> Linear:
    """Least 3x + 2y with x + y ≥ `least`, x and y whole and at most 2."""
    lp = Linear()
    x, y = (lp.add(name, 0.0, 2.0, whole=True) for name in "xy")
    lp.row([(x, 1.0), (y, 1.0)], GE, least, "enough")
    lp.row([(x, 1.0), (y, -1.0)], LE, 9.0, "loose")
    lp.goal = [(x, 3.0), (y, 2.0)]
    return lp


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_solver_says_how_it_ended(solver: Literal["highs", "cbc"]) -> None:
    options = SolveOptions(solver=solver)
    proven = run(knapsack(2.5), options)
    assert (proven.termination, proven.objective, proven.bound) == (Termination.OPTIMAL, 7.0, 7.0)
    assert run(knapsack(5.0), options).termination is Termination.INFEASIBLE
    late = run(knapsack(2.5), replace(options, deadline=Deadline.after(-1.0)))
    assert (late.termination, late.objective, late.values) == (Termination.LIMIT, None, ())


def test_only_solutions_count_as_such() -> None:
    assert [t for t in Termination if t.has_solution] == [Termination.OPTIMAL, Termination.FEASIBLE]


@pytest.mark.parametrize("clock_is_real", [True, False])
def test_no_time_is_no_proof(clock_is_real: bool) -> None:
    clock = time.perf_counter if clock_is_real else Clock()
    options = replace(AT_ONCE, deadline=Deadline(clock() - 1.0, clock))
    with pytest.raises(NoPlanInTimeError) as caught:
        optimize(shipped_config(), options)
    assert not isinstance(caught.value, InfeasibleError)
    assert str(caught.value) == LATE
    assert (caught.value.exit_code, caught.value.time_limit_s) == (6, 1e-6)
    assert least_cost(shipped_config(), options).termination is Termination.LIMIT


def test_a_baseline_that_got_no_time_is_neither_feasible_nor_infeasible() -> None:
    (rows,) = baselines(shipped_config(), (4.68,), AT_ONCE)
    assert [(b.accelerator, b.feasible, b.cost_usd_per_hour, b.instances) for b in rows] == [
        ("A100-80GB", None, None, None),
        ("A10G", None, None, None),
    ]
    assert {b.reason for b in rows} == {"unknown: no answer within the time limit of 1e-06 s"}


def test_a_point_of_a_sweep_without_time_says_so() -> None:
    (late,) = sweep_rates(shipped_config(), AT_ONCE, (30.0,), None)
    assert (late.status, late.cost_usd_per_hour, late.reason) == ("time-limit", None, LATE)
    limited = replace(shipped_config(), constraints=Constraints(budget_usd_per_hour=1.0))
    (never,) = sweep_rates(limited, SolveOptions(), (30.0,), None)
    assert never.status == "infeasible"


def test_protection_that_got_no_time_is_not_told_as_impossible() -> None:
    """The plain fleet is found by its own solve; the protected one starts with no time left."""
    clock = Clock()

    class Running(Clock):
        """Stands still until the first solve is through, as the number of readings tells."""

        readings = 0

        def __call__(self) -> float:
            self.readings += 1
            return clock() if self.readings <= self.enough else clock() + 60.0

        enough = 10**9

    counting = Running()
    options = SolveOptions(deadline=Deadline(clock() + 30.0, counting))
    optimize(shipped_config(), options)
    counting.enough, counting.readings = counting.readings, 0
    report = robust_report(shipped_config(), options, Robustness(throughput_error=0.1), 0.0)
    assert (report.status, report.protected_usd_per_hour) == ("time-limit", None)
    assert report.reason == (
        "no plan was found within the time limit of 30 s (none is proven impossible)"
    )


def limited() -> Problem:
    """Two limits that clash, beside two rules that have no part in it."""
    return Problem(
        demands=(
            demand(
                [[3.0, 1.0]],
                placed("h100", 10.0, [[2.0, 2.0]], "aws/us-east-1", accelerator="H100"),
                placed("a10g", 3.0, [[1.0, None]], "gcp/us-central1", accelerator="A10G"),
            ),
        ),
        constraints=Constraints(
            limits=at_most(("H100", 1), ("gcp/us-central1", 1)),
            min_replicas=2,
            budget_usd_per_hour=1000.0,
        ),
    )


def test_a_conflict_carries_its_constraints_as_data() -> None:
    with pytest.raises(InfeasibleError) as caught:
        optimize(limited())
    error = caught.value
    assert isinstance(error.conflict, Conflict)
    assert error.conflict.is_minimal
    assert error.causes == error.conflict.clauses
    assert [cause.text for cause in error.causes] == [
        "the limit of 1 H100 GPU",
        "the limit of 1 instance on gcp/us-central1",
    ]
    for help_ in error.conflict.helps:
        assert help_.clause in error.conflict.clauses
        optimize(help_.clause.dropped(limited()))
    assert str(error) == (
        "the limit of 1 H100 GPU and the limit of 1 instance on gcp/us-central1 cannot be met "
        "together; to make it possible, raise the limit to 2 H100 GPUs, or raise the limit to "
        "2 instances on gcp/us-central1"
    )
    noted = error.noting(["a note", "another"])
    assert str(noted) == f"{error}; note: a note; note: another"
    assert (noted.conflict, noted.causes) == (error.conflict, error.causes)


def test_a_conflict_that_there_was_no_time_to_reduce_claims_no_clash() -> None:
    problem, options = limited(), SolveOptions(deadline=Deadline.after(-1.0))
    canonical = canonical_form(problem)
    conflict = find_conflict([Levelled(problem=problem, canonical=canonical)], options)
    assert (conflict.is_minimal, conflict.helps) == (False, ())
    assert len(conflict.clauses) == len(RuleSet.of(problem, options).clauses(canonical)) == 4
    assert conflict_text(conflict) == (
        "no fleet meets all of these: at least 2 replicas, the limit of 1 H100 GPU, the limit of "
        "1 instance on gcp/us-central1 and the budget of $1000/h (no time was left to find which "
        "of them conflict)"
    )
    alone = replace(conflict, clauses=conflict.clauses[1:2])
    assert conflict_text(alone) == (
        "no fleet meets the limit of 1 H100 GPU (no time was left to check whether one exists "
        "without it)"
    )


def test_sizes_that_nothing_serves_are_causes_too() -> None:
    problem = Problem(demands=(demand([[1.0, 1.0]], option("L4", 1.0, [[1.0, None]])),))
    with pytest.raises(InfeasibleError) as caught:
        optimize(problem)
    (cause,) = caught.value.causes
    assert isinstance(cause, Unserved)
    assert (cause.model, cause.buckets) == ("chat", ((0, 1),))
    assert (str(caught.value), caught.value.conflict) == (cause.text, None)


def cheapest_of(problem: Problem) -> Cheapest:
    options = SolveOptions()
    canonical = drop_dominated(canonical_form(problem), RuleSet.of(problem, options))
    cheapest = find_cheapest(canonical, problem, options)
    assert isinstance(cheapest, Cheapest)
    return cheapest


def test_what_follows_the_search_is_left_where_time_runs_out() -> None:
    problem = shipped_config()
    cheapest = cheapest_of(problem)
    late = settle_ties(cheapest, Deadline.after(-1.0))
    assert (late.in_time, late.point) == (False, cheapest.point)
    uneven = allocate(late.program, late.point)
    assert not uneven.is_even
    even = allocate(settle_ties(cheapest, NEVER).program, cheapest.point)
    assert (even.is_even, even.is_checked) == (True, True)
    assert [a.instances for a in uneven.by_demand[0]] == [a.instances for a in even.by_demand[0]]


def hard(*, spare: int, options: int = 160, buckets: int = 30) -> Problem:
    """Many nearly equal options over twenty regions, spare instances, shares and limits."""
    rng = np.random.default_rng(1)
    sizes = rng.uniform(1.0, 8.0, buckets)
    columns = []
    for k in range(options):
        strength = float(rng.choice([1.0, 2.0, 4.0, 8.0]))
        rates = (strength * 4.0 / sizes * rng.uniform(0.8, 1.2, buckets)).tolist()
        price = round(strength * float(rng.uniform(0.9, 1.1)), 4)
        place = f"{'aws' if k % 2 else 'gcp'}/region-{k % 20}"
        name = f"o{k:03}"
        columns.append(placed(name, price, [rates], place, accelerator=f"G{k // 2 % 8}"))
    return Problem(
        demands=(demand([rng.uniform(0.5, 4.0, buckets).tolist()], *columns),),
        headroom=0.1,
        constraints=Constraints(
            spare=spare,
            max_share_per_region=0.3,
            max_share_per_cloud=0.6,
            limits=at_most(*((f"aws/region-{r}", 3) for r in range(1, 20, 2))),
        ),
    )


@pytest.mark.parametrize(("spare", "limit_s"), [(2, 0.001), (2, 0.5), (2, 2.0), (0, 0.5)])
def test_a_hard_problem_ends_with_its_time_limit(spare: int, limit_s: float) -> None:
    start = time.perf_counter()
    with contextlib.suppress(NoPlanInTimeError):
        optimize(hard(spare=spare), SolveOptions(time_limit_s=limit_s))
    assert time.perf_counter() - start <= limit_s + 2.0


def test_one_deadline_ends_plan_alternatives_and_baselines() -> None:
    problem, limit_s = hard(spare=0), 5.0
    start = time.perf_counter()
    options = SolveOptions(time_limit_s=limit_s, alternatives=50, search_fraction=0.6).started()
    solution = optimize(problem, options)
    assert Step.ALTERNATIVES in solution.unfinished
    (rows,) = baselines(problem, (solution.cost_usd_per_hour,), options)
    assert time.perf_counter() - start <= limit_s + 2.0
    assert len(rows) == 8
    for row in rows:
        assert row.feasible is not False, row
        assert row.feasible or row.reason == "unknown: no answer within the time limit of 5 s"
