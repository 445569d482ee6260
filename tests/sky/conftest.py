"""One bed for all tests that need a real SkyPilot; it starts once and is taken back at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.sky.bed import Bed, BedUnavailableError, default_root

collect_ignore = [
    "hooks.py",
    "stub_engine.py",
]  # they run on the bed: importing them here would act


def start_api_server(bed: Bed) -> None:
    """Start SkyPilot's API server; on a busy machine its first start now and then gives up."""
    for _ in range(3):
        started = bed.run("sky", "api", "start", timeout_s=120)
        if started.returncode == 0:
            return
    raise AssertionError(started.stderr)


@pytest.fixture(scope="session")
def sky_bed() -> Iterator[Bed]:
    """A running bed with SkyPilot's API server up; skipped, with the reason, where it cannot be."""
    bed = Bed(default_root())
    try:
        bed.up()
    except BedUnavailableError as error:
        pytest.skip(str(error))
    try:
        start_api_server(bed)
        yield bed
    finally:
        if not os.environ.get("MELANGE_SKY_BED_KEEP"):
            bed.down()
