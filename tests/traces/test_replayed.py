"""Traces that `simulate` and `plan --verify` replay are read as `workload` reads them, and told of the same way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from melange_sky.planfile import dump_plan
from tests.cli.runner import call
from tests.factories import make_plan

ROWS = [
    f"2025-03-30 {hour}:{minute:02d}:{second:02d};{(200, 300)[second % 2]};{40 if ok else 0};{200 if ok else 500}"
    for hour, minute in [("01", 58), ("01", 59), ("03", 0), ("03", 1)]
    for second in range(60)
    for ok in [second % 10 != 0]
]
LOG = "came;a;b;code\n" + "\n".join(ROWS) + "\n"
HOW = ("--columns", "time=came,input=a,output=b,status=code", "--timezone", "Europe/Berlin")
TOLD = "log.csv: 24 requests failed (0 of them without an output token) and are left out; --keep-failed counts them as demand"
SPEC = """\
name: chat
model: meta-llama/Llama-3.1-8B-Instruct
slo: {tpot_ms: 50, ttft_ms: 1000}
workload:
  rate_rps: 1
  histogram: {input_edges: [0, 400], output_edges: [0, 100], weights: [[1]]}
resources: {accelerators: [L40S], infra: [aws]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.json").write_text(dump_plan(make_plan()))
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "failed.csv").write_text(LOG.replace(";200\n", ";500\n"))
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_simulate_reads_a_trace_as_it_is_told_to(capsys: pytest.CaptureFixture[str]) -> None:
    replay = ("simulate", "plan.json", "--format", "json", "--trace", "log.csv", *HOW)
    found = json.loads(call(capsys, *replay)[1])
    # In Berlin the four minutes follow each other: clocks went from two to three.
    assert "(0.9034 req/s)" in found["traffic"]
    assert TOLD in found["notes"]
    kept = json.loads(call(capsys, *replay, "--keep-failed")[1])
    assert "(1 req/s)" in kept["traffic"]
    assert any("24 requests failed" in note and "are kept" in note for note in kept["notes"])


@pytest.mark.usefixtures("folder", "kept_estimates")
def test_a_verified_plan_tells_what_its_trace_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    plan = (
        "plan",
        "spec.yaml",
        "--offline",
        "--verify",
        "--format",
        "json",
        "--verify-seconds",
        "20",
    )
    code, out, _ = call(capsys, *plan, "--verify-trace", "log.csv", *HOW)
    assert code == 0
    assert TOLD in [w["message"] for w in json.loads(out)["warnings"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("simulate", "plan.json", "--timezone", "UTC"), "--timezone says how --trace is read: name the trace with --trace"),
        (("plan", "spec.yaml", "--offline", "--keep-failed"), "--keep-failed says how --verify-trace is read"),
        (("simulate", "plan.json", "--trace", "log.csv", "--columns", "tme=came"), "columns: unknown role 'tme'"),
        (("plan", "spec.yaml", "--verify", "--verify-trace", "log.csv", "--timezone", "Berlin"), "did you mean 'Europe/Berlin'?"),
        (("simulate", "plan.json", "--trace", "failed.csv", *HOW), "failed.csv: all 240 requests failed or have no output token; --keep-failed counts them"),
        (("plan", "spec.yaml", "--offline", "--verify", "--verify-trace", "failed.csv", *HOW), "failed.csv: all 240 requests failed"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
