"""A fleet that follows its traffic on a real SkyServe: up, a watcher killed on its way, a node lost."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from subprocess import STDOUT, Popen
from typing import Any

import pytest
import yaml

from tests.sky.bed import Bed
from tests.sky.client import Story, gateway, running, wait_for, write_offers
from tests.sky.test_fleet import ask

pytestmark = [pytest.mark.sky, pytest.mark.timeout(1800)]

SIZE = (1400, 60)
NAME = "follow"


class Traffic:
    """Requests at a rate through a gateway; `failed` says when each that did not end well began."""

    def __init__(self, url: str, rate_rps: float) -> None:
        self.rate_rps, self.sent = rate_rps, 0
        self.failed: list[tuple[float, str]] = []
        self.nodes: dict[str, float] = {}
        self._url, self._stop = url, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        asked = []
        while not self._stop.wait(1 / self.rate_rps):
            asked.append(threading.Thread(target=self._ask))
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

    def end(self) -> None:
        self._stop.set()
        self._thread.join(timeout=120)


class Watch:
    """A running `watch --mode apply`; what it told lies in `log`."""

    def __init__(self, bed: Bed, desk: Path, url: str) -> None:
        self.log = bed.home / "watch.log"
        words = ["--mode", "apply", "--gateway", url, "--routes", str(desk / "routes.json")]
        words += ["--every", "10", "--startup-s", "40"]
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


def plan_of(bed: Bed, desk: Path, replicas: int) -> dict[str, Any]:
    """Plan as many replicas of one kind by the command line; the rate for that is found by trial."""
    write_offers(desk)
    for rate in (0.2, 0.5, 1.0, 2.0, 4.0, 8.0):
        spec = {
            "name": NAME,
            "model": "Qwen/Qwen2.5-7B-Instruct",
            "slo": {"tpot_ms": 60, "ttft_ms": 2000},
            "workload": {
                "rate_rps": rate,
                "histogram": {"input_edges": [0, 1500], "output_edges": [0, 100], "weights": [[1]]},
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
        found: dict[str, Any] = json.loads(done.stdout)
        if [row["replicas"] for row in found["allocations"]] == [replicas]:
            return found
    raise AssertionError(f"no rate takes {replicas} replicas")


def entries(desk: Path) -> list[dict[str, Any]]:
    path = desk / "fleet" / "watch.jsonl"
    rows = path.read_text().splitlines() if path.exists() else []
    return [json.loads(row) for row in rows]


def test_a_fleet_follows_its_traffic(sky_bed: Bed) -> None:
    story = Story("watch")
    desk = sky_bed.home / "following"
    desk.mkdir()
    planned = plan_of(sky_bed, desk, 1)
    (row,) = planned["allocations"]
    one_rps = planned["workload"]["rate_rps"] / row["load_fraction"]
    words = (str(desk / "fleet"), "--yes", "--routes", str(desk / "routes.json"))
    applied = sky_bed.run("melange-sky", "apply", *words, timeout_s=900)
    assert applied.returncode == 0, applied.stdout + applied.stderr
    story.note(f"one replica runs, which serves {one_rps:.2f} req/s")
    with gateway(sky_bed, desk / "routes.json") as url:
        traffic = Traffic(url, 1.2 * one_rps)
        try:
            killed_on_the_way(sky_bed, desk, url)
            story.note("decided to grow; killed before the new replica was there")
            grows(sky_bed, desk, url, traffic)
            story.note("the next watcher finished it: two replicas answer")
            lost_s = lose_a_node(sky_bed, desk, url, traffic)
            story.note("a node was lost and replaced; the watcher held the fleet")
        finally:
            traffic.end()
        late = [(began - lost_s, why) for began, why in traffic.failed if began > lost_s + 60]
        early = [why for began, why in traffic.failed if began < lost_s - 60]
        assert late == early == [], (traffic.sent, traffic.failed)
        story.note(f"{len(traffic.failed)} of {traffic.sent} requests failed, at the loss alone")
    done = sky_bed.run("melange-sky", "down", str(desk / "fleet"), "--yes", timeout_s=900)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: not running(sky_bed, f"{NAME}-"), "emptying the nodes", 300)


def killed_on_the_way(bed: Bed, desk: Path, url: str) -> None:
    """Watch until a change has been written down, and no further."""
    intent = desk / "fleet" / "watch-intent.json"
    with Watch(bed, desk, url):
        until = time.monotonic() + 120
        while not intent.exists():
            assert time.monotonic() < until, entries(desk)[-2:]
            time.sleep(0.01)
    assert intent.exists()
    (row,) = json.loads((desk / "fleet" / "plan.json").read_text())["allocations"]
    assert row["replicas"] in (1, 2)


def grows(bed: Bed, desk: Path, url: str, traffic: Traffic) -> None:
    """The next watcher goes on with what was begun."""
    with Watch(bed, desk, url) as watch:
        wait_for(lambda: watch.told("going on with a change"), "the next watcher", 120)
        intent = desk / "fleet" / "watch-intent.json"
        wait_for(lambda: watch.told("") and not intent.exists(), "the second replica", 400)
        wait_for(lambda: len(traffic.nodes) == 2, "an answer of it", 90)
    assert len(running(bed, f"{NAME}-")) == 2


def lose_a_node(bed: Bed, desk: Path, url: str, traffic: Traffic) -> float:
    """Cancel a replica's node under traffic; return when it was gone."""
    before = len(entries(desk))
    with Watch(bed, desk, url):
        wait_for(lambda: len(entries(desk)) > before + 1, "looks", 60)
        job, *_ = running(bed, f"{NAME}-")
        assert bed.run("scancel", job).returncode == 0
        lost_s = time.monotonic()
        wait_for(lambda: job not in running(bed, f"{NAME}-"), "the loss", 60)
        wait_for(lambda: len(running(bed, f"{NAME}-")) == 2, "the node's replacement", 400)
        wait_for(lambda: sum(live(desk)) == 2, "two that serve", 300)
    changes = [one for one in entries(desk)[before:] if one.get("decision") not in ("keep", None)]
    assert changes == [], "SkyServe replaces a lost node by itself"
    return lost_s


def live(desk: Path) -> list[int]:
    """Return the replicas that serve, by the last look."""
    looks = [one["observed"]["live"] for one in entries(desk) if "observed" in one]
    return list((looks[-1] or {}).values())
