"""What the page shows: plans beside what runs of them, with unknown kept apart from none."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from melange_sky.planfile import dump_plan
from melange_sky.plans import Elastic, Plan
from melange_sky.rendering import service_name
from melange_sky.skyplugin.fleets import STATES, by_name, fleet_document, state_of
from melange_sky.skyplugin.plan_folders import FoundPlan, PlanFolders
from melange_sky.skyplugin.records import RunningService
from melange_sky.skyplugin.watched import last_told
from melange_sky.skyserve import LiveReplica, LiveService
from melange_sky.watching.journal import JOURNAL_FILE
from tests.factories import make_offer, make_plan

NOW = datetime(2026, 9, 11, tzinfo=timezone.utc)
ID = "0123456789ab"


def replica(number: int, status: str = "READY", version: int = 1, **over: Any) -> LiveReplica:
    values = {"endpoint": None, "launched_at_s": 1_780_000_000, **over}
    return LiveReplica(id=number, status=status, version=version, **values)


def running(
    name: str, *replicas: LiveReplica, option: str = "a10g", runs_on: str = "A10G:1", **mark: str
) -> RunningService:
    document = {
        "_metadata": {"melange_sky": {"plan": "chat", "option": option, "id": ID, **mark}},
        "service": {"replica_policy": {"min_replicas": len(replicas)}},
        "secrets": {"HF_TOKEN": "hf_not_to_be_shown"},
    }
    service = LiveService(
        name=name,
        status="READY",
        version=1,
        endpoint="http://localhost:30001",
        document=document,
        replicas=replicas,
    )
    instances = {one.id: runs_on for one in replicas if one.launched_at_s is not None}
    return RunningService(service=service, instances=instances)


def found(plan: Plan | None = None) -> FoundPlan:
    return FoundPlan(plan=plan or make_plan(fleet_id=ID), file=Path("/plans/chat-plan/plan.json"))


def name_of(plan: Plan, number: int) -> str:
    return service_name(plan.models[0], plan.models[0].allocations[number])


def options(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["option"]: row for model in document["models"] for row in model["options"]}


def test_live_dollars_are_the_plans_prices_times_replicas_with_a_cluster() -> None:
    one = found()
    live = running(
        name_of(one.plan, 0),
        replica(1),
        replica(2, "STARTING"),
        replica(3, "PENDING", launched_at_s=None),
        replica(4, "FAILED_PROVISION", launched_at_s=None),
    )
    document = fleet_document(one, by_name([live]), NOW)
    small, large = options(document)["a10g"], options(document)["a100"]
    assert small["live_replicas"] == {
        "ready": 1,
        "starting": 2,
        "not_ready": 0,
        "stopping": 0,
        "failed": 1,
    }
    assert small["live_usd_per_hour"] == pytest.approx(2 * 1.006)
    assert (large["status"], large["live_usd_per_hour"]) == ("DOWN", 0.0)
    assert document["live_usd_per_hour"] == pytest.approx(2 * 1.006)
    assert document["planned_usd_per_hour"] == pytest.approx(one.plan.cost_usd_per_hour)


def test_what_is_reserved_is_billed_neither_planned_nor_live() -> None:
    plan = make_plan(fleet_id=ID)
    (model,) = plan.models
    kept = replace(model.allocations[0], instances=2, fixed_instances=1)
    plan = replace(plan, models=(replace(model, allocations=(kept,)),))
    live = running(name_of(plan, 0), replica(1), replica(2))
    document = fleet_document(found(plan), by_name([live]), NOW)
    assert document["live_usd_per_hour"] == document["planned_usd_per_hour"] == 1.006


def test_the_counts_between_which_skyserve_may_move_replicas_are_shown() -> None:
    plan = make_plan(fleet_id=ID)
    (row, *_) = options(fleet_document(found(plan), by_name(()), NOW)).values()
    assert (row["planned_min_replicas"], row["planned_max_replicas"]) == (1, 1)
    moved = replace(plan, elastic=Elastic(max=3.0))
    (row, *_) = options(fleet_document(found(moved), by_name(()), NOW)).values()
    assert (row["planned_replicas"], row["planned_max_replicas"]) == (1, 3)


def test_nothing_is_known_where_skyserve_could_not_be_asked() -> None:
    document = fleet_document(found(), by_name(None), NOW)
    assert document["live_usd_per_hour"] is None
    for row in options(document).values():
        assert row["live_replicas"] is None and row["live_usd_per_hour"] is None
        assert row["status"] is None and row["planned_replicas"] == 1


def test_another_type_than_planned_is_told() -> None:
    one = found()
    live = running(name_of(one.plan, 0), replica(1), runs_on="L4:1")
    assert options(fleet_document(one, by_name([live]), NOW))["a10g"]["unplanned"] == ["L4:1"]
    same = running(name_of(one.plan, 0), replica(1))
    assert options(fleet_document(one, by_name([same]), NOW))["a10g"]["unplanned"] == []


def test_services_of_the_fleet_that_the_plan_does_not_want_are_told_and_priced() -> None:
    one = found()
    known = running("chat-old", replica(1), option="a100")
    unknown = running("chat-older", replica(1), option="gone")
    others = running("chat-theirs", replica(1), id="ffffffffffff")
    document = fleet_document(one, by_name([known, others]), NOW)
    assert [(s["service"], s["usd_per_hour"]) for s in document["strays"]] == [("chat-old", 5.07)]
    assert document["live_usd_per_hour"] == 5.07
    document = fleet_document(one, by_name([known, unknown]), NOW)
    assert document["live_usd_per_hour"] is None  # 5.07 would be too low


def test_the_oldest_price_is_the_age_and_undated_ones_are_counted() -> None:
    plan = make_plan(fleet_id=ID)
    (model,) = plan.models
    first, second = model.allocations
    undated = replace(
        second,
        candidate=replace(
            second.candidate, option=replace(second.candidate.option, offer=make_offer(as_of=None))
        ),
    )
    plan = replace(plan, models=(replace(model, allocations=(first, undated)),))
    prices = fleet_document(found(plan), by_name([]), NOW)["prices"]
    assert (prices["oldest_as_of"], prices["oldest_age_days"], prices["undated"]) == (
        "2026-09-01",
        10.0,
        1,
    )


@pytest.mark.parametrize(
    ("status", "version", "state"),
    [
        ("READY", 2, "ready"),
        ("READY", 1, "stopping"),
        ("PROVISIONING", 2, "starting"),
        ("NOT_READY", 2, "not_ready"),
        ("SHUTTING_DOWN", 2, "stopping"),
        ("FAILED_PROBING", 2, "failed"),
        ("A_STATUS_OF_TOMORROW", 2, "failed"),
    ],
)
def test_every_status_is_one_of_the_states(status: str, version: int, state: str) -> None:
    assert state_of(replica(1, status, version), 2) == state
    assert state in STATES


@pytest.mark.filterwarnings("ignore")  # SkyPilot's own
def test_every_status_of_skyserve_is_known() -> None:
    from sky.serve.serve_state import ReplicaStatus

    failed = {s.value for s in ReplicaStatus if state_of(replica(1, s.value), 1) == "failed"}
    assert failed == {s.value for s in ReplicaStatus.failed_statuses()} | {"UNKNOWN"}


def test_no_secret_is_in_the_document() -> None:
    one = found()
    document = fleet_document(one, by_name([running(name_of(one.plan, 0), replica(1))]), NOW)
    assert "hf_not_to_be_shown" not in repr(document)


def write(folder: Path, plan: Plan) -> Path:
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(dump_plan(plan))
    return folder


def test_plans_are_found_in_folders_and_one_below(tmp_path: Path) -> None:
    write(tmp_path / "a", make_plan(name="alone"))
    write(tmp_path / "many" / "x", make_plan(name="first"))
    write(tmp_path / "many" / "y", make_plan(name="second"))
    folders = PlanFolders((tmp_path / "a", tmp_path / "many"))
    plans, problems = folders.plans(NOW)
    assert [one.plan.name for one in plans] == ["alone", "first", "second"] and problems == ()


def test_a_plan_is_read_again_when_its_file_changes_and_only_then(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", make_plan(name="chat"))
    folders = PlanFolders((folder,))
    (first,), _ = folders.plans(NOW)
    (again,), _ = folders.plans(NOW)
    assert again.plan is first.plan
    (folder / "plan.json").write_text(dump_plan(make_plan(name="another")))
    (changed,), _ = folders.plans(NOW)
    assert changed.plan.name == "another"


def test_what_cannot_be_read_is_told_beside_what_can(tmp_path: Path) -> None:
    good, bad, empty = write(tmp_path / "good", make_plan()), tmp_path / "bad", tmp_path / "empty"
    bad.mkdir()
    empty.mkdir()
    (bad / "plan.json").write_text("{")
    plans, problems = PlanFolders((good, bad, empty, tmp_path / "gone")).plans(NOW)
    assert [one.plan.name for one in plans] == ["chat"]
    assert len(problems) == 3
    assert f"{empty}: holds no plan.json, nor do the folders in it" in problems
    assert f"{tmp_path / 'gone'}: cannot be read (No such file or directory)" in problems


def test_a_reserve_shows_the_plan_of_the_hour_and_its_next_change(tmp_path: Path) -> None:
    def plan_of(count: int) -> Plan:
        made = make_plan(fleet_id=ID)
        (model,) = made.models
        small, large = model.allocations
        allocations = (replace(small, instances=count), large)
        return replace(made, models=(replace(model, allocations=allocations),))

    for n, count in enumerate((1, 3), 1):
        (tmp_path / f"fleet-0{n}.json").write_text(dump_plan(plan_of(count)))
    night = {"hours": list(range(12)), "plan": "fleet-01.json", "rate_rps": 1.0}
    day = {"hours": list(range(12, 24)), "plan": "fleet-02.json", "rate_rps": 3.0}
    document = {
        "name": "chat",
        "startup_s": 600,
        "demand": {"start": "2026-09-01T00:00:00Z", "step_s": 3600},
        "periods": [night, day],
    }
    (tmp_path / "reserve.json").write_text(json.dumps(document))
    folders = PlanFolders((tmp_path,))
    found_now, problems = folders.plans(NOW)
    assert problems == ()
    (shown,) = found_now
    assert shown.file.name == "fleet-01.json"
    changed = fleet_document(shown, by_name([]), NOW)["next_change"]
    assert changed == {"at": "2026-09-11T11:45:00Z", "text": "1 × chat-a100 + 3 × chat-a10g"}
    (shown,), _ = folders.plans(NOW.replace(hour=13))
    assert shown.file.name == "fleet-02.json"
    assert len(folders.all_plans()) == 2


def test_what_a_watcher_told_is_shown_newest_first_and_nothing_else_of_its_journal(
    tmp_path: Path,
) -> None:
    assert last_told(tmp_path) is None
    (tmp_path / "chat-plan").mkdir()
    (tmp_path / "chat-plan" / "plan.json").write_text(dump_plan(make_plan()))
    rows = [
        {
            "time": f"t{k}",
            "decision": "keep" if k % 100 else "apply",
            "reason": "grow",
            "message": "m" * 300,
            "observed": {"rate_rps": 1.0, "live": {"a" * 900: k}},
        }
        for k in range(700)
    ]
    rows.append({"time": "t700", "event": "done", "message": "<script>", "state": {}})
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    torn = '[1]\nno json\n{"time": "torn'
    (tmp_path / "chat-plan" / JOURNAL_FILE).write_text(text + torn)
    (shown,), _ = PlanFolders((tmp_path,)).plans(NOW)
    watched = fleet_document(shown, by_name([]), NOW)["watch"]
    assert watched["last"] == {
        "time": "t699",
        "decision": "keep",
        "reason": "grow",
        "message": "m" * 300,
    }
    assert [one["time"] for one in watched["changes"]] == ["t700", "t600", "t500", "t400"]
    assert watched["changes"][0]["message"] == "<script>"
