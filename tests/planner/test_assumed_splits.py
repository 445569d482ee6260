"""Splits that no measured run stands behind: planned where that saves for sure, else told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from melange_sky.capacities import CapacityCell, EngineSettings, OptionCapacity, Origin
from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import Demand, Problem, SolveOptions, optimize
from melange_sky.parallelism import AssumedSplits
from melange_sky.planner.assumed_splits import settled, without_assumed
from tests.factories import make_capacity, make_engine, make_option, make_workload

FIRM = make_engine(tensor_parallel=8)
SPREAD = make_engine(tensor_parallel=1, data_parallel=8, expert_parallel=True)  # low end 0.5
STAGES = make_engine(tensor_parallel=4, pipeline_parallel=2)  # low end 0.7
NODES = make_engine(tensor_parallel=8, pipeline_parallel=2, nodes=2)  # low end 0.6


def capacity(name: str, engine: EngineSettings, rate: float | None) -> OptionCapacity:
    option = make_option(
        name=name,
        accelerator="H100",
        accelerator_count=8,
        engine=engine,
        price_usd_per_hour=10.0,
    )
    return make_capacity([[rate]], option)


def problem(*options: OptionCapacity, rate: float = 12.0) -> Problem:
    demand = Demand(name="m", workload=make_workload([[rate]]), options=options)
    return Problem(demands=(demand,))


def planned(asked: Problem, rule: AssumedSplits) -> tuple[list[str], float, list[str]]:
    """The options of the fleet, its cost and what is said."""
    kept, solution, notes = settled(asked, optimize(asked), rule, SolveOptions())
    used = [a.candidate for a in solution.allocations[0]]
    assert all(c in kept.demands[0].options for c in used)
    return [c.option.name for c in used], solution.cost_usd_per_hour, [n.message for n in notes]


@pytest.mark.parametrize(
    ("engine", "rate", "taken"),
    [
        (SPREAD, 13.0, True),  # 6.5 at the low end: two instances instead of three
        (SPREAD, 11.9, False),  # 5.95: three as well
        (STAGES, 8.6, True),  # 6.02
        (STAGES, 8.5, False),
        (NODES, 10.1, True),  # 6.06
        (NODES, 9.9, False),
    ],
)
def test_it_is_planned_where_it_saves_at_the_low_end_of_its_band(
    engine: EngineSettings, rate: float, taken: bool
) -> None:
    asked = problem(capacity("firm", FIRM, 4.0), capacity("assumed", engine, rate))
    used, cost, told = planned(asked, AssumedSplits.ROBUST)
    best = 10.0 if rate >= 12 else 20.0
    assert (used, cost) == ((["assumed"], best) if taken else (["firm"], 30.0))
    if taken:
        assert told == []
    else:
        (text,) = told
        assert text.startswith("left out: ")
        assert f"with which ${best:,.2f}/h instead of $30.00/h would be planned" in text
        assert text.endswith("resources.assumed_splits: all lets them in")
    assert planned(asked, AssumedSplits.ALL) == (["assumed"], best, [])
    used, cost, told = planned(asked, AssumedSplits.NONE)
    assert (used, cost, len(told)) == (["firm"], 30.0, 1)


def test_what_would_save_nothing_is_left_out_without_a_word() -> None:
    asked = problem(capacity("firm", FIRM, 6.0), capacity("assumed", SPREAD, 6.0))
    assert planned(asked, AssumedSplits.ROBUST) == (["firm"], 20.0, [])


def test_measured_rates_rest_on_no_assumption() -> None:
    measured = capacity("assumed", SPREAD, 11.0)
    cell = CapacityCell(max_rate_rps=11.0, origin=Origin.MEASURED)
    measured = replace(measured, cells=((cell,),))
    asked = problem(capacity("firm", FIRM, 4.0), measured)
    assert planned(asked, AssumedSplits.NONE) == (["assumed"], 20.0, [])


def test_what_alone_serves_a_size_is_planned_unless_it_is_ruled_out() -> None:
    asked = problem(capacity("firm", FIRM, None), capacity("assumed", NODES, 13.0))
    assert planned(asked, AssumedSplits.ROBUST) == (["assumed"], 10.0, [])
    assert without_assumed(asked, AssumedSplits.ROBUST) == asked
    with pytest.raises(InfeasibleError, match=r"assumed_splits: none leaves out 2 nodes of H100:8"):
        planned(asked, AssumedSplits.NONE)
