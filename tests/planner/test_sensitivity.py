"""The cost band: exact re-optimisation at the ends of the estimates' error."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from melange_sky.capacities import OptionCapacity, Origin
from melange_sky.optimizer import Demand, Problem, SolveOptions, optimize
from melange_sky.planner.plan_spec import plan_spec
from melange_sky.planner.request import PlanRequest
from melange_sky.planner.sensitivity import MeasuringAdvice, _at_band_end, cost_band
from melange_sky.plans import Sensitivity
from melange_sky.pricing import OfferQuery
from tests.factories import make_capacity, make_option, make_workload


def _band(
    *options: OptionCapacity, rate: float = 10.0, first: frozenset[str] = frozenset()
) -> Sensitivity | None:
    problem = Problem(
        demands=(Demand(name="m", workload=make_workload([[rate]]), options=options),)
    )
    solution = optimize(problem)
    with ThreadPoolExecutor(2) as pool:
        return cost_band(
            problem, solution, SolveOptions(), advice=MeasuringAdvice("measure", first), pool=pool
        )


def _option(name: str, price: float, rate: float) -> OptionCapacity:
    # the factory's band is 30 % either way
    return make_capacity([[rate]], make_option(name, accelerator=name, price_usd_per_hour=price))


def test_the_band_is_the_optimum_at_either_end() -> None:
    band = _band(_option("L4", 1.0, 2.0))
    assert band is not None
    # 10 req/s need 5 at 2.0; 4 at 2.6; 8 at 1.4
    assert (band.low_usd_per_hour, band.high_usd_per_hour) == (4.0, 8.0)
    assert (band.measure, band.measure_usd_per_hour) == ("L4", 4.0)
    assert band.command == "measure --accelerators L4"
    assert band.measure_size == "100 input, 50 output tokens"


def test_the_size_that_matters_most_is_named() -> None:
    # Both sizes are estimated; the second has ten times the load.
    option = make_capacity(
        [[2.0], [2.0]], make_option("L4", accelerator="L4", price_usd_per_hour=1.0)
    )
    workload = make_workload([[1.0], [10.0]])
    problem = Problem(demands=(Demand(name="m", workload=workload, options=(option,)),))
    with ThreadPoolExecutor(2) as pool:
        band = cost_band(
            problem, optimize(problem), SolveOptions(), advice=MeasuringAdvice(None), pool=pool
        )
    assert band is not None
    assert band.measure_size == "200 input, 50 output tokens"


def test_the_accelerator_that_moves_the_cost_most_is_named() -> None:
    # One A10G serves 12 req/s; at its bad end two are needed. The others replace it at no end.
    band = _band(
        _option("A10G", 4.0, 12.0), _option("B200", 5.0, 8.0), _option("L4", 9.0, 1.0), rate=12.0
    )
    assert band is not None
    assert band.measure == "A10G"
    assert band.measure_usd_per_hour == pytest.approx(8.0 - 4.0)


def test_measured_capacities_have_no_band() -> None:
    option = _option("L4", 1.0, 2.0)
    measured = tuple(tuple(replace(c, origin=Origin.MEASURED) for c in row) for row in option.cells)
    assert _band(replace(option, cells=measured)) is None


def test_where_the_bad_end_serves_nothing_the_cost_is_unknown_not_zero() -> None:
    option = _option("L4", 1.0, 2.0)
    cells = tuple(tuple(replace(c, low_rps=0.0) for c in row) for row in option.cells)
    band = _band(replace(option, cells=cells))
    assert band is not None
    assert band.high_usd_per_hour is None
    assert band.measure == "L4"
    assert band.measure_usd_per_hour is None


def test_what_no_run_stands_behind_is_measured_first_where_it_is_planned() -> None:
    options = _option("A10G", 4.0, 12.0), _option("L4", 1.0, 2.0)
    measured = [
        band.measure
        for first in ("", "L4", "T4")
        if (band := _band(*options, rate=14.0, first=frozenset({first}))) is not None
    ]
    assert measured == ["A10G", "L4", "A10G"]


@pytest.mark.parametrize(("limit", "is_optimal"), [(5, True), (11, False)])
def test_a_cost_range_that_cannot_be_proven_is_not_told(limit: int, is_optimal: bool) -> None:
    models = [
        {
            "name": f"m{n}",
            "model": "meta-llama/Llama-3.1-8B-Instruct",
            "slo": {"tpot_ms": 60, "ttft_ms": 2000, "attainment": 0.95},
            "workload": {"rate_rps": 3 + 5 * n, "distribution": "azure-conv-2023"},
        }
        for n in range(6)
    ]
    limits = {"L40S": limit, "H100": limit // 2}
    resources = {"accelerators": ["L4", "L40S", "H100"], "infra": ["aws"], "limits": limits}
    request = PlanRequest(prices=OfferQuery(offline=True))
    plan = plan_spec({"name": "t", "models": models, "resources": resources}, request)
    assert (plan.solver.is_optimal, plan.sensitivity) == (is_optimal, None)
    (warning,) = [w for w in plan.warnings if w.code == "no-cost-range"]
    assert "could not be proven" in warning.message


@pytest.mark.parametrize("good", [True, False])
def test_rates_at_an_end_of_the_band_are_those_of_its_cells(good: bool) -> None:
    option = make_capacity([[2.0, None, 4.0]], make_option("L4", accelerator="L4"))
    cells = [replace(c, levels=((0.0, 6.0), (0.96, 1.5))) for c in option.cells[0]]
    cells[2] = replace(cells[2], origin=Origin.BOUND)
    option = replace(option, cells=(tuple(cells),))
    moved = _at_band_end(option if good else option.without_bounds(), [(0, 0), (0, 2)], good)
    by_cells = OptionCapacity(option=moved.option, cells=moved.cells)
    for level in (None, 0.0, 0.96, 0.99):
        np.testing.assert_array_equal(moved.rates(level), by_cells.rates(level))
