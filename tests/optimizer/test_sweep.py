"""Sweeps over rates and prices: what they must equal, with and without the last point's fleet."""

from __future__ import annotations

import csv
import io
import random
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from melange_sky.cli.explain import sweep
from melange_sky.errors import InputError
from melange_sky.optimizer import (
    Constraints,
    Demand,
    InstanceGroup,
    PriceStep,
    Problem,
    SolveOptions,
    SpotPolicy,
    baselines,
    optimize,
    sweep_rates,
)
from melange_sky.optimizer.answers.rate_sweep import Fleets, at_prices, at_rate
from melange_sky.planner.axes import parse_prices
from melange_sky.plans import Baseline
from tests.optimizer.factories import at_most, shipped_config
from tests.optimizer.test_brute_force import random_problem
from tests.optimizer.test_explain import SPEC

RULES = (
    Constraints(),
    Constraints(spare=1),
    Constraints(min_replicas=3),
    Constraints(limits=at_most(("A", 3), ("aws", 5))),
    Constraints(budget_usd_per_hour=9.0),
    Constraints(max_share_per_cloud=0.6),
    Constraints(minimum=(InstanceGroup(accelerator="B", instances=2),)),
    Constraints(fixed=(InstanceGroup(accelerator="A", instances=1),)),
    Constraints(spot=SpotPolicy(max_fraction=0.4, interruption_rate=0.2)),
)
STEPS = (PriceStep(), PriceStep(factor=1.3), PriceStep(factor=0.4, accelerator="A"))


@pytest.mark.parametrize("seed", range(18))
def test_the_last_point_narrows_the_search_and_alters_nothing(seed: int) -> None:
    rng = random.Random(7000 + seed)
    problem = random_problem(rng, options=4, buckets=3, models=1 + seed % 2)
    problem = replace(problem, constraints=RULES[seed % len(RULES)])
    rates = (1.0, 8.0, 3.0)
    warm = sweep_rates(problem, SolveOptions(), rates, None, STEPS)
    cold = [
        sweep_rates(problem, SolveOptions(), (rate,), None, (step,))[0]  # nothing known before it
        for step in STEPS
        for rate in rates
    ]
    assert list(warm) == cold
    assert [(p.prices, p.rate_rps) for p in warm] == [(s.label, r) for s in STEPS for r in rates]


@pytest.mark.parametrize("seed", range(9))
def test_fleets_of_another_limit_alter_nothing(seed: int) -> None:
    """Right (of a tighter limit), wrong (of a looser one), or of options that are not there."""
    rng = random.Random(7100 + seed)
    problem = replace(random_problem(rng, options=4, buckets=3), constraints=RULES[seed])
    rates = (1.0, 4.0)
    cold = sweep_rates(problem, SolveOptions(), rates, 0.06)
    for factor in (0.7, 1.5):
        other = replace(problem, demands=tuple(_stronger(d, factor) for d in problem.demands))
        fleets: Fleets = {}
        sweep_rates(other, SolveOptions(), rates, 0.04, (), fleets)
        assert sweep_rates(problem, SolveOptions(), rates, 0.06, (), fleets) == cold
    strange: Fleets = {n: (rate, {("m0", "gone"): 1}) for n, rate in enumerate(rates)}
    assert sweep_rates(problem, SolveOptions(), rates, 0.06, (), strange) == cold


def _stronger(demand: Demand, factor: float) -> Demand:
    """The demand with every capacity times `factor`."""
    options = tuple(
        replace(
            c,
            cells=tuple(
                tuple(
                    replace(
                        cell,
                        max_rate_rps=None
                        if cell.max_rate_rps is None
                        else cell.max_rate_rps * factor,
                    )
                    for cell in row
                )
                for row in c.cells
            ),
        )
        for c in demand.options
    )
    return replace(demand, options=options)


def test_limits_swept_together_are_those_swept_alone(tmp_path: Path) -> None:
    spec = tmp_path / "small.yaml"
    spec.write_text(SPEC, encoding="utf-8")

    def rows(limits: str) -> list[dict[str, str]]:
        arguments = [
            str(spec),
            "--offline",
            "--rate",
            "5,20",
            "--tpot-ms",
            limits,
            "--format",
            "csv",
        ]
        shown = CliRunner().invoke(sweep, arguments, catch_exceptions=False)
        return list(csv.DictReader(io.StringIO(shown.stdout)))

    assert rows("120,40,60") == rows("120") + rows("40") + rows("60")


@pytest.mark.parametrize("known", [0.01, 4.0, 4.68, 5.0, 100.0])
def test_a_wrong_known_cost_alters_nothing(known: float) -> None:
    plain = optimize(shipped_config())
    narrowed = optimize(shipped_config(), SolveOptions(known_usd_per_hour=known))
    assert narrowed.allocations == plain.allocations
    assert narrowed.cost_usd_per_hour == plain.cost_usd_per_hour


def test_a_point_is_what_a_plan_at_its_prices_costs() -> None:
    step = PriceStep(factor=3.0, accelerator="A10G")
    (point,) = sweep_rates(shipped_config(), SolveOptions(), (20.0,), None, (step,))
    alone = optimize(at_prices(at_rate(shipped_config(), 20.0), step))
    assert point.cost_usd_per_hour == alone.cost_usd_per_hour
    assert point.prices == "A10G=3"
    assert all("A10G" not in name for name, _ in point.mix)


def test_an_accelerator_alone_goes_without_what_is_paid_for_of_another() -> None:
    problem = shipped_config()
    paid = Constraints(fixed=(InstanceGroup(accelerator="A10G", instances=1),))
    plain, with_paid = by_name(problem), by_name(replace(problem, constraints=paid))
    assert with_paid["A100-80GB"] == plain["A100-80GB"]
    saved = (plain["A10G"].cost_usd_per_hour or 0) - (with_paid["A10G"].cost_usd_per_hour or 0)
    assert saved == pytest.approx(1.01)
    asked = Constraints(minimum=(InstanceGroup(accelerator="A10G", instances=1),))
    alone = by_name(replace(problem, constraints=asked))
    assert alone["A10G"].feasible
    assert alone["A100-80GB"].reason == "the minimum of 1 x A10G needs another accelerator"


def by_name(problem: Problem) -> dict[str, Baseline]:
    """Each accelerator's baseline beside a plan of $3.67/h."""
    return {b.accelerator: b for b in baselines(problem, (3.67,))[0]}


def test_all_prices_doubled_double_the_cost_of_the_same_mix() -> None:
    steps = (PriceStep(), PriceStep(factor=2.0))
    one, two = sweep_rates(shipped_config(), SolveOptions(), (30.0,), None, steps)
    assert two.mix == one.mix
    assert two.cost_usd_per_hour == pytest.approx(2 * (one.cost_usd_per_hour or 0.0))


@pytest.mark.parametrize("text", ["", "=1", "H100=", "H100=0", "1:2", "H100=x"])
def test_wrong_price_steps_are_bad_input(text: str) -> None:
    with pytest.raises(InputError, match="--prices"):
        parse_prices(text)


def test_price_steps_of_a_real_spec(tmp_path: Path) -> None:
    spec = tmp_path / "small.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    arguments = [
        str(spec),
        "--offline",
        "--rate",
        "20",
        "--prices",
        "0.5,1",
        "--prices",
        "H100=2",
        "--format",
        "csv",
    ]
    shown = CliRunner().invoke(sweep, arguments, catch_exceptions=False)
    assert shown.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(shown.stdout)))
    assert [row["prices"] for row in rows] == ["0.5", "1", "H100=2"]
    half, full, double = (float(row["cost_usd_per_hour"]) for row in rows)
    assert (2 * half, double) == (pytest.approx(full), pytest.approx(2 * full))


def test_a_price_step_of_an_absent_accelerator_is_bad_input(tmp_path: Path) -> None:
    spec = tmp_path / "small.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    arguments = [str(spec), "--offline", "--rate", "20", "--prices", "L4=2"]
    with pytest.raises(InputError, match="'L4'; there are H100"):
        CliRunner().invoke(sweep, arguments, catch_exceptions=False, standalone_mode=False)
