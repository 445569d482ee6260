"""The fleets of a reserve folder by the hour: when what runs, one line for what is wrong, and carried out in order."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

import melange_sky
from melange_sky.errors import InputError, MelangeError
from melange_sky.planner import apply as applying
from melange_sky.planner.handover import Handover
from melange_sky.planner.scheduling import carrying_out
from melange_sky.planner.scheduling.carrying_out import carry_out
from melange_sky.planner.scheduling.cron import crontab_text, write_cron
from melange_sky.planner.scheduling.document import schedule_document
from melange_sky.planner.scheduling.folder import Schedule, read_schedule
from melange_sky.planner.timetable import Timetable, cycle_of
from melange_sky.report.schedule import schedule_text
from melange_sky.skyserve import LiveService, Wanted
from tests.cli.runner import call
from tests.cli.test_reserve_command import SPEC, write_offers
from tests.skyserve.test_services import MemoryServe

MONDAY = datetime(2026, 11, 2, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)

tables = st.builds(
    lambda fleets, counts, ahead_s, shift: Timetable(
        start=MONDAY + timedelta(minutes=shift),
        step_s=3600,
        fleets=[fleet % len(counts) for fleet in fleets],
        cycle=24,
        counts=counts,
        ahead_s=ahead_s,
    ),
    st.lists(st.integers(0, 5), min_size=24, max_size=60),
    st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(1, 4)), min_size=1, max_size=4),
    st.integers(0, 3 * 3600),
    st.integers(0, 90),
)
moments = st.integers(-4 * 1440, 8 * 1440).map(lambda minutes: MONDAY + timedelta(minutes=minutes))


@given(tables, moments)
@settings(max_examples=100, deadline=None)
def test_no_moment_has_less_than_it_needs_nor_more_than_is_soon_needed(
    table: Timetable, moment: datetime
) -> None:
    soon = [moment + timedelta(seconds=s) for s in range(0, int(table.ahead_s) + 1, 60)]
    soon.append(moment + timedelta(seconds=table.ahead_s))
    needs = [table.counts[table.fleet_at(at)] for at in soon]
    most = {s: max(need.get(s, 0) for need in needs) for need in needs for s in need}
    assert table.running_at(moment) == dict(sorted(most.items()))


@given(tables, moments)
@settings(max_examples=40, deadline=None)
def test_changes_are_all_the_changes(table: Timetable, moment: datetime) -> None:
    changes = dict(table.changes(moment))
    running = table.running_at(moment)
    for minute in range(1, 1441):
        at = moment + timedelta(minutes=minute)
        passed = [one for one in changes if at - timedelta(minutes=1) < one <= at]
        if passed:
            running = changes[max(passed)]
        assert running == table.running_at(at)


@given(tables, moments, st.integers(-12, 14))
@settings(deadline=None)
def test_a_clock_changes_nothing(table: Timetable, moment: datetime, offset: int) -> None:
    zone = timezone(timedelta(hours=offset))
    other = dataclasses.replace(table, start=table.start.astimezone(zone))
    assert other.running_at(moment.astimezone(zone)) == table.running_at(moment)


def test_a_week_repeats_whatever_comes_before_and_after_the_demand() -> None:
    fleets = [n // 24 for n in range(168)] + [9] * 20
    table = Timetable(
        start=MONDAY, step_s=3600, fleets=fleets, cycle=168, counts=[{"a": n} for n in range(10)]
    )
    assert table.fleet_at(MONDAY - timedelta(days=6)) == 1
    assert table.fleet_at(MONDAY + timedelta(days=7, hours=3)) == 9  # still in the demand
    assert table.fleet_at(MONDAY + timedelta(days=14, hours=3)) == 9  # its last week: the same
    assert table.fleet_at(MONDAY + timedelta(days=15, hours=3)) == 1
    assert [cycle_of(n, 3600) for n in (24, 23, 25, 167, 168, 8760)] == [
        24,
        None,
        None,
        None,
        168,
        168,
    ]
    assert cycle_of(700, 1000) is None and cycle_of(2016, 300) == 2016


@pytest.fixture(scope="module")
def reserved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `reserve` wrote: a day with a quiet night, a busy noon, and an hour without any traffic."""
    folder = tmp_path_factory.mktemp("schedule")
    here = Path.cwd()
    os.chdir(folder)
    try:
        write_offers(folder)
        (folder / "spec.yaml").write_text(json.dumps(SPEC))
        rates = [0.0, *[4.0] * 9, *[30.0] * 4, *[12.0] * 10]
        rows = [f"2026-11-02T{hour:02}:00:00+00:00,{rate}" for hour, rate in enumerate(rates)]
        (folder / "day.csv").write_text("time,rate_rps\n" + "\n".join(rows) + "\n")
        found = melange_sky.reservation(
            "spec.yaml", demand="day.csv", offline=True, verify=False, stale_ok=True
        )
        found.write("fleets")
    finally:
        os.chdir(here)
    return folder / "fleets"


class Memory(MemoryServe):
    """The in-memory SkyServe, which also knows how it keeps a document."""

    def normal(self, wanted: Wanted, live: LiveService | None) -> dict[str, Any]:
        service = dict(wanted.document["service"])
        replicas = service.pop("replicas")
        return {
            **wanted.document,
            "service": {**service, "replica_policy": {"min_replicas": replicas}},
        }

    def start(self, wanted: Wanted) -> None:
        super().start(dataclasses.replace(wanted, document=self.normal(wanted, None)))

    def update(self, wanted: Wanted, live: LiveService) -> None:
        super().update(dataclasses.replace(wanted, document=self.normal(wanted, live)), live)

    def counts(self) -> dict[str, int]:
        return {name: service.target for name, service in self.live.items()}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Memory:
    memory = Memory()
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(carrying_out, "SkyServe", lambda secrets: memory)
    monkeypatch.setattr(applying, "SkyServe", lambda secrets: memory)
    monkeypatch.setattr(applying.time, "sleep", memory.sleep)
    monkeypatch.setattr(applying.time, "monotonic", memory.clock)
    return memory


def carried(schedule: Schedule, at: datetime) -> list[str]:
    events: list[str] = []
    carry_out(schedule, Handover(), events.append, at)
    return events


def test_a_day_is_carried_out_and_no_moment_has_too_little(reserved: Path, server: Memory) -> None:
    schedule = read_schedule(reserved, 600)
    table = schedule.timetable
    stopped_when_needed = []
    for minutes in range(0, 2 * 1440, 5):
        at = MONDAY + timedelta(minutes=minutes)
        before = len(server.calls)
        carried(schedule, at)
        need = table.counts[table.fleet_at(at)]
        assert server.counts() == table.running_at(at)
        assert all(server.counts().get(name, 0) >= count for name, count in need.items())
        stopped = [c.partition(" ")[2] for c in server.calls[before:] if c.startswith("stop")]
        stopped_when_needed += [name for name in stopped if name in need]
    assert stopped_when_needed == []
    assert (
        server.calls and carried(schedule, MONDAY + timedelta(days=2) - timedelta(minutes=5)) == []
    )
    rows = [json.loads(line) for line in (reserved / "schedule.jsonl").read_text().splitlines()]
    assert all(row.keys() == {"time", "plan", "event"} for row in rows)


def test_what_both_fleets_share_keeps_running(reserved: Path, server: Memory) -> None:
    schedule = read_schedule(reserved, 600)
    night, noon = MONDAY + 5 * HOUR, MONDAY + 11 * HOUR
    carried(schedule, night)
    small = server.counts()
    carried(schedule, noon)
    large = server.counts()
    carried(schedule, MONDAY + timedelta(days=1) + 5 * HOUR)
    assert server.counts() == small != large
    shared = small.keys() & large.keys()
    assert shared and not any(f"stop {name}" in server.calls for name in shared)


@pytest.mark.parametrize("call_to_die_in", [1, 2, 3])
def test_a_run_that_died_is_finished_by_the_next(
    call_to_die_in: int, reserved: Path, server: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = read_schedule(reserved, 600)
    carried(schedule, MONDAY + 5 * HOUR)
    polls = 0

    def die(seconds: float) -> None:
        nonlocal polls
        polls += 1
        if polls == call_to_die_in:
            raise KeyboardInterrupt
        server.sleep(seconds)

    monkeypatch.setattr(applying.time, "sleep", die)
    noon = MONDAY + 11 * HOUR
    try:
        carried(schedule, noon)
    except KeyboardInterrupt:
        carried(schedule, noon)
    assert server.counts() == schedule.timetable.running_at(noon)


def test_gateways_need_not_wait_for_what_grows_for_a_later_hour(
    reserved: Path, server: Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    schedule = read_schedule(reserved, 600)
    carried(schedule, MONDAY + 5 * HOUR)
    routes = tmp_path / "routes.json"

    def die(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(applying.time, "sleep", die)
    ahead = MONDAY + 10 * HOUR - timedelta(minutes=10)
    with pytest.raises(KeyboardInterrupt):  # while the noon's replicas start
        carry_out(schedule, Handover(routes=routes), lambda text: None, ahead)
    assert server.counts() == schedule.timetable.running_at(ahead)
    night = schedule.fleets[schedule.timetable.fleet_at(ahead)]
    assert night.file is not None
    assert json.loads(routes.read_text())["plan"] == json.loads(night.file.read_text())
    routes.unlink()
    noon = MONDAY + 10 * HOUR
    for (
        name,
        service,
    ) in server.live.items():  # none of them is ready yet: gateways keep what they have
        server.live[name] = dataclasses.replace(service, replicas=())
    with pytest.raises(KeyboardInterrupt):
        carry_out(schedule, Handover(routes=routes), lambda text: None, noon)
    assert not routes.exists()


def test_nothing_is_shrunk_while_what_grows_fails(reserved: Path, server: Memory) -> None:
    schedule = read_schedule(reserved, 600)
    carried(schedule, MONDAY + 5 * HOUR)
    before = server.counts()
    later = schedule.timetable.running_at(MONDAY + 11 * HOUR)
    server.broken = max(later, key=lambda name: later[name] - before.get(name, 0))
    with pytest.raises(MelangeError, match="failed"):
        carried(schedule, MONDAY + 11 * HOUR)
    assert all(server.counts()[name] >= count for name, count in before.items())
    assert '"event": "failed: ' in (reserved / "schedule.jsonl").read_text().splitlines()[-1]


def test_one_runs_at_a_time(reserved: Path, server: Memory, tmp_path: Path) -> None:
    schedule = read_schedule(reserved)
    lock = tmp_path / "home" / "schedules" / f"{schedule.fleet_id}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        done = carry_out(schedule, Handover(), print, MONDAY + 11 * HOUR)
    assert done.busy and server.calls == []


def test_it_is_shown_in_utc_and_on_the_demand_s_clock(reserved: Path) -> None:
    schedule = read_schedule(reserved)
    document = schedule_document(schedule, MONDAY + 5 * HOUR)
    assert (document["repeats"], document["startup_s"]) == ("day", 900)
    assert document["startup_origin"].startswith("assumed: ")
    first = document["steps"][0]
    assert first["at"] == "2026-11-02T09:40:00Z" and first["weekday"] == "Mon"
    assert all(change["after"] > change["before"] for change in first["changes"])
    text = schedule_text(document)
    assert "Replicas are started 20 min ahead: 15 min to start (assumed: --startup-s" in text
    assert "Mon 2026-11-02T09:40:00Z  Mon 09:40+0000  chat-" in text


def change(folder: Path, to: Path, **over: Any) -> Path:
    """Copy a reserve folder with other fields in its reserve.json."""
    to.mkdir()
    for file in folder.glob("fleet-*.json"):
        (to / file.name).write_bytes(file.read_bytes())
    document: dict[str, Any] = json.loads((folder / "reserve.json").read_text())
    for key, value in over.items():
        document[key] = value(document[key]) if callable(value) else value
    (to / "reserve.json").write_text(json.dumps(document))
    return to


def without_start(demand: Mapping[str, Any]) -> dict[str, Any]:
    return {**demand, "start": None}


def naive(demand: Mapping[str, Any]) -> dict[str, Any]:
    return {**demand, "start": "2026-11-02T00:00:00"}


def half_hours(demand: Mapping[str, Any]) -> dict[str, Any]:
    return {**demand, "step_s": 7000}


def twice(periods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*periods, periods[0]]


def outside(periods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*periods[:-1], {**periods[-1], "plan": "../fleet-01.json"}]


def gone(periods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*periods[:-1], {**periods[-1], "plan": "fleet-99.json"}]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "dates": ({"demand": without_start}, "demand.start: the demand has no dates"),
    "naive": ({"demand": naive}, "demand.start: Input should have timezone info"),
    "step": ({"demand": half_hours}, "46.6667 hours in steps of 7000 s cannot be repeated"),
    "twice": ({"periods": twice}, "periods.hours: must hold every step from 0 on once"),
    "outside": ({"periods": outside}, "plan: must be a file in the folder"),
    "gone": ({"periods": gone}, "fleet-99.json"),
    "nothing": (
        {"periods": [{"hours": list(range(24)), "plan": None, "rate_rps": 0}]},
        "nothing ever runs",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_folder_is_one_line(case: str, reserved: Path, tmp_path: Path) -> None:
    over, said = WRONG[case]
    folder = change(reserved, tmp_path / "fleets", **over)
    with pytest.raises(InputError) as error:
        read_schedule(folder)
    assert said in str(error.value) and len(error.value.problems) == 1
    assert str(folder) in str(error.value)


def test_no_folder_and_no_json_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = call(capsys, "schedule", str(tmp_path))
    assert (
        status == 2
        and "is missing: a schedule is made of a folder that `melange-sky reserve` wrote" in err
    )
    (tmp_path / "reserve.json").write_text("{")
    status, _, err = call(capsys, "schedule", str(tmp_path))
    assert status == 2 and "reserve.json: is no JSON" in err and err.count("\n") == 1
    status, _, err = call(capsys, "schedule", str(tmp_path), "--apply", "--cron")
    assert status == 2 and "--apply acts now and --cron writes what acts later" in err


def test_the_crontab_runs_the_command_and_skypilot_takes_the_job(
    reserved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / "my home"))
    folder = change(reserved, tmp_path / "50 % off; touch x")
    handover = Handover(gateways=["http://127.0.0.1:8000"])
    crontab, job = write_cron(read_schedule(folder), handover)
    (line,) = [text for text in crontab.splitlines() if text.startswith("*")]
    assert line.startswith(f"*/5 * * * * {sys.executable} -m melange_sky schedule ")
    command = line.removeprefix("*/5 * * * * ").replace(r"\%", "%")
    assert "%" not in line.replace(r"\%", "")
    echoed = command.replace(f"{sys.executable} -m melange_sky", "printf '%s\\n'", 1).partition(
        ">>"
    )[0]
    words = subprocess.run(["sh", "-c", echoed], capture_output=True, text=True, check=True).stdout
    assert words.splitlines()[:3] == ["schedule", str(folder), "--apply"]
    assert f"MELANGE_SKY_HOME='{tmp_path}/my home'" in crontab
    script = (
        "import sky, sys; t = sky.Task.from_yaml(sys.argv[1]); print('OK', t.api_server_access)"
    )
    env = {**os.environ, "SKYPILOT_DISABLE_USAGE_COLLECTION": "1", "HOME": str(tmp_path)}
    file = tmp_path / "job.yaml"
    file.write_text(job)
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "OK True" in done.stdout, done.stderr[-800:]


def test_a_new_reserve_replaces_the_folder_and_keeps_the_log(
    reserved: Path, tmp_path: Path
) -> None:
    folder = change(reserved, tmp_path / "fleets")
    assert crontab_text(read_schedule(folder, 300), Handover()).count("--startup-s 300") == 1
