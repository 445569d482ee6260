"""`melange-sky plan --verify`: what it writes, tells and returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.runner import call as run_here

SPEC = """\
name: chat
model: meta-llama/Llama-3.1-8B-Instruct
slo: {tpot_ms: 50, ttft_ms: 1000}
workload:
  rate_rps: 14
  histogram: {input_edges: [0, 200, 1000], output_edges: [0, 300], weights: [[0.6], [0.4]]}
resources: {accelerators: [%s], infra: [aws]%s}
"""

pytestmark = [pytest.mark.usefixtures("kept_estimates"), pytest.mark.timeout(400)]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    return run_here(capsys, "plan", "spec.yaml", "--offline", *arguments)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC % ("L40S", ""))
    return tmp_path


def test_the_verdict_is_in_the_plan_and_on_the_screen(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "--verify")
    assert code == 0
    assert all(line.startswith("verifying for ") for line in err.splitlines())
    assert "Holds in replay: " in out
    saved = json.loads((folder / "chat-plan" / "plan.json").read_text())
    assert saved["verification"]["holds"] is True
    assert saved["verification"]["rounds"][0]["fleet"].endswith("L40S:1")


def test_a_plan_that_replay_changed_tells_of_its_own_fleet(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not of the cheaper one before any replay: other mixes, price range, proof."""
    spec = SPEC % ("A10G, L40S", "")
    (folder / "spec.yaml").write_text(spec.replace("rate_rps: 14", "rate_rps: 4"))
    asked = ("--price-error", "0.1", "--alternatives", "1")
    assert call(capsys, *asked)[0] == 0
    before = json.loads((folder / "chat-plan" / "plan.json").read_text())
    assert before["alternatives"]
    assert before["status"] == "optimal"
    code, out, _ = call(capsys, *asked, "--verify", "--burstiness", "60")
    assert code == 0
    plan = json.loads((folder / "chat-plan" / "plan.json").read_text())
    cost = plan["cost_usd_per_hour"]
    assert cost > before["cost_usd_per_hour"]
    notes = [w["message"] for w in plan["warnings"] if w["code"] == "price-error"]
    assert len(notes) == 1
    assert notes[0].endswith(f"costs ${cost * 0.9:,.2f}/h to ${cost * 1.1:,.2f}/h")
    assert (plan["alternatives"], plan["status"]) == ([], "feasible")
    assert "the cheapest found with replay, not proven optimal" in out
    rounds = plan["verification"]["rounds"]
    fleets = {(one["fleet"], one["cost_usd_per_hour"]) for one in rounds}
    assert f"; {len(fleets)} fleets were replayed." in out


def test_a_plan_that_cannot_hold_exits_5_and_says_why(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "spec.yaml").write_text(SPEC % ("L40S", ", limits: {L40S: 6}"))
    code, out, err = call(capsys, "--verify", "--burstiness", "300")
    assert code == 5
    assert "Does NOT hold in replay" in out
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: chat: ")
    assert "L40S" in last or "fleet" in last


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--verify-trace", "t.csv"], "needs --verify"),
        (["--verify", "--verify-trace", "absent.csv"], "no such trace"),
        (["--verify", "--verify-trace", "one.csv"], "spans no time"),
        (["--verify", "--burstiness", "nan"], "burstiness"),
    ],
)
def test_wrong_use_is_exit_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (folder / "one.csv").write_text("arrival_s,input_tokens,output_tokens\n0,1,1\n")
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert not (folder / "chat-plan").exists()
