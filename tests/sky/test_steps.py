"""Two periods of a `reserve` folder on a real SkyServe: a step up and a step down, the shared replica kept.

The short story for every run; `test_schedule.py` tells a whole day of it, killed at every step.
"""

from __future__ import annotations

import pytest

from tests.sky.bed import Bed
from tests.sky.client import Story, gateway, running
from tests.sky.test_schedule import (
    BUSY,
    QUIET,
    answering,
    answers,
    asked_all_the_while,
    carry_out,
    check_failed,
    reserve,
)

pytestmark = [pytest.mark.sky, pytest.mark.timeout(1800)]


def test_a_step_up_and_a_step_down(sky_bed: Bed) -> None:
    story = Story("steps")
    desk = sky_bed.home / "steps"
    desk.mkdir()
    reserve(sky_bed, desk)
    story.note("reserved: one replica, then two")
    places = ("--backends", str(desk / "backends"), "--routes", str(desk / "routes.json"))
    carry_out(sky_bed, desk, QUIET - 0.1, *places)
    assert len(running(sky_bed, "hours-")) == 1
    story.note("the first replica is up before its hour")
    (first,) = answers(desk)
    with gateway(sky_bed, desk / "routes.json") as url, asked_all_the_while(url) as failed:
        there = (*places, "--gateway", url)
        carry_out(sky_bed, desk, BUSY - 0.1, *there)
        both = answering(desk, 2)
        assert first in both, both
        story.note("a step up: the first replica kept running")
        carry_out(sky_bed, desk, QUIET + 1, *there)
        assert answering(desk, 1) < both
        story.note("a step down: the other kept running")
    check_failed(failed, story)
    carry_out(sky_bed, desk, 1)
    story.note("down")
