"""What is told of the chosen fleet's prices."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from melange_sky.offers import Flag, FlagScope, Severity
from melange_sky.optimizer import Demand, Problem, SolveOptions, Step, optimize
from melange_sky.planner.notes import objective_notes, price_notes
from melange_sky.planner.request import PlanRequest
from tests.factories import make_capacity, make_offer, make_option, make_workload


def test_a_doubt_about_a_chosen_price_is_told_and_others_are_not() -> None:
    old = Flag(
        code="source-old", severity=Severity.WARN, touches=FlagScope.ROW, message="90 days old"
    )
    spot = Flag(
        code="spot-equal", severity=Severity.WARN, touches=FlagScope.SPOT, message="no real spot"
    )
    chosen = make_option("cheap", offer=make_offer(flags=(old, spot)))
    passed_over = make_option(
        "dear", price_usd_per_hour=99.0, offer=make_offer(flags=(old,), region="mars")
    )
    options = tuple(make_capacity([[5.0]], option) for option in (chosen, passed_over))
    solution = optimize(
        Problem(demands=(Demand(name="m", workload=make_workload([[1.0]]), options=options),))
    )
    (note,) = price_notes(chain(*solution.allocations))
    assert note.code == "source-old"
    assert note.message == "price of aws/us-east-1 g5.xlarge: 90 days old"


def test_what_no_time_was_left_for_is_said_and_not_claimed() -> None:
    problem = Problem(
        demands=(
            Demand(
                name="m",
                workload=make_workload([[1.0]]),
                options=(make_capacity([[5.0]], make_option("a")),),
            ),
        )
    )
    request = PlanRequest(solve=SolveOptions(within_fraction=0.1))
    solution = optimize(problem, request.solve)
    (simplest,) = objective_notes(problem, solution, request)
    assert simplest.code == "simplest"
    late = replace(solution, unfinished=(Step.SIMPLEST, Step.SHARES))
    (note,) = objective_notes(problem, late, request)
    assert note.code == "time-limit"
    assert note.message == (
        "no time was left to look for the simplest mix of that cost and to spread the load evenly; "
        "raise --time-limit"
    )
