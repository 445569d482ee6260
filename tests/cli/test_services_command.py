"""What `apply`, `status` and `down` refuse before anything is asked of SkyPilot."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from melange_sky.cli import cli
from melange_sky.errors import InputError
from melange_sky.planfile import dump_plan
from melange_sky.planner.apply import wanted_services
from melange_sky.planner.observed import observed_traffic
from melange_sky.rendering import render_services, service_name, write_folder
from tests.factories import make_plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plan = make_plan()
    write_folder(
        tmp_path / "plan", {"plan.json": dump_plan(plan), **render_services(plan)}, force=False
    )
    return tmp_path / "plan"


def test_wanted_services_are_those_of_the_files(folder: Path) -> None:
    plan = make_plan()
    rows = wanted_services(plan, folder)
    assert [row.name for row in rows] == [
        service_name(model, a) for model in plan.models for a in model.allocations
    ]
    assert [row.replicas for row in rows] == [1, 1]
    assert rows[1].price_usd_per_hour == 5.07


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "is missing"),
        (": [", "cannot be read"),
        ("[]", "not a service file"),
        ("service: {replicas: 1}", "not a service file"),
        ("{_metadata: {}, service: {replicas: many}}", "whole number"),
        ("{_metadata: {}, service: {replica_policy: 3}}", "whole number"),
        ("x" * 1_000_001, "too large"),
    ],
)
def test_a_broken_service_file_is_told(folder: Path, text: str | None, told: str) -> None:
    path = next(iter(sorted(folder.glob("*.sky.yaml"))))
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        wanted_services(make_plan(), folder)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("command", ["apply", "status", "down"])
def test_no_plan_there(tmp_path: Path, command: str) -> None:
    found = CliRunner().invoke(cli, [command, str(tmp_path / "nowhere")])
    assert isinstance(found.exception, InputError)


def test_seen_traffic_against_the_plan(tmp_path: Path) -> None:
    seen = tmp_path / "seen.yaml"
    seen.write_text(
        "workload:\n  rate_rps: 3.5\n  histogram:\n    input_edges: [0, 100, 200]\n"
        "    output_edges: [0, 50, 100]\n    weights: [[0.571428571, 0.285714286], [0.142857143, 0]]\n"
    )
    traffic = observed_traffic(make_plan(), seen)
    told = json.loads(json.dumps(asdict(traffic)))
    assert list(told) == [
        "buckets",
        "cost_usd_per_hour",
        "least_usd_per_hour",
        "replan",
        "verdict",
    ]
    first = told["buckets"][0]
    assert first["bucket"] == traffic.buckets[0].bucket
    assert first["planned_rps"] == 2.0 and first["seen_rps"] == pytest.approx(2.0, rel=1e-6)
    assert traffic.least_usd_per_hour is not None
    assert traffic.least_usd_per_hour <= traffic.cost_usd_per_hour
    seen.write_text(seen.read_text().replace("  rate_rps: 3.5\n", ""))
    with pytest.raises(InputError, match="rate_rps"):
        observed_traffic(make_plan(), seen)
