"""Run the program as a user would: in a process of its own, or here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from melange_sky.cli import main

ROOT = Path(__file__).resolve().parents[2]


def melange_sky(
    *arguments: str, cwd: Path | None = None, within_s: float = 100, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Return what `melange-sky ARGUMENTS` prints and its exit code."""
    return subprocess.run(
        [sys.executable, "-m", "melange_sky", *arguments],
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
        cwd=cwd or ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return the exit code of `melange-sky ARGUMENTS` in this process, and both its outputs."""
    code = 0
    try:
        main(list(arguments))
    except SystemExit as stop:
        code = int(stop.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err
