"""Ctrl-C, as a real SIGINT to the real command: what was verified by then is the plan."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SPEC = """\
name: chat
model: meta-llama/Llama-3.1-8B-Instruct
slo: {tpot_ms: 50, ttft_ms: 1000}
workload:
  rate_rps: 400
  burstiness: 20
  histogram: {input_edges: [0, 200, 1000], output_edges: [0, 300], weights: [[0.6], [0.4]]}
resources: {accelerators: [A10G, L40S, H100], infra: [aws]}
"""

pytestmark = [pytest.mark.usefixtures("kept_estimates"), pytest.mark.timeout(300)]


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the real command; its log on stderr tells of each replay."""
    (folder / "spec.yaml").write_text(SPEC)
    with (folder / "errors.txt").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "melange_sky", "-v", *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"MELANGE_SKY_OFFLINE": "1"},
        )


def interrupt_after(process: subprocess.Popen[str], folder: Path, words: str) -> str:
    """Send SIGINT once stderr holds some words; return what came to stdout."""
    end = time.monotonic() + 200
    while words not in (folder / "errors.txt").read_text():
        assert process.poll() is None, (folder / "errors.txt").read_text()
        assert time.monotonic() < end
        time.sleep(0.05)
    while True:
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=15)[0]
        except subprocess.TimeoutExpired:  # a library that was being loaded swallowed it
            assert time.monotonic() < end


def test_the_best_fleet_so_far_is_the_plan(tmp_path: Path) -> None:
    process = started(tmp_path, "plan", "spec.yaml", "--verify")
    out = interrupt_after(process, tmp_path, "round 8: ")
    assert process.returncode == 0, (tmp_path / "errors.txt").read_text()
    assert "Holds in replay" in out
    assert "The search was cut short" in out
    saved = json.loads((tmp_path / "chat-plan" / "plan.json").read_text())["verification"]
    assert (saved["holds"], saved["cut_short"]) == (True, True)
    assert saved["low"] >= 0.95
    assert len(saved["seeds"]) == 3


def test_before_anything_is_verified_there_is_no_plan_and_no_traceback(tmp_path: Path) -> None:
    process = started(tmp_path, "plan", "spec.yaml", "--verify")
    interrupt_after(process, tmp_path, "INFO melange_sky")
    errors = (tmp_path / "errors.txt").read_text()
    assert process.returncode == 130, errors
    assert errors.rstrip().endswith("interrupted")
    assert "Traceback" not in errors
    assert not (tmp_path / "chat-plan").exists()


def test_compare_shows_what_it_has(tmp_path: Path) -> None:
    process = started(tmp_path, "compare", "spec.yaml", "--rates", "400,800", "--format", "json")
    out = interrupt_after(process, tmp_path, "round 8: ")
    assert process.returncode == 0, (tmp_path / "errors.txt").read_text()
    rows = json.loads(out)
    assert {row["rate_rps"] for row in rows} == {400}
    assert rows[0]["usd_per_hour"] is not None
    assert rows[0]["late"] is True


def test_simulate_ends_at_once(tmp_path: Path) -> None:
    process = started(tmp_path, "plan", "spec.yaml")
    assert process.wait(timeout=100) == 0, (tmp_path / "errors.txt").read_text()
    process.communicate()
    process = started(tmp_path, "simulate", "chat-plan", "--duration", "10000", "--jobs", "1")
    while "INFO melange_sky" not in (tmp_path / "errors.txt").read_text():
        assert process.poll() is None, (tmp_path / "errors.txt").read_text()
        time.sleep(0.05)
    time.sleep(1.0)  # within the replay, which lasts for seconds
    assert process.poll() is None
    begun_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert time.monotonic() - begun_s < 2.0  # 0.1 s on a machine that does nothing else
    assert process.returncode == 130
    errors = (tmp_path / "errors.txt").read_text()
    assert errors.rstrip().endswith("interrupted")
    assert "Traceback" not in errors
