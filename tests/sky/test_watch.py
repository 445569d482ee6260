"""A fleet that follows its traffic on a real SkyServe: down, up with a watcher killed on its way, a node lost.

The watcher begins with a journal of quiet hours, so that it knows what it would learn in them.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import pytest
import yaml

from melange_sky.planfile import load_plan
from melange_sky.planner.watching.plan_fleets import PlanFleets
from melange_sky.watching.journal import JOURNAL_FILE, Journal
from tests.sky.bed import Bed
from tests.sky.client import Story, gateway, running, wait_for, write_offers
from tests.sky.test_fleet import ask

pytestmark = [pytest.mark.sky, pytest.mark.timeout(1800)]

SIZE = (300, 20)
NAME = "follow"
QUIET_S, SINCE_S = 3 * 3600, 310
"""How long the journal's quiet hours are, and how long ago they ended: within one look's patience."""
LOSS_S = 60
"""Requests may fail so long after a node was lost."""


class Traffic:
    """Requests at a rate through a gateway; `failed` says when each that did not end well began."""

    def __init__(self, url: str, rate_rps: float) -> None:
        self.rate_rps, self.sent = rate_rps, 0
        self.failed: list[tuple[float, str]] = []
        self.nodes: dict[str, float] = {}
        self._url, self._stop = url, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asked = []
        while not self._stop.wait(1 / self.rate_rps):
            asked.append(threading.Thread(target=self._ask, daemon=True))
            asked[-1].start()
        for thread in asked:
            thread.join(timeout=90)

    def _ask(self) -> None:
        began, self.sent = time.monotonic(), self.sent + 1
        try:
            node, _, _ = ask(self._url, SIZE)
            self.nodes[node] = time.monotonic()
        except OSError as error:
            self.failed.append((began, repr(error)))

    def answering(self, since_s: float) -> int:
        """Return how many nodes have answered since then."""
        return sum(at > since_s for at in self.nodes.values())

    def end(self) -> None:
        self._stop.set()
        self._thread.join(timeout=120)


class Watch:
    """A running `watch --mode apply`; what it told lies in `log`."""

    def __init__(self, bed: Bed, desk: Path, url: str) -> None:
        self.log = bed.home / "watch.log"
        words = ["--mode", "apply", "--gateway", url, "--every", "5", "--startup-s", "40"]
        with self.log.open("a") as sink:
            self._process = Popen(
                ["melange-sky", "watch", str(desk / "fleet"), *words],
                env=bed.env,
                cwd=bed.home,
                stdout=sink,
                stderr=STDOUT,
            )

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it as a power cut does."""
        self._process.kill()
        self._process.wait(timeout=30)

    def told(self, text: str) -> bool:
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        return text in self.log.read_text()


def plan_of(bed: Bed, desk: Path, replicas: int) -> tuple[float, ...]:
    """Plan as many replicas of one kind; return the rates that one, two and so many hold in replay."""
    write_offers(desk)
    rate = 1.0
    for _ in range(2):  # the first plan tells what a fleet of so many serves
        spec = {
            "name": NAME,
            "model": "Qwen/Qwen2.5-7B-Instruct",
            "slo": {"tpot_ms": 60, "ttft_ms": 2000},
            "workload": {
                "rate_rps": rate,
                "histogram": {"input_edges": [0, 400], "output_edges": [0, 30], "weights": [[1]]},
            },
            "resources": {"accelerators": ["A10G:1"]},
            "guard": {"max_change_instances": 2, "max_usd_per_hour": 3 * 0.35},
        }
        (desk / "spec.yaml").write_text(yaml.safe_dump(spec))
        done = bed.run(
            *("melange-sky", "plan", str(desk / "spec.yaml"), "--offline"),
            *("--offers", str(desk / "offers.csv"), "-o", str(desk / "fleet"), "--format", "json"),
        )
        assert done.returncode == 0, done.stderr
        fleets = PlanFleets(load_plan(desk / "fleet"))
        kinds = [min(n, 1) for n in fleets.planned()]
        sizes = [tuple(n * kind for kind in kinds) for n in range(1, replicas + 1)]
        rate = 0.97 * fleets.planned_rate(sizes[-1])
    planned = json.loads(done.stdout)
    assert [row["replicas"] for row in planned["allocations"]] == [replicas]
    return tuple(map(fleets.rate, sizes))


def remember(desk: Path, rate_rps: float) -> None:
    """Write a journal as a watcher leaves it that saw nothing but a rate for hours."""
    journal = Journal(desk / "fleet" / JOURNAL_FILE)
    end = time.time() - SINCE_S
    for ago in range(QUIET_S, -1, -60):
        at = datetime.fromtimestamp(end - ago, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        journal.append({"time": at, "observed": {"rate_rps": rate_rps}})


def entries(desk: Path) -> list[dict[str, Any]]:
    """Return the lines that the story's watchers wrote."""
    rows = (desk / "fleet" / JOURNAL_FILE).read_text().splitlines()
    return [json.loads(row) for row in rows[QUIET_S // 60 + 1 :]]


def decided(desk: Path) -> list[tuple[str, dict[str, int]]]:
    """Return the changes that were decided: why, and the fleet."""
    changes = [one for one in entries(desk) if one.get("decision") not in ("keep", None)]
    return [(one["reason"], one["plan"]["counts"]) for one in changes]


def test_a_fleet_follows_its_traffic(sky_bed: Bed) -> None:
    story = Story("watch")
    desk = sky_bed.home / "following"
    desk.mkdir()
    one, two, three = plan_of(sky_bed, desk, 3)
    applied = sky_bed.run("melange-sky", "apply", str(desk / "fleet"), "--yes", timeout_s=900)
    assert applied.returncode == 0, applied.stdout + applied.stderr
    story.note(f"three replicas run; one, two, three serve {one:.2f}, {two:.2f}, {three:.2f} req/s")
    quiet = (one + two) / 2
    remember(desk, quiet)
    with gateway(sky_bed, desk / "fleet", "--sky") as url:
        traffic = Traffic(url, quiet)
        try:
            shrinks_and_is_killed_growing(sky_bed, desk, url, traffic, min(1.5 * two, three))
            story.note("shrank to two, decided to grow; killed before the new replica was there")
            lost_s = grows_and_loses_a_node(sky_bed, desk, url, traffic)
            story.note("the next watcher finished it, a node lost meanwhile was replaced")
        finally:
            traffic.end()
        beyond = [(at - lost_s, why) for at, why in traffic.failed if not -5 < at - lost_s < LOSS_S]
        assert beyond == [], (traffic.sent, traffic.failed)
        story.note(f"{len(traffic.failed)} of {traffic.sent} requests failed, at the loss alone")
    done = sky_bed.run("melange-sky", "down", str(desk / "fleet"), "--yes", timeout_s=900)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: not running(sky_bed, f"{NAME}-"), "emptying the nodes", 300)
    story.note("down, nothing left")


def shrinks_and_is_killed_growing(
    bed: Bed, desk: Path, url: str, traffic: Traffic, busy_rps: float
) -> None:
    """Watch until the fleet has shrunk; let traffic rise until a growth is written down, and no further."""
    intent = desk / "fleet" / "watch-intent.json"
    with Watch(bed, desk, url) as watch:
        wait_for(lambda: watch.told("done: the fleet is what was decided"), "the step down", 400)
        ((reason, counts),) = decided(desk)
        assert (reason, list(counts.values())) == ("shrink", [2])
        traffic.rate_rps = busy_rps
        with elsewhere(bed, desk, url) as other:
            until = time.monotonic() + 400
            while not intent.exists():
                assert watch.told("") and time.monotonic() < until, entries(desk)[-2:]
                time.sleep(0.01)
            watch.kill()
            _, told = other.communicate(timeout=120)
    assert other.returncode == 2 and "changed this fleet at" in told, told
    assert intent.exists()
    (row,) = json.loads((desk / "fleet" / "plan.json").read_text())["allocations"]
    assert row["replicas"] in (2, 3)


def elsewhere(bed: Bed, desk: Path, url: str) -> Popen[str]:
    """Start a watcher of the same fleet as on another machine: nothing but SkyServe is shared."""
    shutil.copytree(desk / "fleet", desk / "copy")
    words = ["--mode", "apply", "--gateway", url, "--once", "--every", "1"]
    return Popen(
        ["melange-sky", "watch", str(desk / "copy"), *words],
        env={**bed.env, "MELANGE_SKY_HOME": str(bed.home / "elsewhere")},
        cwd=bed.home,
        stdout=PIPE,
        stderr=PIPE,
        text=True,
    )


def grows_and_loses_a_node(bed: Bed, desk: Path, url: str, traffic: Traffic) -> float:
    """Let the next watcher go on with what was begun; cancel a node that serves. Return when it was gone."""
    intent = desk / "fleet" / "watch-intent.json"
    with Watch(bed, desk, url) as watch:
        wait_for(lambda: watch.told("going on with a change"), "the next watcher", 120)
        wait_for(lambda: watch.told("2 of 3 ready"), "the step up", 120)
        lost, kept = sorted(traffic.nodes, key=lambda node: -traffic.nodes[node])[:2]
        jobs = {node: jobs_on(bed, node) for node in (lost, kept)}
        assert bed.run("scancel", *jobs[lost]).returncode == 0
        lost_s = time.monotonic()
        wait_for(lambda: watch.told("") and not intent.exists(), "three that serve", 400)
        since_s, looks = time.monotonic(), len(entries(desk))
        wait_for(lambda: traffic.answering(since_s) == 3, "answers of all three", 90)
        wait_for(lambda: watch.told("") and len(entries(desk)) > looks + 2, "looks", 60)
    assert jobs_on(bed, kept) == jobs[kept], "the other was restarted"
    assert jobs[lost][0] not in running(bed, f"{NAME}-")
    assert sum(entries(desk)[-1]["observed"]["live"].values()) == 3
    assert [(reason, *counts.values()) for reason, counts in decided(desk)] == [
        ("shrink", 2),
        ("grow", 3),
    ], "SkyServe replaces a lost node by itself"
    wait_for(lambda: len(running(bed, f"{NAME}-")) == 3, "the end of what was shrunk", 120)
    return lost_s


def jobs_on(bed: Bed, node: str) -> list[str]:
    """Return the Slurm jobs of a node."""
    return bed.run("squeue", "--noheader", "-o", "%i", "-w", node).stdout.split()
