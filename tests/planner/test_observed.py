"""Does replanning pay? Judged by traffic that a gateway counted on its own grid."""

from __future__ import annotations

import pytest

from melange_sky.optimizer import SolveOptions
from melange_sky.planner.observed import judge_traffic
from melange_sky.plans import Allocation, Plan
from melange_sky.workload import Workload
from tests.factories import make_capacity, make_option, make_plan, make_workload


def plan_of_two() -> Plan:
    """Two small (4 req/s of bucket 0 each) at $1: enough for 6 req/s; the large costs $5."""
    small = make_capacity([[4.0, None]], make_option("small", price_usd_per_hour=1.0))
    large = make_capacity([[20.0, 10.0]], make_option("large", price_usd_per_hour=5.0))
    return make_plan(
        workload=make_workload([[6.0, 0.0]]),
        headroom=0.0,
        candidates=(small, large),
        allocations=(
            Allocation(
                candidate=small, instances=2, load_fraction=0.75, rate_rps=6.0, shares=((1.0, 0.0),)
            ),
        ),
    )


def seen(*rows: tuple[float, float, float]) -> Workload:
    """Traffic on a finer grid than the plan's: (rate, input tokens, output tokens) each."""
    return Workload(
        input_edges=tuple(range(len(rows) + 1)),
        output_edges=(0, 1),
        rates_rps=tuple((rate,) for rate, _, _ in rows),
        input_sizes=tuple((size,) for _, size, _ in rows),
        output_sizes=tuple((size,) for _, _, size in rows),
    )


@pytest.mark.parametrize(
    ("rows", "pays", "told"),
    [
        ([(0.0, 50, 20)], False, "no traffic"),
        ([(3.0, 50, 20), (3.0, 90, 50)], False, "still fits"),
        ([(3.0, 50, 20)], True, "$1.00/h would serve"),
        ([(9.0, 50, 20)], True, "needs $3.00/h"),
        ([(5.0, 50, 20), (4.0, 50, 80)], True, "needs $"),
        ([(7.5, 5000, 20)], False, "still fits"),
    ],
)
def test_verdict(rows: list[tuple[float, float, float]], pays: bool, told: str) -> None:
    found = judge_traffic(plan_of_two(), seen(*rows), SolveOptions())
    assert found.pays is pays
    assert told in found.verdict


def test_no_time_is_no_reason_to_replan() -> None:
    at_once = SolveOptions(time_limit_s=1e-6)
    verdict = judge_traffic(plan_of_two(), seen((9.0, 50, 20)), at_once)
    assert (verdict.pays, verdict.least_usd_per_hour) == (False, None)
    assert verdict.verdict == (
        "unknown: the time limit was reached before the cost of the observed traffic was found"
    )


def test_seen_rates_land_in_the_plans_buckets() -> None:
    found = judge_traffic(
        plan_of_two(), seen((1.0, 10, 50), (2.0, 99, 51), (4.0, 100, 1)), SolveOptions()
    )
    assert found.rates_rps == ((5.0, 2.0),)
