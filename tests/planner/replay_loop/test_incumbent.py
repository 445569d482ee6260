"""The plan of before: kept where it is cheaper today and holds, told of where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from melange_sky.errors import InputError
from melange_sky.planfile import dump_plan
from melange_sky.planner.planning import PlanOptions, plan_source
from melange_sky.plans import Plan

pytestmark = [pytest.mark.usefixtures("kept_estimates"), pytest.mark.timeout(300)]


def spec_of(folder: Path, accelerators: str, **changes: object) -> Path:
    document: dict[str, object] = {
        "name": "chat",
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "slo": {"tpot_ms": 50, "ttft_ms": 1000},
        "workload": {
            "rate_rps": 7,
            "histogram": {
                "input_edges": [0, 200, 1000],
                "output_edges": [0, 300],
                "weights": [[0.6], [0.4]],
            },
        },
        "resources": {"accelerators": accelerators.split(), "infra": ["aws"]},
    }
    path = folder / "spec.json"
    path.write_text(json.dumps(document | changes))
    return path


def saved(plan: Plan, folder: Path) -> Path:
    path = folder / "before.json"
    path.write_text(dump_plan(plan))
    return path


def notes(plan: Plan) -> list[str]:
    return [w.message for w in plan.warnings if w.code == "incumbent"]


@pytest.mark.parametrize("burstiness", [1.0, 30.0])
def test_each_accelerator_more_with_the_plan_before_never_costs_more(
    tmp_path: Path, burstiness: float
) -> None:
    cost, before = float("inf"), None
    for names in ("H100:1", "H100:1 L4:1", "H100:1 L4:1 A10G:1"):
        options = PlanOptions(
            offline=True, verify=True, verify_seconds=90, burstiness=burstiness, incumbent=before
        )
        plan = plan_source(spec_of(tmp_path, names), options)
        (model,) = plan.models
        assert model.verification is not None
        assert model.verification.holds, model.verification.reason
        assert plan.cost_usd_per_hour <= cost + 1e-6
        cost, before = plan.cost_usd_per_hour, saved(plan, tmp_path)
    assert any("at today's prices and holds in replay" in text for text in notes(plan))


def test_a_fleet_that_replay_shrank_is_kept_by_a_plan_without_verification(tmp_path: Path) -> None:
    """By estimate and headroom it is too small; it was seen to hold."""
    path = spec_of(tmp_path, "L40S:1", headroom=0.5)
    found = plan_source(path, PlanOptions(offline=True, verify=True))
    plain = plan_source(path, PlanOptions(offline=True))
    assert found.cost_usd_per_hour < plain.cost_usd_per_hour
    before = saved(found, tmp_path)
    kept = plan_source(path, PlanOptions(offline=True, incumbent=before))
    assert kept.models[0].fleet_text() == found.models[0].fleet_text()
    assert kept.cost_usd_per_hour == pytest.approx(found.cost_usd_per_hour)
    assert "is kept: it holds in replay" in notes(kept)[0]
    assert kept.solver.status == "feasible"

    more = spec_of(
        tmp_path,
        "L40S:1",
        headroom=0.5,
        workload={
            "rate_rps": 25,
            "histogram": {"input_edges": [0, 200], "output_edges": [0, 300], "weights": [[1]]},
        },
    )
    plan = plan_source(more, PlanOptions(offline=True, incumbent=before))
    assert "but does not hold in replay" in notes(plan)[0]
    assert plan.cost_usd_per_hour > found.cost_usd_per_hour


def test_what_is_not_to_be_had_today_is_told(tmp_path: Path) -> None:
    before = saved(plan_source(spec_of(tmp_path, "L40S:1"), PlanOptions(offline=True)), tmp_path)
    path = spec_of(tmp_path, "A10G:1")
    plan = plan_source(path, PlanOptions(offline=True, incumbent=before))
    (note,) = notes(plan)
    assert "is left out: L40S:1 (g6e" in note
    assert note.endswith("is not among what the spec can have today")
    limited = spec_of(
        tmp_path,
        "L40S:1 A10G:1",
        resources={"accelerators": ["L40S:1", "A10G:1"], "infra": ["aws"], "limits": {"L40S": 0}},
    )
    (note,) = notes(plan_source(limited, PlanOptions(offline=True, incumbent=before)))
    assert "its fleet does not keep to the spec any more" in note


def test_a_plan_of_another_model_is_refused_in_one_line(tmp_path: Path) -> None:
    before = saved(plan_source(spec_of(tmp_path, "L40S:1"), PlanOptions(offline=True)), tmp_path)
    other = spec_of(tmp_path, "L40S:1", model="Qwen/Qwen2.5-7B-Instruct")
    for verify in (False, True):
        with pytest.raises(InputError) as error:
            plan_source(other, PlanOptions(offline=True, incumbent=before, verify=verify))
        (line,) = error.value.problems
        assert line.startswith(f"--incumbent {before}: is a plan for ")
        assert "give a plan of the same models" in line
    with pytest.raises(InputError, match=r"no such file|absent"):
        plan_source(other, PlanOptions(offline=True, incumbent=tmp_path / "absent.json"))
