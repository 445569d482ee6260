"""A plan in five lines: who takes what, what is next to it, how much it holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from melange_sky.constraints import Constraints
from melange_sky.optimizer import (
    Problem,
    SolveOptions,
    explain,
    next_cheaper,
    next_simpler,
    optimize,
    taken_traffic,
)
from melange_sky.planner.knee import Knee, find_knee
from melange_sky.planner.plan_summary import summarize_plan
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan
from melange_sky.plans import ModelPlan
from melange_sky.replay import Replay
from melange_sky.report.plan_summary import _knee_text, shares_map, summary_text
from tests.factories import make_plan, make_workload
from tests.optimizer.factories import at_most, demand, option, shipped_config
from tests.optimizer.test_explain import planned


def shared_out(rates: list[list[float]], *shares: list[list[float]]) -> ModelPlan:
    """A model of as many options as there are shares, called a, b, …"""
    model = make_plan().models[0]
    allocations = tuple(
        replace(
            model.allocations[0],
            candidate=option(name, 1.0, rates, accelerator=name.upper()),
            shares=tuple(map(tuple, share)),
        )
        for name, share in zip("abc", shares, strict=False)
    )
    workload = make_workload(
        rates,
        input_edges=(0, 100, 500, 2000)[: len(rates) + 1],
        output_edges=(0, 50, 200, 800)[: len(rates[0]) + 1],
    )
    return replace(model, allocations=allocations, workload=workload)


def test_what_each_option_takes_is_told_by_the_prompt_where_that_tells_it() -> None:
    rates = [[4.0, 4.0], [1.0, 1.0], [1.0, 1.0]]
    long_ones, short_ones = [[0, 0], [1, 1], [1, 1]], [[1, 1], [0, 0], [0, 0]]
    first, rest = taken_traffic(shared_out(rates, long_ones, short_ones))
    assert (first.shape, first.inputs, first.outputs) == ("A:1", (100, None), None)
    assert (first.requests_fraction, first.fit) == (pytest.approx(1 / 3), 1.0)
    assert (rest.shape, rest.requests_fraction) == ("B:1", pytest.approx(2 / 3))


def test_what_each_option_takes_is_told_by_both_sizes_where_one_is_not_enough() -> None:
    rates = [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    corner = [[0, 0, 0], [0, 1, 1], [0, 1, 1]]
    rest = [[1, 1, 1], [1, 0, 0], [1, 0, 0]]
    taken, _ = taken_traffic(shared_out(rates, corner, rest))
    assert (taken.inputs, taken.outputs) == ((100, None), (50, None))


def test_options_of_one_shape_are_told_as_one() -> None:
    model = shared_out([[1.0]], [[0.25]], [[0.75]])
    same = replace(
        model.allocations[1], candidate=option("elsewhere", 2.0, [[1.0]], accelerator="A")
    )
    (taken,) = taken_traffic(replace(model, allocations=(model.allocations[0], same)))
    assert (taken.shape, taken.requests_fraction) == ("A:1", pytest.approx(1.0))


def test_the_next_fleets_are_those_of_brute_force() -> None:
    """$4 serves 9 req/s with b + a. Of what costs less, b carries most: 8. Of one type, 5 a cost least."""
    problem = Problem(
        demands=(demand([[9.0]], option("a", 1.0, [[2.0]]), option("b", 3.0, [[8.0]])),)
    )
    cheaper = next_cheaper(problem, 4.0, SolveOptions())
    assert cheaper is not None
    assert cheaper.cost_usd_per_hour == pytest.approx(3.0)
    assert 8.0 / 1.01 <= cheaper.rate_rps <= 8.0
    simpler = next_simpler(problem, optimize(problem).allocations, SolveOptions())
    assert simpler is not None
    assert simpler.cost_usd_per_hour == pytest.approx(5.0)
    assert [(a.candidate.option.name, a.instances) for a in simpler.allocations[0]] == [("a", 5)]


def test_the_smallest_fleet_has_none_next_to_it() -> None:
    problem = Problem(demands=(demand([[1.0]], option("a", 1.0, [[2.0]])),))
    assert next_cheaper(problem, 1.0, SolveOptions()) is None
    assert next_simpler(problem, optimize(problem).allocations, SolveOptions()) is None


def test_a_fleet_dearer_than_its_estimate_has_the_estimates_own_next_to_it() -> None:
    """As after a replay that asked for more: $10 for what $1 a piece serves by estimate at 2 req/s."""
    problem = Problem(demands=(demand([[2.0]], option("a", 1.0, [[2.0]])),))
    cheaper = next_cheaper(problem, 3.0, SolveOptions())
    assert cheaper is not None
    assert cheaper.cost_usd_per_hour == pytest.approx(2.0)
    assert cheaper.rate_rps == pytest.approx(4.0, rel=0.01)


def test_the_knee_holds_and_what_is_beyond_it_does_not() -> None:
    """Judged by other random numbers than those that it was found with."""
    model = make_plan().models[0]
    model = replace(model, workload=model.workload.at_rate(40.0))
    knee = find_knee(model, 60)
    assert knee is not None and knee.holds_rps and knee.misses_rps
    assert 1 < knee.misses_rps / knee.holds_rps < 1.03

    def attainment(rate_rps: float) -> float:
        request = SimulationRequest(
            rate_scale=rate_rps / model.workload.rate_rps, how=Replay(seed=7)
        )
        return simulate_plan(model, request).verdict.attainment

    assert attainment(knee.holds_rps * 0.95) >= model.slo.attainment
    assert attainment(knee.misses_rps * 1.1) < model.slo.attainment
    again = find_knee(model, 60, guess=knee.holds_rps / model.workload.rate_rps)
    assert again is not None and again.holds_rps == pytest.approx(knee.holds_rps, rel=0.06)


def test_a_search_without_time_knows_one_side_only() -> None:
    knee = find_knee(make_plan().models[0], 0)
    assert knee is not None
    assert (knee.holds_rps is None) != (knee.misses_rps is None)


def test_five_lines_and_what_they_say() -> None:
    plan = planned(shipped_config())
    summary = summarize_plan(plan, SolveOptions(), replay=True)
    text = summary_text(plan, summary, explain(plan))
    assert [line.split("  ")[0] for line in text.splitlines()] == [
        "Who takes what",
        "What binds",
        "Next to it",
        "Highest rate",
        "Saving",
    ]
    # A Mélange config says nothing of engines: nothing to replay.
    assert "not replayed; planned for 30 req/s" in text
    assert "simpler: 2 × A100-80GB:1, $7.340/h (+57%)" in text
    assert "the mix saves 36.2% by estimate" in text


def test_a_rule_that_costs_is_what_binds() -> None:
    problem = replace(shipped_config(), constraints=Constraints(max_option_types=1))
    plan = planned(problem)
    text = summary_text(plan, summarize_plan(plan, SolveOptions(), replay=False), explain(plan))
    assert "What binds      at most 1 option type (costs $2.660/h)" in text
    assert "Who takes what  A100-80GB:1: all requests" in text
    limited = planned(
        replace(shipped_config(), constraints=Constraints(limits=at_most(("A10G", 9))))
    )
    text = summary_text(
        limited, summarize_plan(limited, SolveOptions(), replay=False), explain(limited)
    )
    assert "limit" not in text


@pytest.mark.parametrize(
    ("knee", "text"),
    [
        (None, "not replayed; planned for 4 req/s"),
        (
            Knee(holds_rps=6.0, misses_rps=6.1, breaks="TPOT"),
            "6 steady req/s hold in replay, planned for 4; beyond that TPOT is missed first",
        ),
        (
            Knee(holds_rps=32.0, misses_rps=None, breaks=None),
            "at least 32 steady req/s hold in replay; planned for 4",
        ),
        (
            Knee(holds_rps=None, misses_rps=0.25, breaks="TTFT"),
            "in replay not even 0.25 steady req/s hold; planned for 4",
        ),
    ],
)
def test_a_knee_in_words(knee: Knee | None, text: str) -> None:
    model = shared_out([[4.0]], [[1.0]])
    assert _knee_text(knee, model) == text


def test_the_map_of_shares() -> None:
    model = shared_out(
        [[1.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [0.25, 0.0]], [[0.0, 0.0], [0.75, 1.0]]
    )
    assert shares_map(model) == (
        "input \\ output  ≤ 50  ≤ 200\n"
        "         ≤ 100     A      ·\n"
        "         ≤ 500  B75%      B\n"
        "A A:1  B B:1\n"
    )
    coloured = shares_map(model, coloured=True)
    assert "\x1b[" in coloured and "\x1b[" not in coloured.splitlines()[0]
