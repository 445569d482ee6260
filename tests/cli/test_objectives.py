"""Objectives other than least cost, asked for on the command line of `plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.runner import melange_sky

CONFIG = {
    "gpu_info": {
        "A": {"cost": 1.0, "tputs": [[1.0]]},
        "B": {"cost": 3.9, "tputs": [[4.0]]},
    },
    "workload_distribution": [[1.0]],
    "total_request_rate": 5.0,
    "slice_factor": 1,
}


def _plan(folder: Path, *arguments: str) -> dict[str, Any]:
    config = folder / "config.json"
    config.write_text(json.dumps(CONFIG), encoding="utf-8")
    answer = melange_sky("plan", str(config), "--format", "json", *arguments, cwd=folder)
    assert answer.returncode == 0, answer.stderr
    document: dict[str, Any] = json.loads(answer.stdout)
    return document


def _mix(document: dict[str, Any]) -> dict[str, int]:
    return {row["option"]: row["instances"] for row in document["allocations"]}


def _codes(document: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in document["warnings"]]


def test_least_cost_is_a_mix_of_two(tmp_path: Path) -> None:
    document = _plan(tmp_path)
    assert (_mix(document), document["cost_usd_per_hour"]) == ({"A": 1, "B": 1}, pytest.approx(4.9))


def test_within_takes_one_type_where_that_costs_little(tmp_path: Path) -> None:
    document = _plan(tmp_path, "--within", "3%")
    assert (_mix(document), document["cost_usd_per_hour"]) == ({"A": 5}, pytest.approx(5.0))
    (note,) = document["warnings"]
    assert note["code"] == "simplest"
    assert "within 3 % of the least cost: $0.10/h more" in note["message"]


def test_alternatives_are_other_mixes_by_cost(tmp_path: Path) -> None:
    others = _plan(tmp_path, "--alternatives", "2")["alternatives"]
    costs = [other["cost_usd_per_hour"] for other in others]
    assert costs == sorted(costs) and costs[0] >= 4.9
    assert {"A": 5} in [dict(other["instances"]) for other in others]


def test_throughput_error_buys_reserve_and_tells_its_premium(tmp_path: Path) -> None:
    document = _plan(tmp_path, "--throughput-error", "20%", "--price-error", "0.1")
    capacity = sum({"A": 1.0, "B": 4.0}[name] * n for name, n in _mix(document).items())
    assert capacity * 0.8 >= 5.0 - 1e-9
    assert _codes(document) == ["robust", "price-error"]
    premium = document["cost_usd_per_hour"] - 4.9
    assert f"${premium:,.2f}/h more than without" in document["warnings"][0]["message"]


def test_stay_close_keeps_what_runs_unless_it_costs_too_much(tmp_path: Path) -> None:
    running = tmp_path / "running.json"
    running.write_text(json.dumps(_plan(tmp_path, "--within", "3%")), encoding="utf-8")
    stay = ("--stay-close", str(running), "--switch-cost")
    assert _mix(_plan(tmp_path, *stay, "1.0")) == {"A": 5}
    assert _mix(_plan(tmp_path, *stay, "0.001")) == {"A": 1, "B": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--within", "5"], "5 is above 1; write 5% or a fraction"),
        (["--within", "nan"], "nan is out of range"),
        (["--throughput-error", "100%"], "100% is out of range"),
        (["--stay-close", "x.json"], "--stay-close PLAN.json and --switch-cost USD go together"),
        (["--error-budget", "1"], "--error-budget needs --throughput-error"),
    ],
)
def test_wrong_use_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    answer = melange_sky("plan", "config.json", *arguments, cwd=tmp_path)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
