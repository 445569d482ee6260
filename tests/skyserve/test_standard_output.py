"""What SkyPilot logs never mixes with a command's result."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.runner import ROOT

LOGS = "import logging; logging.getLogger('sky.utils').info('Applying client admin policy')"


@pytest.mark.parametrize(
    "start",
    [
        "from melange_sky.skyserve.client import SkyServe; SkyServe({})",
        "from melange_sky.profiler.skyjobs import SkyJobs; SkyJobs(managed=True, secrets={})",
    ],
)
def test_skypilots_log_goes_to_standard_error(start: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{start}; {LOGS}; print('result')"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == "result\n"
    assert "Applying client admin policy" in done.stderr
