"""One bed for all tests that need a real SkyPilot; it starts once and is taken back at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.sky.bed import Bed, BedUnavailableError, default_root

collect_ignore = [
    "hooks.py",
    "stand_ins.py",
    "stub_engine.py",
]  # they run on the bed: importing them here would act

_SHOWN_LOGS = (
    "gateway-*.log",
    ".sky/serve/*/*.log",
    "sky_logs/jobs_controller/*.log",
    "sky_logs/managed_jobs/*.log",
    ".sky/api_server/server.log",
)
_SHOWN_LINES, _LONGEST_LINE = 40, 400


def start_api_server(bed: Bed) -> None:
    """Start SkyPilot's API server; on a busy machine its first start now and then gives up."""
    for _ in range(3):
        started = bed.run("sky", "api", "start", timeout_s=120)
        if started.returncode == 0:
            return
    raise AssertionError(started.stderr)


@pytest.fixture(scope="session")
def sky_bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """A running bed with SkyPilot's API server up; skipped, with the reason, where it cannot be."""
    bed = Bed(default_root())
    try:
        bed.up()
        start_api_server(bed)
        yield bed
    except BedUnavailableError as error:
        pytest.skip(str(error))
    finally:
        try:
            if request.session.testsfailed and bed.home.exists():
                show_logs(bed)
        finally:
            if not os.environ.get("MELANGE_SKY_BED_KEEP"):
                bed.down()


def show_logs(bed: Bed) -> None:
    """Print the ends of the logs that tell why a story failed: they go with the bed."""
    print(f"\n==> jobs\n{bed.run('squeue', '-o', '%i %T %j %N %M').stdout}", flush=True)
    logs = {path for pattern in _SHOWN_LOGS for path in bed.home.glob(pattern)}
    for path in sorted(logs, key=lambda path: path.stat().st_mtime):
        lines = path.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
        if lines:
            text = "\n".join(line[:_LONGEST_LINE] for line in lines)
            print(f"\n==> {path.relative_to(bed.home)}\n{text}", flush=True)
