"""A time limit that runs out: each command says so, and none that there is no plan."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.cli.runner import call, melange_sky

SPEC = """\
name: chat
model: meta-llama/Llama-3.1-8B-Instruct
slo: {tpot_ms: 50, ttft_ms: 1000}
workload:
  rate_rps: 14
  histogram: {input_edges: [0, 200, 1000], output_edges: [0, 300], weights: [[0.6], [0.4]]}
resources: {accelerators: [A10G, L40S], infra: [aws]}
"""
NOW = "1e-06"
LATE = "no plan was found within the time limit of 1e-06 s (none is proven impossible)"

pytestmark = pytest.mark.usefixtures("kept_estimates")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


def test_plan_exits_with_6_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "plan", "spec.yaml", "--offline", "--time-limit", NOW)
    assert (code, out) == (6, "")
    assert err == f"error: {LATE}; raise it with --time-limit\n"
    assert [path.name for path in folder.iterdir()] == ["spec.yaml"]


def test_a_melange_config_is_held_to_it_too(tmp_path: Path) -> None:
    config = {
        "gpu_info": {"A10G": {"cost": 1.01, "tputs": [[2, 1], [5, 2]]}},
        "workload_distribution": [[0.2, 0.1], [0.5, 0.2]],
        "total_request_rate": 30,
        "slice_factor": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    answer = melange_sky("plan", str(tmp_path / "config.json"), "--time-limit", NOW)
    assert answer.returncode == 6
    assert answer.stderr == f"error: {LATE}; raise it with --time-limit\n"


def test_sweep_goes_on_with_a_status_of_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(
        capsys,
        "sweep",
        "spec.yaml",
        "--offline",
        "--rate",
        "4,8",
        "--time-limit",
        NOW,
        "--format",
        "csv",
    )
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(r["rate_rps"], r["status"], r["reason"]) for r in rows] == [
        ("4.0", "time-limit", LATE),
        ("8.0", "time-limit", LATE),
    ]


def test_compare_calls_no_fleet_impossible(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(
        capsys,
        *("compare", "spec.yaml", "--offline", "--time-limit", NOW),
        *("-o", "out", "--format", "json"),
    )
    assert code == 0
    rows = json.loads(out)
    assert [r["kind"] for r in rows] == ["mix", "mix, sliced", "A10G", "L40S"]
    assert all(r["late"] and r["reason"] == LATE and r["usd_per_hour"] is None for r in rows)
    assert err.splitlines() == [f"14 req/s, {r['kind']}: no fleet found in time" for r in rows]
    figure = (folder / "out" / "compare.svg").read_text()
    assert figure.count("no fleet found in time") == 4
    assert "no fleet holds" not in figure


def test_prices_diff_does_not_say_that_nothing_serves(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "plan", "spec.yaml", "--offline", "-o", "out")[0] == 0
    ask = ("prices", "diff", "--plan", "out/plan.json", "--time-limit", NOW)
    for more in ((), ("--spec", "spec.yaml")):
        code, out, _ = call(capsys, *ask, *more)
        assert code == 0
        last = out.splitlines()[-1]
        assert last == f"the cheapest mix now is unknown: {LATE}; raise it with --time-limit"
    document = json.loads(call(capsys, *ask, "--format", "json")[1])
    assert document["cheapest_now_usd_per_hour"] is None
    assert document["cheapest_reason"] == LATE


def test_explain_exits_with_6_where_it_must_plan_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "plan", "spec.yaml", "--offline", "-o", "out")[0] == 0
    ask = ("explain", "out/plan.json", "--time-limit", NOW)
    assert call(capsys, *ask)[0] == 0
    code, _, err = call(capsys, *ask, "--throughput-error", "0.1")
    assert (code, err) == (6, f"error: {LATE}; raise it with --time-limit\n")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("plan", "Seconds for all solving"),
        ("compare", "Seconds for solving, for each plan"),
        ("sweep", "Seconds for solving, for each point"),
        ("explain", "Seconds for each solve"),
    ],
)
def test_help_says_what_is_limited(
    command: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert text in " ".join(out.split())
    code, out, _ = call(capsys, "--help")
    assert "6 no plan within the time limit" in " ".join(out.split())
