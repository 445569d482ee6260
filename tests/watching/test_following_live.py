"""`watch` as a process: what it needs, what it tells, and what the next one makes of one that was killed."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from melange_sky.planfile import load_plan
from melange_sky.planner import apply as applying
from melange_sky.planner.plan_files import write_plan
from melange_sky.planner.watching import acting, following, opening
from melange_sky.planner.watching.asking import WatchOptions
from melange_sky.planner.watching.following import follow
from melange_sky.planner.watching.sources.sky import SkySource
from tests.cli.runner import call
from tests.loopback import answering
from tests.watching.test_acting import DiskServe, fleet, folder, killed, planned
from tests.watching.test_sources import NAME, page, pages

__all__ = ["folder"]


def test_observing_needs_no_skypilot_and_tells_what_it_sees(folder: Path) -> None:
    code = (
        "import sys; from melange_sky.cli import cli; "
        "sys.exit(cli(sys.argv[1:], standalone_mode=False) or ('sky' in sys.modules))"
    )
    with pages(page(finished=5, plan=NAME)) as (url, _):
        words = ["watch", str(folder), "--gateway", url, "--every", "1", "--once"]
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--format", "json"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout)
    assert (last["observed"]["rate_rps"], last["observed"]["live"]) == (0.0, {"small": 2})
    assert len((folder / "watch.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --gateway URL, --prometheus URL, --observed FILE or --metrics OPTION=URL"),
        (["--gateway", "ftp://x"], "--gateway: 'ftp://x' is not http://HOST[:PORT]"),
        (["--metrics", "http://h:1"], "--metrics: write OPTION=URL, such as L4=http://HOST:8000"),
        (["--prometheus", "x"], "--prometheus 'x' is not an http:// or https:// address"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(
    words: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, told = call(capsys, "watch", str(folder), *words, "--once")
    assert code == 2
    assert told.startswith(f"error: {said}")
    assert told.count("\n") == 1


def test_a_gateway_that_is_gone_is_a_line_and_no_end(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--gateway", "http://127.0.0.1:9", "--every", "1", "--once"]
    code, _, told = call(capsys, "watch", str(folder), *words)
    assert code == 0
    assert "keep [signal]" in told
    assert "http://127.0.0.1:9: " in told


def test_a_change_that_a_killed_watcher_left_is_finished_before_the_first_look(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sky = tmp_path / "sky"
    assert killed(folder, fleet(load_plan(folder), small=1, big=3), sky, 30)
    server = DiskServe(sky)
    monkeypatch.setattr(applying.time, "sleep", server.sleep)
    monkeypatch.setattr(applying.time, "monotonic", server.clock)
    monkeypatch.setattr(
        acting,
        "actor_of",
        lambda place, options, holding: acting.SkyActor(folder=place, host=server, holding=holding),
    )
    monkeypatch.setattr(
        opening,
        "_of_sky",
        lambda plan, place, holding: SkySource(plan=plan, records=server, holding=holding),
    )
    monkeypatch.setattr(opening, "ONCE_S", 0.0)
    monkeypatch.setattr(following, "own_id", lambda: "here")
    told: list[str] = []
    with pages(page(finished=5, plan=NAME)) as (url, _):
        options = WatchOptions(mode="apply", metrics=[f"big={url}"], once=True)
        follow(folder, options, told.append)
    assert told[0] == "going on with a change that was under way (forth)"
    assert planned(folder) == server.options() == {"small": 1, "big": 3}
    rows = (folder / "watch.jsonl").read_text().splitlines()
    done, line = map(json.loads, rows)
    assert (done["event"], "decision" in done) == ("done", False)
    assert line["observed"]["live"]["big"] == 3


def test_a_crontab_and_a_job_start_the_same_watcher(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELANGE_SKY_API_KEY", "s3cret")
    words = ["--gateway", "http://h:1/a b%", "--mode", "apply", "--routes", "my routes.json"]
    code, _, told = call(capsys, "watch", str(folder), *words, "--cron")
    assert code == 0, "addresses are checked when it watches"
    words[1] = "http://h:1"
    code, crontab, told = call(capsys, "watch", str(folder), *words, "--cron")
    assert (code, told) == (
        0,
        f"wrote {folder / 'watch.crontab'} and {folder / 'watch.sky.yaml'}\n",
    )
    assert crontab == (folder / "watch.crontab").read_text()
    (line,) = [row for row in crontab.splitlines() if row.startswith("*/5 ")]
    command, _, rest = line.partition(" 2>&1 | ")
    assert rest.startswith("grep --line-buffered -v 'another watcher of this fleet is at work' >> ")
    assert shlex.split(command)[5:] == [
        *(sys.executable, "-m", "melange_sky", "watch", str(folder.resolve())),
        *("--mode", "apply", "--every", "60", "--gateway", "http://h:1", "--drain", "600"),
        *("--routes", str(Path("my routes.json").resolve())),
    ]
    job = yaml.safe_load((folder / "watch.sky.yaml").read_text())
    assert job["run"] == (
        "while true; do melange-sky watch ~/melange-watch --mode apply --every 60 "
        "--gateway http://h:1 --drain 600 || true; sleep 60; done\n"
    )
    assert job["api_server_access"] is True
    assert "s3cret" not in crontab + (folder / "watch.sky.yaml").read_text()
    write_plan(load_plan(folder), folder)
    assert (folder / "watch.crontab").exists(), "a new plan keeps them"


def test_a_plan_that_is_written_anew_is_followed_from_then_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            write_plan(fleet(load_plan(folder), small=4, big=4), folder)
        if looks == 3:
            raise KeyboardInterrupt

    with pages(page(finished=5, plan=NAME)) as (url, _):
        found = follow(folder, WatchOptions(gateway=url), told.append, sleep)
    assert found.looks == 3
    assert [line for line in told if "anew" in line] == [
        "the plan was written anew: it is followed from now on"
    ]
    assert len((folder / "watch.jsonl").read_text().splitlines()) == 3


def test_a_cure_that_the_guard_forbids_is_exit_5(folder: Path, tmp_path: Path) -> None:
    """Most requests are refused, and the guard freezes the fleet."""
    policy = tmp_path / "guard.yaml"
    policy.write_text("freeze: true\n")
    began = time.monotonic()

    def answer(_: object) -> tuple[int, bytes]:
        many = round(100 * (time.monotonic() - began))
        return 200, page(finished=many // 10, refused=many, plan=NAME).encode()

    journal = folder / "watch.jsonl"
    with answering(answer) as url:
        words = [
            "watch",
            str(folder),
            "--gateway",
            url,
            "--every",
            "1",
            "--policy",
            str(policy),
            "--mode",
            "propose",
        ]
        watcher = subprocess.Popen(
            [sys.executable, "-m", "melange_sky", *words], stderr=subprocess.PIPE, text=True
        )
        for _ in range(600):
            if journal.exists() and '"blocked"' in journal.read_text():
                break
            time.sleep(0.1)
        watcher.send_signal(signal.SIGINT)
        _, told = watcher.communicate(timeout=60)
    assert watcher.returncode == 5, told
    assert "blocked [freeze]" in told
    assert told.splitlines()[-1] == (
        "error: the SLO is being missed, and the guard forbids the cure"
    )
