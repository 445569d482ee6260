"""Reasons for a plan, errors in its figures, and sweeps; the commands that show them."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from melange_sky.cli.explain import explain as explain_command
from melange_sky.cli.explain import sweep
from melange_sky.constraints import Constraints
from melange_sky.errors import InputError
from melange_sky.optimizer import (
    Problem,
    Robustness,
    SolveOptions,
    baselines,
    explain,
    optimize,
    other_fleets,
    problem_of,
    robust_report,
    sweep_rates,
)
from melange_sky.planfile import dump_plan
from melange_sky.planner.axes import parse_axis
from melange_sky.plans import ModelPlan, Plan
from melange_sky.slo import SLO
from tests.optimizer.factories import at_most, demand, option, placed, shipped_config


def planned(problem: Problem) -> Plan:
    """A real plan of a one-model problem."""
    solution = optimize(problem)
    first = problem.demands[0]
    model = ModelPlan(
        name=first.name,
        model="given",
        slo=SLO(),
        workload=first.workload,
        allocations=solution.allocations[0],
        baselines=baselines(problem, (solution.cost_usd_per_hour,))[0],
        candidates=first.options,
    )
    return Plan(
        name=first.name,
        created_at="2026-11-01T00:00:00Z",
        models=(model,),
        solver=solution.report,
        headroom=problem.headroom,
        constraints=problem.constraints,
    )


def test_prices_per_token_are_those_of_a_full_instance() -> None:
    problem = Problem(demands=(demand([[3.6]], option("a", 7.2, [[2.0]])),), headroom=0.5)
    (bucket,) = explain(planned(problem)).buckets
    # $7.2/h for 1 req/s × 3600 s × (100 + 50) tokens = 540 000 tokens: $13.33 a million.
    assert bucket.choices[0].usd_per_million_tokens == pytest.approx(7.2 / 0.54)
    assert bucket.why == "the only option that can serve it within the SLO"


def test_what_serves_where_is_told_with_its_reason() -> None:
    reasons = explain(planned(shipped_config()))
    assert reasons.cost_usd_per_hour == pytest.approx(4.68)
    # Each bucket on its cheapest: 12 A10Gs at $1.01 against 1.125 A100s at $3.67, bucket by bucket.
    assert reasons.bound_usd_per_hour == pytest.approx(3.67 * (6 + 3 + 6) / 20 + 3.67 * 15 / 40)
    assert all("A100-80GB" in b.choices[0].option for b in reasons.buckets)
    served_by_a10g = [
        b for b in reasons.buckets if any(c.option == "A10G" and c.share for c in b.choices)
    ]
    assert served_by_a10g
    assert all("capacity is worth more for other sizes" in b.why for b in served_by_a10g)
    assert (
        reasons.savings[0] == "the mix saves 36.2% against the best single accelerator, A100-80GB"
    )


def test_one_type_that_is_optimal_is_said_to_be() -> None:
    problem = Problem(
        demands=(demand([[1.0]], option("a", 1.0, [[2.0]]), option("b", 9.0, [[2.0]])),)
    )
    assert explain(planned(problem)).savings[0] == "a alone is optimal: no mix is cheaper"


def test_the_price_of_a_limit_is_what_solving_without_it_saves() -> None:
    cheap = placed("a", 1.0, [[1.0]], "aws/us-east-1", accelerator="A")
    dear = placed("b", 3.0, [[1.0]], "gcp/us-central1", accelerator="B")
    problem = Problem(
        demands=(demand([[4.0]], cheap, dear),),
        constraints=Constraints(limits=at_most(("A", 2), ("gcp", 9)), min_replicas=2),
    )
    rules = {rule.rule: rule for rule in explain(planned(problem)).rules}
    bound = rules["the limit of 2 A GPUs"]
    assert bound.binds
    assert bound.step == "raise the limit to 3 A GPUs"
    assert bound.saved_by_step_usd_per_hour == pytest.approx(2.0)
    assert bound.saved_without_usd_per_hour == pytest.approx(4.0)
    assert not rules["the limit of 9 instances on gcp"].binds
    assert not rules["at least 2 replicas"].binds


def test_the_price_of_option_types_is_what_fewer_or_more_of_them_save() -> None:
    """Each of two options is good at one size: one type alone is dearer, a third is too."""
    options = (
        option("a", 2.0, [[4.0, 1.0]]),
        option("b", 2.0, [[1.0, 4.0]]),
        option("c", 9.0, [[1.0, 1.0]]),
    )
    fewer = Problem(
        demands=(demand([[4.0, 4.0]], *options),), constraints=Constraints(max_option_types=1)
    )
    (rule,) = explain(planned(fewer)).rules
    assert (rule.rule, rule.step) == ("at most 1 option type", "allow 2 option types")
    # Five of one for ten dollars, or one of each for four.
    assert rule.saved_by_step_usd_per_hour == pytest.approx(6.0)
    assert rule.saved_without_usd_per_hour == pytest.approx(6.0)
    more = replace(fewer, constraints=Constraints(min_option_types=3))
    (rule,) = explain(planned(more)).rules
    assert (rule.rule, rule.step) == (
        "at least 3 option types",
        "require only 2 option types",
    )
    assert rule.saved_by_step_usd_per_hour == pytest.approx(9.0)
    assert rule.binds


def test_the_step_of_a_share_is_a_tenth_and_of_a_limit_an_instance() -> None:
    cheap = placed("a", 1.0, [[1.0]], "aws/us-east-1", accelerator="A", accelerator_count=4)
    dear = placed("b", 3.0, [[1.0]], "gcp/us-central1", accelerator="B")
    problem = Problem(
        demands=(demand([[4.0]], cheap, dear),),
        constraints=Constraints(limits=at_most(("A", 8)), max_share_per_cloud=0.6),
    )
    steps = {rule.rule: rule.step for rule in explain(planned(problem)).rules}
    assert steps == {
        "a share per cloud of at most 0.6": "raise the share per cloud to 0.7",
        "the limit of 8 A GPUs": "raise the limit to 12 A GPUs",
    }


def test_a_protected_fleet_costs_its_premium() -> None:
    problem = Problem(demands=(demand([[4.0]], option("a", 1.0, [[1.0]])),))
    report = robust_report(problem, SolveOptions(), Robustness(throughput_error=0.2), 0.1)
    # 4 instances carry 4 req/s; 20 % weaker, 5 are needed.
    assert report.protected == (("a", 5),)
    assert report.premium_usd_per_hour == pytest.approx(1.0)
    assert (report.price_low_usd_per_hour, report.price_high_usd_per_hour) == pytest.approx(
        (3.6, 4.4)
    )


def test_a_protection_that_no_fleet_has_says_why() -> None:
    limits = Constraints(limits=at_most(("a", 4)))
    problem = Problem(demands=(demand([[4.0]], option("a", 1.0, [[1.0]])),), constraints=limits)
    report = robust_report(problem, SolveOptions(), Robustness(throughput_error=0.2), 0.0)
    assert report.protected_usd_per_hour is None
    assert "the limit of 4 a GPUs" in (report.reason or "")


def test_other_fleets_come_with_what_differs() -> None:
    simple, other = other_fleets(shipped_config(), SolveOptions(), 1, 0.6)
    assert simple.kind == "simplest"
    assert simple.mix == (("A100-80GB", 2),)
    assert other.differs == "2 instead of 1 x A100-80GB; 0 instead of 1 x A10G ($+2.66/h, +56.8%)"


def test_a_saved_plan_yields_its_problem_again() -> None:
    problem = shipped_config()
    assert problem_of(planned(problem)).demands[0].options == problem.demands[0].options


def test_sweep_is_monotone_and_ends_at_the_known_point() -> None:
    points = sweep_rates(shipped_config(), SolveOptions(), (5.0, 15.0, 30.0), None)
    costs = [point.cost_usd_per_hour or 0.0 for point in points]
    assert costs == sorted(costs)
    assert points[-1].mix == (("A100-80GB", 1), ("A10G", 1))
    assert points[-1].best_single == "A100-80GB"


@pytest.mark.parametrize(
    "text", ["", "a", "1:2", "1:8:x1", "8:1:+1", "0,1", "1:5:-1", "nan", "1e12"]
)
def test_a_wrong_axis_is_bad_input(text: str) -> None:
    with pytest.raises(InputError, match="--rate"):
        parse_axis(text, "--rate")


def test_explain_reads_a_plan_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(dump_plan(planned(shipped_config())), encoding="utf-8")
    shown = CliRunner().invoke(
        explain_command,
        [str(file), "--alternatives", "1", "--within", "60%", "--throughput-error", "0.1"],
        catch_exceptions=False,
    )
    assert shown.exit_code == 0
    assert shown.stdout.startswith("Who takes what  ")
    assert "Who serves what, and why" not in shown.stdout
    in_full = CliRunner().invoke(explain_command, [str(file), "--all"]).stdout
    assert "Who serves what, and why" in in_full
    assert "the mix saves 36.2% against the best single accelerator" in in_full
    assert "Withstanding the throughput error costs $" in shown.stdout
    document = json.loads(
        CliRunner().invoke(explain_command, [str(file), "--format", "json"]).stdout
    )
    assert document["cost_usd_per_hour"] == pytest.approx(4.68)
    assert len(document["buckets"]) == 4
    assert document["summary"]["simpler"]["fleet"] == "2 × A100-80GB:1"


SPEC = """\
name: small
model: meta-llama/Llama-3.1-8B-Instruct
slo: {tpot_ms: 60, ttft_ms: 2000}
workload:
  rate_rps: 1
  histogram: {input_edges: [0, 500], output_edges: [0, 100], weights: [[1.0]]}
resources: {accelerators: ["H100:1"], infra: [aws]}
"""


def test_sweep_plans_a_real_spec_over_rates_and_slos(tmp_path: Path) -> None:
    spec, out = tmp_path / "small.yaml", tmp_path / "sweep.csv"
    spec.write_text(SPEC, encoding="utf-8")
    arguments = [
        str(spec),
        "--offline",
        "--rate",
        "2:200:x10",
        "--tpot-ms",
        "60,120",
        "-o",
        str(out),
    ]
    assert CliRunner().invoke(sweep, arguments, catch_exceptions=False).exit_code == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text(encoding="utf-8"))))
    assert [(r["rate_rps"], r["tpot_ms"]) for r in rows] == [
        (rate, tpot) for tpot in ("60.0", "120.0") for rate in ("2.0", "20.0", "200.0")
    ]
    costs = {(r["rate_rps"], r["tpot_ms"]): float(r["cost_usd_per_hour"]) for r in rows}
    assert costs["200.0", "60.0"] > costs["2.0", "60.0"]
    assert costs["200.0", "120.0"] <= costs["200.0", "60.0"]


def test_sweep_prints_a_table_and_writes_what_the_name_of_the_file_says(tmp_path: Path) -> None:
    spec, out = tmp_path / "small.yaml", tmp_path / "sweep.json"
    spec.write_text(SPEC, encoding="utf-8")
    arguments = [str(spec), "--offline", "--rate", "2,4"]
    shown = CliRunner().invoke(sweep, arguments, catch_exceptions=False).stdout
    header, *rows = shown.splitlines()
    assert header.split() == [
        "req/s",
        "TPOT",
        "ms",
        "prices",
        "$/h",
        "mix",
        "best",
        "single",
        "its",
        "$/h",
    ]
    assert [row.split()[0] for row in rows] == ["2", "4"]
    CliRunner().invoke(sweep, [*arguments, "-o", str(out)], catch_exceptions=False)
    assert [point["rate_rps"] for point in json.loads(out.read_text(encoding="utf-8"))] == [2, 4]
    told = CliRunner().invoke(sweep, [*arguments, "--format", "csv"], catch_exceptions=False)
    assert told.stdout.startswith("rate_rps,tpot_ms,prices,cost_usd_per_hour")


def test_replace_keeps_constraints_of_a_plan() -> None:
    limited = replace(shipped_config(), constraints=Constraints(limits=at_most(("A10G", 1))))
    assert problem_of(planned(limited)).constraints == limited.constraints
