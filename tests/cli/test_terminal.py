"""Terminals and pipes that cannot take the output: one line at most, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.runner import ROOT
from tests.cli.test_plan_command import MELANGE


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(MELANGE), encoding="utf-8")
    return file


def _shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -m melange_sky"
    return subprocess.run(
        ["bash", "-c", command.replace("melange-sky", program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def test_a_closed_stdout_is_no_error(config: Path) -> None:
    answer = _shell(f"melange-sky plan {config} >&-")
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_behind_stdout_is_one_line(config: Path) -> None:
    answer = _shell(f"melange-sky plan {config} >/dev/full")
    assert answer.returncode == 2
    assert answer.stderr == "error: the output cannot be written: No space left on device\n"


def test_a_reader_that_leaves_early_is_no_traceback(config: Path) -> None:
    leaving = f"set -o pipefail; melange-sky plan {config} --format json | sleep 0"
    answer = _shell(leaving)
    assert answer.returncode == 141
    assert answer.stderr == ""


def test_a_terminal_without_a_sign_shows_a_question_mark(config: Path) -> None:
    answer = _shell(f"melange-sky plan {config}", PYTHONIOENCODING="koi8-r")
    assert answer.returncode == 0, answer.stderr
    assert "1 ?  A10G:1" in answer.stdout


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "-1", "0", "soon"])
def test_a_time_limit_is_a_positive_number(config: Path, value: str) -> None:
    answer = _shell(f"melange-sky plan {config} --time-limit {value}")
    assert answer.returncode == 2
    assert "Invalid value for '--time-limit'" in answer.stderr
    assert "Traceback" not in answer.stderr
