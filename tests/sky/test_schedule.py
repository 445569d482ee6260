"""The hours of a `reserve` folder on a real SkyServe: up ahead of time, shared replicas kept, down, nothing left.

Each step is killed once it has told SkyServe, and the next run ends it, behind a gateway that clients ask all the while.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.sky.bed import Bed
from tests.sky.client import Story, gateway, running, wait_for, write_offers
from tests.sky.test_fleet import ask

pytestmark = [pytest.mark.sky, pytest.mark.timeout(1800)]

SIZE = (2000, 60)
QUIET, BUSY = 4, 16  # hours of a day whose first four ask for nothing


def write_inputs(folder: Path, low_rps: float, high_rps: float) -> None:
    write_offers(folder)
    spec = {
        "name": "hours",
        "model": "Qwen/Qwen2.5-7B-Instruct",
        "slo": {"tpot_ms": 60, "ttft_ms": 2000},
        "workload": {"rate_rps": 1, "input_tokens": SIZE[0], "output_tokens": SIZE[1]},
        "resources": {"accelerators": ["A100-80GB:1"]},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    rates = [0.0] * QUIET + [low_rps] * (BUSY - QUIET) + [high_rps] * (24 - BUSY)
    rows = [f"2026-11-02T{hour:02}:00:00Z,{rate}\n" for hour, rate in enumerate(rates)]
    (folder / "day.csv").write_text("time,rate_rps\n" + "".join(rows))


def reserve(bed: Bed, folder: Path) -> dict[str, Any]:
    """Let `reserve` make fleets of one and of two replicas: the rates for that are found by trial."""
    for high in (4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0):
        write_inputs(folder, 1.0, high)
        done = bed.run(
            *("melange-sky", "reserve", str(folder / "spec.yaml"), "--offline", "--stale-ok"),
            *("--demand", str(folder / "day.csv"), "--offers", str(folder / "offers.csv")),
            *("--no-verify", "-o", str(folder / "fleets"), "--format", "json"),
        )
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        counts = [[row["instances"] for row in one["fleet"]] for one in document["periods"]]
        if counts == [[], [1], [2]]:
            return document
    raise AssertionError(f"no rate takes two replicas: {counts}")


def set_hour(folder: Path, hour: float) -> None:
    """Let it be that hour of the demand's day now."""
    file = folder / "fleets" / "reserve.json"
    document = json.loads(file.read_text())
    now = datetime.now(timezone.utc)
    document["demand"]["start"] = (now - timedelta(hours=hour)).isoformat()
    file.write_text(json.dumps(document))


def apply_command(folder: Path) -> list[str]:
    return ["melange-sky", "schedule", str(folder / "fleets"), "--apply", "--startup-s", "600"]


def carry_out(bed: Bed, folder: Path, hour: float, *words: str) -> str:
    """Carry out what the schedule says for an hour; return what it told."""
    set_hour(folder, hour)
    done = bed.run(*apply_command(folder), *words, timeout_s=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def killed(bed: Bed, folder: Path, hour: float, after: str, *words: str) -> str:
    """Carry the schedule out, and kill it as soon as it has told of something; return what it told."""
    set_hour(folder, hour)
    process = subprocess.Popen(
        [*apply_command(folder), *words],
        env=bed.env,
        cwd=bed.home,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    told = ""
    try:
        for line in process.stderr:
            told += line
            if after in line:
                break
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
        process.stderr.close()
    assert after in told and process.returncode == -signal.SIGKILL, told
    return told


BALANCER_SAYS, MOST_OF_AN_UPDATE = '"code": "no_replica"', 45
"""What the gateway tells where the balancer has no replica, and how many requests an update may cost at most.

SkyServe 0.14's balancer has no replica for 20 seconds where it asks its controller between an update and the next
look at the replicas (`help operate`); two are asked a second.
"""


def check_failed(failed: list[str], story: Story) -> None:
    """Check that nothing went wrong but for what the balancer had no replica for, and not much of that."""
    assert failed == [text for text in failed if BALANCER_SAYS in text], failed[:5]
    assert len(failed) <= 2 * MOST_OF_AN_UPDATE, failed[:5]
    story.note(
        f"no request failed but for {len(failed)} that SkyServe's balancer had no replica for"
    )


@contextmanager
def asked_all_the_while(url: str) -> Iterator[list[str]]:
    """Let a client ask without end; yields what went wrong."""
    failed: list[str] = []
    over = threading.Event()

    def client() -> None:
        while not over.wait(0.5):
            try:
                ask(url, SIZE)
            except OSError as error:
                failed.append(str(error))

    thread = threading.Thread(target=client, daemon=True)
    thread.start()
    try:
        yield failed
    finally:
        over.set()
        thread.join(timeout=90)


def answers(folder: Path) -> set[tuple[str, str]]:
    """Ask the service where the gateway would; return the nodes that answer, and since when each runs."""
    (line,) = (folder / "backends").read_text().splitlines()
    url = line.partition("=")[2].partition("*")[0]
    return {ask(url, SIZE)[:2] for _ in range(12)}


def answering(folder: Path, count: int) -> set[tuple[str, str]]:
    """Wait until so many nodes answer: SkyServe's balancer asks for ready replicas every 20 seconds."""
    seen: set[tuple[str, str]] = set()

    def all_answer() -> bool:
        seen.clear()
        seen.update(answers(folder))
        return len(seen) == count

    wait_for(all_answer, f"{count} replicas behind the balancer", 90)
    return seen


def test_a_day_of_fleets(sky_bed: Bed) -> None:
    story = Story("schedule")
    desk = sky_bed.home / "hours"
    desk.mkdir()
    reserve(sky_bed, desk)
    places = ("--backends", str(desk / "backends"), "--routes", str(desk / "routes.json"))
    told = carry_out(
        sky_bed, desk, QUIET - 0.1, *places
    )  # nothing is asked for yet, in six minutes it is
    assert "starting 1" in told and len(running(sky_bed, "hours-")) == 1, told
    story.note("the first replica is up before its hour")
    (first,) = answers(desk)
    with (
        gateway(sky_bed, desk / "routes.json") as url,
        asked_all_the_while(url) as failed,
    ):
        there = (*places, "--gateway", url)
        assert "nothing to change" in carry_out(sky_bed, desk, QUIET + 1, *there)
        killed(sky_bed, desk, BUSY - 0.1, "1 of 2 ready", *there)
        told = carry_out(sky_bed, desk, BUSY - 0.1, *there)
        both = answering(desk, 2)
        assert "1 → 2" not in told and first in both, (told, both)
        story.note("a step up, killed and run again: the first replica kept running")
        killed(sky_bed, desk, QUIET + 1, "2 → 1 replicas", *there)
        carry_out(sky_bed, desk, QUIET + 1, *there)
        wait_for(lambda: len(running(sky_bed, "hours-")) == 1, "the step down", 300)
        assert answering(desk, 1) < both
        story.note("a step down, killed and run again: the other kept running")
        check_failed(failed, story)
    killed(sky_bed, desk, 1, "stopping")
    told = carry_out(sky_bed, desk, 1)
    wait_for(lambda: not running(sky_bed, "hours-"), "emptying the nodes", 300)
    rows = [
        json.loads(row) for row in (desk / "fleets" / "schedule.jsonl").read_text().splitlines()
    ]
    assert [row["plan"] is None for row in rows][-1] and any(
        "1 → 2" in row["event"] for row in rows
    )
    story.note("down, nothing left")
