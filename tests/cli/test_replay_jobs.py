"""Replays side by side give the very bytes of serial ones, and progress stays on a terminal's stderr."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from melange_sky.cli import main
from melange_sky.planfile import dump_plan
from melange_sky.slo import SLO
from tests.factories import make_plan

# Long prompts beside chats with a tight TPOT: the plan fails in replay, so that there are rounds.
SPEC = """\
name: chat
model: meta-llama/Llama-3.1-8B-Instruct
slo: {tpot_ms: 40, ttft_ms: 3000}
workload:
  rate_rps: 3
  histogram:
    input_edges: [0, 400, 8000]
    output_edges: [0, 4, 400]
    weights: [[0, 0.8], [0.2, 0]]
    input_sizes: [[100, 100], [6000, 6000]]
    output_sizes: [[1, 300], [1, 100]]
resources: {accelerators: ["L40S:1"], infra: [aws]}
"""

pytestmark = [pytest.mark.usefixtures("kept_estimates"), pytest.mark.timeout(300)]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    try:
        main(list(arguments))
    except SystemExit as exit_:
        assert exit_.code in (0, None), capsys.readouterr().err
    return capsys.readouterr().out


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    # A limit that about half of the requests meet: many are needed to know the attainment well.
    (tmp_path / "plan.json").write_text(dump_plan(make_plan(slo=SLO(ttft_s=0.06, attainment=0.2))))
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


def test_simulate_runs_side_by_side_with_the_same_bytes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("simulate", "plan.json", "--format", "json", "--ci", "0.003")
    serial = call(capsys, *arguments, "--jobs", "1")
    assert json.loads(serial)["replications"] >= 4
    assert call(capsys, *arguments, "--jobs", "2") == serial


def test_replications_differ_from_each_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(call(capsys, "simulate", "plan.json", "--format", "json", "--ci", "0.1"))
    assert found["replications"] == 2
    times = found["over_time"]["time_s"]
    assert times == sorted(times)
    running = found["over_time"]["options"][0]["running"]
    assert running[: len(running) // 2] != running[len(running) // 2 :]


def test_plan_verify_and_compare_do_not_depend_on_jobs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def planned(jobs: str) -> Any:
        call(capsys, "plan", "spec.yaml", "--offline", "--verify", "--jobs", jobs, "-o", jobs)
        document = json.loads(Path(jobs, "plan.json").read_text())
        document.pop("solve_seconds", None)
        return document

    serial, parallel = planned("1"), planned("2")
    assert len(serial["verification"]["rounds"]) > 1
    assert serial == parallel
    compared = ("compare", "spec.yaml", "--offline", "--format", "json", "--jobs")
    assert call(capsys, *compared, "1") == call(capsys, *compared, "2")


def run_with_terminal(folder: Path, *arguments: str) -> tuple[str, str]:
    """Run the program with a terminal as stderr; returns stdout and what the terminal was sent."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    # a file, as a pipe that nobody reads yet would hold up a program that says much
    with (
        TemporaryFile("w+") as stdout,
        subprocess.Popen(
            [sys.executable, "-m", "melange_sky", *arguments],
            cwd=folder,
            env=environment,
            stdout=stdout,
            stderr=theirs,
        ) as process,
    ):
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # how Linux tells that the other side is closed
                break
            if not part:
                break
            shown += part
        os.close(ours)
        assert process.wait() == 0, shown
        stdout.seek(0)
        out = stdout.read()
    return out, shown.decode()


def test_progress_is_shown_on_a_terminal_and_stdout_stays_json(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("simulate", "plan.json", "--format", "json", "--ci", "0.003")
    out, shown = run_with_terminal(folder, *arguments)
    assert "replay" in shown
    assert out == call(capsys, *arguments)


def test_no_progress_where_stderr_is_no_terminal(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "melange_sky", "simulate", "plan.json", "--format", "json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    json.loads(done.stdout)
