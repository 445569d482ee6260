"""The optimum found by counting fleets, against the solver's own on the same program."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from types import ModuleType

import pytest

from melange_sky.optimizer import (
    Constraints,
    Deadline,
    Problem,
    SolveOptions,
    StayClose,
    TimeUpError,
    optimize,
)
from melange_sky.optimizer.program.integer_program import IntegerProgram
from melange_sky.optimizer.program.linear import EQ, GE, LE
from melange_sky.optimizer.program.run import Outcome, run
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.build import build_program
from melange_sky.optimizer.search import counting, fleets_between
from melange_sky.optimizer.search.counting import least_by_counting
from melange_sky.optimizer.search.levels import levelled_forms
from melange_sky.optimizer.search.solution_point import read_point
from tests.optimizer.factories import at_most, demand, option, with_levels
from tests.optimizer.test_brute_force import random_problem


def drawn(rng: random.Random) -> Problem:
    """A problem of a size that is planned: up to 12 options, 30 sizes and some 30 instances."""
    problem = random_problem(rng, options=rng.randint(2, 12), buckets=rng.randint(1, 30))
    (served,) = problem.demands
    times = rng.choice([0.2, 1.0, 3.0])
    rates = tuple(tuple(rate * times for rate in row) for row in served.workload.rates_rps)
    served = replace(served, workload=replace(served.workload, rates_rps=rates))
    return replace(problem, demands=(served,))


def programs(problem: Problem, options: SolveOptions) -> list[IntegerProgram]:
    """The program of a problem at each combination of attainment levels that can serve all."""
    return [
        build_program(form.canonical, form.problem, options)
        for form in levelled_forms(problem, options)
    ]


@pytest.mark.parametrize("seed", range(60))
def test_agrees_with_branching(seed: int) -> None:
    rng, options = random.Random(f"counting {seed}"), SolveOptions().started()
    problem = drawn(rng)
    if seed % 2:
        problem = with_levels(problem, rng)
    if seed % 3 == 0:
        problem = replace(
            problem, constraints=Constraints(limits=at_most(("A", rng.randint(1, 20))))
        )
    for program in programs(problem, options):
        agree(least_by_counting(program, options), program)


def agree(counted: Outcome | None, program: IntegerProgram) -> None:
    """Assert that what was counted is what branching finds, where it was."""
    if counted is None:
        return
    branched = run(program.lp, program.options)
    assert counted.termination is Termination.OPTIMAL
    assert counted.objective == pytest.approx(branched.objective, rel=1e-6, abs=1e-7)
    assert counted.bound == counted.objective
    assert keeps_to_rows(program, counted.values)
    assert read_point(program, counted).cost == pytest.approx(counted.objective)


def test_nearly_all_of_these_are_counted() -> None:
    options = SolveOptions().started()
    every = [
        least_by_counting(program, options)
        for seed in range(40)
        for program in programs(drawn(random.Random(f"share {seed}")), options)
    ]
    assert sum(counted is not None for counted in every) > 0.95 * len(every)


def test_a_handful_of_programs_suffices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cuts do their work: of some hundred fleets no more than these are tried."""
    monkeypatch.setattr(counting, "MOST_TRIED", 8)
    options = SolveOptions().started()
    every = [
        least_by_counting(program, options)
        for seed in range(40)
        for program in programs(drawn(random.Random(f"few {seed}")), options)
    ]
    assert sum(counted is not None for counted in every) >= 0.8 * len(every)


def one_program(problem: Problem, options: SolveOptions) -> IntegerProgram:
    (program,) = programs(problem, options)
    return program


def two_options(limit: int | None = None) -> Problem:
    served = demand([[7.0, 3.0]], option("a", 1.0, [[2.0, 1.5]]), option("b", 1.7, [[3.0, 3.5]]))
    limits = () if limit is None else at_most(("a", limit), ("b", limit))
    return Problem(demands=(served,), headroom=0.1, constraints=Constraints(limits=limits))


@pytest.mark.parametrize(
    ("module", "name"), [(fleets_between, "MOST_FLEETS"), (counting, "MOST_TRIED")]
)
def test_beyond_its_bounds_it_leaves_the_answer_to_the_solver(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    options = SolveOptions().started()
    program = one_program(two_options(), options)
    assert least_by_counting(program, options) is not None
    monkeypatch.setattr(module, name, 0)
    assert least_by_counting(program, options) is None
    assert optimize(two_options(), options).cost_usd_per_hour == run(program.lp, options).objective


def test_a_fleet_that_cannot_be_is_for_the_solver_to_prove() -> None:
    options = SolveOptions().started()
    program = one_program(two_options(limit=1), options)
    assert run(program.lp, options).termination is Termination.INFEASIBLE
    assert least_by_counting(program, options) is None


@pytest.mark.parametrize(
    "options",
    [
        SolveOptions(assignment="sliced", slice_factor=4),
        SolveOptions(solver="cbc"),
        SolveOptions(stay_close=StayClose(instances=(("chat", "a", 2),), switch_usd_per_hour=0.1)),
    ],
)
def test_what_is_not_only_a_count_at_a_price_is_left_to_the_solver(options: SolveOptions) -> None:
    assert least_by_counting(one_program(two_options(), options), options) is None


def test_past_the_deadline_it_ends() -> None:
    options = SolveOptions(deadline=Deadline.after(0.0))
    program = one_program(two_options(), SolveOptions())
    with pytest.raises(TimeUpError):
        least_by_counting(program, options)


def keeps_to_rows(program: IntegerProgram, values: tuple[float, ...]) -> bool:
    """Whether these values keep to every row of the program, whole columns being whole."""
    for row in program.lp.rows:
        total = sum(c * values[at] for at, c in zip(row.columns, row.coefficients, strict=True))
        over = total - row.bound
        assert {LE: over, GE: -over, EQ: abs(over)}[row.sense] <= 1e-6
    return all(values[x] == round(values[x]) for x in program.x)


def least_covering(rates: list[int], prices: list[float], wanted: int) -> float:
    """Return the least price of instances whose rates sum to what is wanted, by every smaller sum first."""
    least = [0.0] + [math.inf] * wanted
    for have in range(1, wanted + 1):
        least[have] = min(
            price + least[max(0, have - rate)] for rate, price in zip(rates, prices, strict=True)
        )
    return least[wanted]


@pytest.mark.parametrize("seed", range(6))
def test_a_thousand_instances_of_nearly_one_price_per_request_are_counted(seed: int) -> None:
    """Millions of fleets waste next to nothing; of one size, what matters of each is what it carries."""
    rng = random.Random(f"covering {seed}")
    rates = rng.sample(range(20, 90), 8)
    prices = [round(0.31 * rate * rng.uniform(0.9995, 1.0005), 4) for rate in rates]
    some = [
        option(f"A{n}", price, [[float(rate)]])
        for n, (rate, price) in enumerate(zip(rates, prices, strict=True))
    ]
    options = SolveOptions().started()
    wanted = 60_000 + rng.randint(0, 99)
    program = one_program(Problem(demands=(demand([[float(wanted)]], *some),)), options)
    counted = least_by_counting(program, options)
    assert counted is not None
    assert counted.objective == pytest.approx(least_covering(rates, prices, wanted), abs=1e-6)


def test_a_fleet_of_more_than_are_counted_of_one_kind_is_left_to_the_solver() -> None:
    """Ten thousand of one kind are no bound of what is cheapest."""
    options = SolveOptions().started()
    served = demand([[40_003.0]], option("a", 1.0, [[3.0]]), option("b", 4.0, [[7.0]]))
    program = one_program(Problem(demands=(served,)), options)
    counted = least_by_counting(program, options)
    assert counted is None or counted.objective == pytest.approx(13_335.0)
