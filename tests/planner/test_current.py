"""`current` in a spec: what serves today, against which the plan's saving is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from melange_sky.errors import InputError
from melange_sky.planfile import dump_plan, load_plan
from melange_sky.planner.planning import PlanOptions, plan_source
from melange_sky.plans import CurrentFleet, Plan
from melange_sky.report.plan_table import plan_table

pytestmark = [pytest.mark.usefixtures("kept_estimates"), pytest.mark.timeout(300)]

SPEC = """\
name: chat
model: meta-llama/Llama-3.1-8B-Instruct
slo: {tpot_ms: 50, ttft_ms: 1000}
workload:
  rate_rps: 4
  histogram: {input_edges: [0, 200, 1000], output_edges: [0, 300], weights: [[0.6], [0.4]]}
resources: {accelerators: [A10G, L40S], infra: [aws]}
current:
"""


def planned(folder: Path, *entries: str, **options: bool) -> Plan:
    path = folder / "spec.yaml"
    path.write_text(SPEC + "".join(f"  - {{{entry}}}\n" for entry in entries))
    return plan_source(path, PlanOptions(offline=True, **options))


def current(plan: Plan) -> CurrentFleet:
    assert plan.current is not None
    return plan.current


def test_the_plan_says_what_it_saves_against_list_prices_and_bills_nothing_more(
    tmp_path: Path,
) -> None:
    plan = planned(tmp_path, "accelerators: 'A100-80GB:8', infra: aws, instances: 1")
    found = current(plan)
    without = tmp_path / "without.yaml"
    without.write_text(SPEC.replace("current:\n", ""))
    assert (
        plan.cost_usd_per_hour == plan_source(without, PlanOptions(offline=True)).cost_usd_per_hour
    )
    assert found.price == "list"
    assert found.cost_usd_per_hour > 20
    assert found.fleet.startswith("1 × A100-80GB:8 tp")
    assert found.holds is True
    assert found.judged_by == "estimate"
    assert found.saving_usd_per_hour == pytest.approx(
        found.cost_usd_per_hour - plan.cost_usd_per_hour
    )
    assert found.saving_fraction == pytest.approx(
        1 - plan.cost_usd_per_hour / found.cost_usd_per_hour
    )
    table = plan_table(plan, width=200)
    assert "Today's 1 × A100-80GB:8" in table
    assert "it holds the SLO by estimate." in table
    (tmp_path / "plan.json").write_text(dump_plan(plan))
    assert load_plan(tmp_path / "plan.json").current == found


def test_own_prices_splits_and_several_entries(tmp_path: Path) -> None:
    found = current(
        planned(
            tmp_path,
            "accelerators: 'A10G:4', instances: 1, usd_per_hour: 3.5, split: tp4",
            "accelerators: L40S, infra: aws, instances: 2",
        )
    )
    assert found.fleet == "1 × A10G:4 tp4 + 2 × L40S:1"
    assert found.price == "given and list"
    assert found.instances == 3
    only = current(planned(tmp_path, "accelerators: L40S, instances: 2, usd_per_hour: 1.25"))
    assert (only.cost_usd_per_hour, only.price) == (2.5, "given")


def test_a_verified_plan_judges_what_serves_today_by_the_same_replay(tmp_path: Path) -> None:
    good = planned(tmp_path, "accelerators: L40S, instances: 4", verify=True)
    found = current(good)
    assert (found.holds, found.judged_by) == (True, "replay")
    assert found.attainment is not None
    assert found.attainment >= 0.95
    assert good.cost_usd_per_hour < found.cost_usd_per_hour
    small = current(planned(tmp_path, "accelerators: A10G, instances: 1", verify=True))
    assert small.holds is False
    assert small.saving_usd_per_hour < 0
    assert "costs more than that by" in plan_table(
        planned(tmp_path, "accelerators: A10G, instances: 1"), width=200
    )


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("accelerators: A1000, instances: 1", "spec.yaml:9: current[0].accelerators: "),
        ("accelerators: L40S, infra: moon, instances: 1", "spec.yaml:9: current[0].infra: "),
        ("accelerators: L40S", "spec.yaml:9: current[0].instances: is missing"),
        ("accelerators: L40S, instances: 0", "spec.yaml:9: current[0].instances: "),
        ("accelerators: L40S, instances: 1, usd_per_hour: -3", "current[0].usd_per_hour: "),
        ("accelerators: L40S, instances: 1, price: 3", "current[0].price: "),
        (
            "accelerators: L40S, instances: 1, split: four",
            "current[0].split: 'four' must be a split such as tp4, tp4 pp2 or tp1 ep8",
        ),
        (
            "accelerators: 'A10G:4', instances: 1, split: tp3",
            "current[0].split: no way to run it so; the planner knows tp",
        ),
        ("accelerators: 'L40S:3', instances: 1", "spec.yaml:9: current[0]: "),
    ],
)
def test_wrong_entries_are_one_line(tmp_path: Path, entry: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        planned(tmp_path, entry)
    assert len(error.value.problems) == 1
    assert words in error.value.problems[0]
    assert "spec.yaml:9" in error.value.problems[0]


def test_the_plan_file_is_json_others_can_read(tmp_path: Path) -> None:
    plan = planned(tmp_path, "accelerators: L40S, instances: 2")
    document = json.loads(dump_plan(plan))["current"]
    assert set(document) >= {"fleet", "cost_usd_per_hour", "saving_usd_per_hour", "holds"}
