"""Comparing and rolling out: against a small SkyServe in memory that behaves as the real one does."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from melange_sky.errors import InputError, MelangeError, SourceUnavailableError
from melange_sky.skyserve import (
    Action,
    Claim,
    LiveReplica,
    LiveService,
    Rollout,
    Wanted,
    client,
    compare,
    roll_out,
    take_down,
)
from tests.cli.runner import melange_sky
from tests.sdk.standin import StandIn

PRICES = {("chat", "small"): 1.0, ("chat", "large"): 4.0}


def wanted(option: str, replicas: int, **over: Any) -> Wanted:
    document = {
        "name": f"chat-{option}",
        "_metadata": {
            "git_commit": "not-recorded",
            "melange_sky": {"plan": "chat", "option": option},
        },
        "service": {
            "replicas": replicas,
            "readiness_probe": {"initial_delay_seconds": 60},
            "replica_policy": {"min_replicas": replicas},
        },
        "resources": {"infra": "aws", "any_of": [{"region": "a"}, {"region": "b"}]},
        "run": "vllm serve",
    }
    return Wanted(
        name=f"chat-{option}",
        plan="chat",
        option=option,
        replicas=replicas,
        price_usd_per_hour=PRICES["chat", option],
        document={**document, **over},
    )


class MemoryServe:
    """SkyServe in memory: replicas get ready one poll after they were asked for; it logs capacity."""

    def __init__(self, broken: str | None = None) -> None:
        self.live: dict[str, LiveService] = {}
        self.calls: list[str] = []
        self.ready_history: list[int] = []
        self.broken = broken
        self.looks: dict[str, int] = {}
        self._now = 0.0

    def clock(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        for name, service in self.live.items():
            target, ready = service.target, service.ready
            self.live[name] = self._with(
                service, min(target, ready + 1) if ready < target else target
            )
        self.ready_history.append(sum(s.ready for s in self.live.values()))

    def services(self) -> tuple[LiveService, ...]:
        return tuple(self.live.values())

    def users(self) -> frozenset[str]:
        return frozenset({"me"})

    def answers(self, service: LiveService) -> bool:
        """A load balancer hears of its first replica one look later than the controller."""
        self.looks[service.name] = self.looks.get(service.name, 0) + 1
        return self.looks[service.name] > 1

    def start(self, wanted: Wanted) -> None:
        self.calls.append(f"start {wanted.name}")
        self.live[wanted.name] = LiveService(
            name=wanted.name,
            status="READY",
            version=1,
            endpoint="http://x",
            replicas=(),
            document=copy.deepcopy(wanted.document),
        )

    def update(self, wanted: Wanted, live: LiveService) -> None:
        self.calls.append(f"update {wanted.name}")
        document = copy.deepcopy(wanted.document)
        self.live[wanted.name] = dataclasses.replace(self.live[wanted.name], document=document)

    def stop(self, name: str) -> None:
        self.calls.append(f"stop {name}")
        del self.live[name]

    def _with(self, service: LiveService, ready: int) -> LiveService:
        status = "FAILED_PROBING" if service.name == self.broken else "READY"
        replicas = tuple(
            LiveReplica(id=i, status=status, version=1, endpoint=None, launched_at_s=i)
            for i in range(ready if status == "READY" else service.target)
        )
        return dataclasses.replace(service, replicas=replicas)


def apply(server: MemoryServe, rows: list[Wanted]) -> list[Action]:
    changes = compare(rows, server.services(), {w.name: w.document for w in rows}, PRICES)
    roll_out(
        server,
        changes,
        Rollout(
            report=lambda text: None, clock=server.clock, sleep=server.sleep, poll_s=1, grace_s=60
        ),
    )
    return [change.action for change in changes]


def test_start_then_nothing_then_grow() -> None:
    server = MemoryServe()
    assert apply(server, [wanted("small", 2), wanted("large", 1)]) == [Action.START, Action.START]
    assert [s.ready for s in server.services()] == [2, 1]
    server.calls.clear()
    assert apply(server, [wanted("small", 2), wanted("large", 1)]) == [Action.KEEP, Action.KEEP]
    assert server.calls == []
    assert apply(server, [wanted("small", 3), wanted("large", 1)]) == [Action.GROW, Action.KEEP]
    assert server.calls == ["update chat-small"]


@pytest.mark.parametrize(("lost", "updates"), [(0, 1), (1, 2), (2, 3), (9, 3)])
def test_replicas_that_skyserve_takes_for_outdated_are_kept(lost: int, updates: int) -> None:
    """Its look at replicas writes an old version back if an update comes in between: `lost` times in a row."""
    server = MemoryServe()
    apply(server, [wanted("small", 2)])
    server.calls.clear()
    told: list[str] = []
    update = server.update

    def racing(row: Wanted, live: LiveService) -> None:
        update(row, live)
        service = server.live[row.name]
        version = service.version + 1
        moved = version if len(server.calls) > lost else 1
        replicas = tuple(dataclasses.replace(r, version=moved) for r in service.replicas)
        server.live[row.name] = dataclasses.replace(service, version=version, replicas=replicas)

    server.update = racing  # type: ignore[method-assign]
    server._with = lambda service, ready: service  # type: ignore[method-assign] # as they are
    rollout = Rollout(report=told.append, clock=server.clock, sleep=server.sleep, grace_s=10)
    row = wanted("small", 1)
    changes = compare([row], server.services(), {row.name: row.document}, PRICES)
    with contextlib.suppress(MelangeError):  # where they are never kept, none is ready in time
        roll_out(server, changes, rollout)
    assert server.calls == ["update chat-small"] * updates
    assert sum("is told again" in line for line in told) == updates - 1


def test_capacity_never_dips_below_the_old_plan() -> None:
    server = MemoryServe()
    apply(server, [wanted("small", 4)])
    server.calls.clear()
    server.ready_history.clear()
    assert apply(server, [wanted("large", 2)]) == [Action.START, Action.STOP]
    assert server.calls == ["start chat-large", "stop chat-small"]
    assert min(server.ready_history) >= 4
    server.calls.clear()
    apply(server, [wanted("small", 1), wanted("large", 1)])
    assert server.calls == ["start chat-small", "update chat-large"]


def test_nothing_shrinks_when_growth_fails() -> None:
    server = MemoryServe(broken="chat-large")
    apply(server, [wanted("small", 4)])
    server.calls.clear()
    with pytest.raises(MelangeError, match="chat-large: failed"):
        apply(server, [wanted("large", 2)])
    assert server.calls == ["start chat-large"]
    assert server.live["chat-small"].ready == 4


def test_an_interrupted_rollout_is_finished_by_the_next() -> None:
    server = MemoryServe()
    apply(server, [wanted("small", 2)])
    goal = [wanted("small", 1), wanted("large", 2)]

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    changes = compare(goal, server.services(), {w.name: w.document for w in goal}, PRICES)
    with pytest.raises(KeyboardInterrupt):
        roll_out(
            server,
            changes,
            Rollout(report=lambda text: None, clock=server.clock, sleep=interrupted),
        )
    assert apply(server, goal) == [Action.SHRINK, Action.KEEP]
    assert {s.name: s.target for s in server.services()} == {"chat-small": 1, "chat-large": 2}


def test_what_makes_skyserve_replace_replicas_is_told() -> None:
    server = MemoryServe()
    apply(server, [wanted("small", 2)])
    row = wanted("small", 2, run="vllm serve --other")
    (change,) = compare([row], server.services(), {row.name: row.document}, PRICES)
    assert change.action is Action.REPLACE and "run" in change.reason


def test_order_of_fallbacks_and_git_stamp_replace_nothing() -> None:
    server = MemoryServe()
    apply(server, [wanted("small", 2)])
    row = wanted(
        "small",
        2,
        resources={"infra": "aws", "any_of": [{"region": "b"}, {"region": "a"}]},
        _metadata={"git_commit": "abc", "melange_sky": {"plan": "chat", "option": "small"}},
    )
    (change,) = compare([row], server.services(), {row.name: row.document}, PRICES)
    assert change.action is Action.KEEP


def test_costs_before_and_after() -> None:
    server = MemoryServe()
    apply(server, [wanted("small", 2)])
    rows = [wanted("large", 3)]
    start, stop = compare(rows, server.services(), {w.name: w.document for w in rows}, PRICES)
    assert (start.cost_before_usd_per_hour, start.cost_after_usd_per_hour) == (0.0, 12.0)
    assert (stop.cost_before_usd_per_hour, stop.cost_after_usd_per_hour) == (2.0, 0.0)
    (_, unknown) = compare(rows, server.services(), {w.name: w.document for w in rows}, {})
    assert unknown.cost_before_usd_per_hour is None


def of_fleet(model: str, replicas: int, fleet: str | None = "both") -> Wanted:
    row = wanted("small", replicas)
    mark = {"plan": model, "option": "small", **({} if fleet is None else {"fleet": fleet})}
    document = {**row.document, "_metadata": {"git_commit": "x", "melange_sky": mark}}
    return dataclasses.replace(
        row, name=f"{model}-small", plan=model, fleet=fleet, document=document
    )


def test_a_model_that_left_the_fleet_is_shown_and_stopped_last() -> None:
    server = MemoryServe()
    apply(server, [of_fleet("chat", 2), of_fleet("code", 3)])
    for other in (of_fleet("code2", 1, fleet="another"), of_fleet("code3", 1, fleet=None)):
        server.start(other)
    goal = [of_fleet("chat", 4)]
    grow, stop = compare(goal, server.services(), {w.name: w.document for w in goal}, PRICES)
    assert (grow.action, stop.action, stop.name) == (Action.GROW, Action.STOP, "code-small")
    assert (stop.before, stop.after, stop.cost_before_usd_per_hour) == (3, 0, None)
    assert stop.reason == "the plan no longer serves the model code"
    server.calls.clear()
    server.ready_history.clear()
    apply(server, goal)
    assert server.calls == ["update chat-small", "stop code-small"]
    assert min(server.ready_history) >= 5 + 2  # nothing went before all that grew was ready
    assert {s.name for s in server.services()} == {"chat-small", "code2-small", "code3-small"}


@pytest.mark.parametrize(("old", "new"), [("both", None), (None, "both"), ("both", "other")])
def test_a_model_that_moves_between_plans_is_replaced_and_then_belongs_to_the_new_one(
    old: str | None, new: str | None
) -> None:
    """Else the old plan's next `apply` would stop it, or the new one's `down` would not find it."""
    server = MemoryServe()
    apply(server, [of_fleet("chat", 2, old), of_fleet("code", 3, old)])
    goal = [of_fleet("chat", 2, new)]
    (change, *stopped) = compare(
        goal, server.services(), {w.name: w.document for w in goal}, PRICES
    )
    assert (change.action, stopped) == (Action.REPLACE, [])
    assert change.reason.startswith("moves from ") and "replaced one by one" in change.reason
    apply(server, goal)
    left = [of_fleet("code", 3, old)]
    after = compare(left, server.services(), {w.name: w.document for w in left}, PRICES)
    assert [c.action for c in after] == [Action.KEEP]


NORMAL = """
import json, sys
from melange_sky.skyserve import LiveService, Wanted
from melange_sky.skyserve.client import SkyServe
wanted, live = json.load(sys.stdin)
print(json.dumps(SkyServe({}).normal(Wanted(**wanted), LiveService(**live))["_metadata"]))
"""


@pytest.mark.parametrize("fleet", ["both", None])
def test_an_update_keeps_the_stamps_and_writes_whose_it_is(fleet: str | None) -> None:
    """With the real SDK's task: what SkyServe is given."""
    service = {"readiness_probe": "/health", "replicas": 2}
    known = {"service": service, "resources": {"accelerators": "A10G:1"}, "run": "vllm serve"}
    row, asked = (
        dataclasses.replace(w, document={**known, "_metadata": w.document["_metadata"]})
        for w in (of_fleet("chat", 2), of_fleet("chat", 2, fleet=fleet))
    )
    stamped = {**row.document, "_metadata": {**row.document["_metadata"], "git_commit": "old"}}
    server = MemoryServe()
    server.start(dataclasses.replace(row, document=stamped))
    both = [dataclasses.asdict(asked), dataclasses.asdict(server.services()[0])]
    done = subprocess.run(
        [sys.executable, "-c", NORMAL],
        input=json.dumps(both),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    mark = asked.document["_metadata"]["melange_sky"]
    assert json.loads(done.stdout.splitlines()[-1]) == {"git_commit": "old", "melange_sky": mark}


def test_other_peoples_services_are_left_alone() -> None:
    server = MemoryServe()
    other = wanted("small", 2, _metadata={"git_commit": "x"})
    server.start(dataclasses.replace(other, name="theirs"))
    server.start(dataclasses.replace(other, name="chat-small"))
    row = wanted("large", 1)
    changes = compare([row], server.services(), {row.name: row.document}, PRICES)
    assert [c.name for c in changes] == ["chat-large"]
    with pytest.raises(InputError, match="chat-small"):
        compare([wanted("small", 1)], server.services(), {"chat-small": {}}, PRICES)


def of_id(option: str, replicas: int, fleet_id: str | None) -> Wanted:
    mark = {"plan": "chat", "option": option} | ({} if fleet_id is None else {"id": fleet_id})
    row = wanted(option, replicas, _metadata={"git_commit": "x", "melange_sky": mark})
    return dataclasses.replace(row, fleet_id=fleet_id)


def compared(rows: list[Wanted], server: MemoryServe, claim: Claim) -> tuple[Any, ...]:
    return compare(rows, server.services(), {w.name: w.document for w in rows}, PRICES, claim)


OURS, THEIRS = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
ME = Claim(users=frozenset({"me"}))
TAKING = dataclasses.replace(ME, adopt=True)


@pytest.mark.parametrize("theirs", [THEIRS, None])
def test_a_plan_of_the_same_name_is_another_fleet(theirs: str | None) -> None:
    """Two specs named `chat`: neither's services are stopped or changed by the other."""
    server = MemoryServe()
    server.start(of_id("large", 4, theirs))
    (start,) = compared([of_id("small", 1, OURS)], server, ME)
    assert (start.action, start.name) == (Action.START, "chat-small")
    with pytest.raises(InputError, match=r"'chat-large' was made by plan 'chat' of .*--adopt"):
        compared([of_id("large", 1, OURS)], server, ME)


def test_what_is_adopted_is_told_and_another_fleets_rest_left_alone() -> None:
    server = MemoryServe()
    server.start(of_id("large", 4, THEIRS))
    server.start(of_id("small", 2, THEIRS))
    (change,) = compared([of_id("large", 4, OURS)], server, TAKING)
    assert change.action is Action.REPLACE
    assert change.reason.startswith(f"taken over from plan 'chat' of fleet {THEIRS}")
    assert change.wanted.document["_metadata"]["melange_sky"] == {
        "plan": "chat",
        "option": "large",
        "id": OURS,
        "owner": "me",
    }
    server.update(change.wanted, server.live["chat-large"])
    assert [c.action for c in compared([of_id("large", 4, OURS)], server, ME)] == [Action.KEEP]
    with pytest.raises(InputError, match="'chat-large' was made by plan 'chat' of fleet aaaa"):
        compared([of_id("large", 4, THEIRS)], server, ME)


def test_what_an_earlier_version_made_is_adopted_whole() -> None:
    server = MemoryServe()
    server.start(of_id("large", 4, None))
    server.start(of_id("small", 2, None))
    replace, stop = compared([of_id("small", 2, OURS)], server, TAKING)
    assert (replace.action, stop.action, stop.name) == (Action.REPLACE, Action.STOP, "chat-large")


@pytest.mark.parametrize("option", ["small", "large"])
def test_another_users_service_is_not_touched(option: str) -> None:
    """One folder, two users of a shared SkyPilot: what the other one brought up takes an adoption."""
    server = MemoryServe()
    server.start(of_id("small", 2, OURS))
    mine = server.live["chat-small"]
    server.live["chat-small"] = dataclasses.replace(mine, user="bob-1", user_name="bob")
    with pytest.raises(InputError, match=f"by plan 'chat' of fleet {OURS} of bob, not by"):
        compared([of_id(option, 1, OURS)], server, ME)
    changes = compared([of_id(option, 1, OURS)], server, TAKING)
    assert {c.name for c in changes} == {"chat-small", f"chat-{option}"}
    assert compared([of_id("small", 2, OURS)], server, Claim(users=frozenset({"bob-1"})))


class Swapped(MemoryServe):
    """Between comparison and stop, somebody else's service takes the name."""

    def swap(self, name: str) -> None:
        theirs = of_id("small", 3, THEIRS).document
        self.live[name] = dataclasses.replace(self.live[name], document=theirs)


@pytest.mark.parametrize("how", ["apply", "down"])
def test_a_name_that_changed_hands_is_not_stopped(how: str) -> None:
    server = Swapped()
    server.start(of_id("small", 2, OURS))
    rollout = Rollout(report=lambda text: None, clock=server.clock, sleep=server.sleep, claim=ME)
    makers = {"chat-small": server.live["chat-small"].maker}
    changes = compared([of_id("large", 1, OURS)], server, ME)
    assert [c.action for c in changes] == [Action.START, Action.STOP]
    server.swap("chat-small")
    with pytest.raises(
        MelangeError, match="chat-small: is now a service of plan 'chat' of fleet b"
    ):
        if how == "apply":
            roll_out(server, changes, rollout)
        else:
            take_down(server, makers, rollout)
    assert "stop chat-small" not in server.calls and "chat-small" in server.live


def test_a_replacement_that_shrinks_is_waited_for() -> None:
    """1 of a new configuration wanted where 3 of the old run: not done before that one is ready."""
    server = MemoryServe()
    apply(server, [wanted("small", 3)])

    def update(row: Wanted, live: LiveService) -> None:
        fresh = dataclasses.replace(live, document=copy.deepcopy(row.document), version=2)
        server.live[row.name] = fresh

    server.update = update  # type: ignore[method-assign]
    server._with = lambda service, ready: service  # type: ignore[method-assign] # never ready
    row = wanted("small", 1, run="vllm serve --other")
    with pytest.raises(MelangeError, match="not ready in time: chat-small"):
        apply(server, [row])


def test_down_waits_until_all_are_gone() -> None:
    server = MemoryServe()
    apply(server, [wanted("small", 2), wanted("large", 1)])
    take_down(
        server,
        {s.name: s.maker for s in server.services()},
        Rollout(report=lambda text: None, clock=server.clock, sleep=server.sleep),
    )
    assert server.services() == ()


def test_secrets_never_show() -> None:
    service = LiveService(
        name="x",
        status="READY",
        version=1,
        endpoint=None,
        replicas=(),
        document={"secrets": {"HF_TOKEN": "hf_secret"}},
    )
    assert "hf_secret" not in repr(service)


def test_a_skypilot_that_cannot_be_reached_is_one_line_and_exit_4(tmp_path: Path) -> None:
    """With the real SDK, against a port on which nobody listens."""
    folder = str(tmp_path / "plan")
    assert melange_sky("plan", "examples/chat.yaml", "--offline", "-o", folder).returncode == 0
    nobody = {"HOME": str(tmp_path), "SKYPILOT_API_SERVER_ENDPOINT": "http://127.0.0.1:9"}
    answer = melange_sky("status", folder, **nobody)
    assert answer.returncode == 4, answer.stderr
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: SkyPilot cannot say which services run: ")


@pytest.mark.parametrize(("failures", "calls"), [(0, 1), (2, 3), (9, 4)])
def test_a_controller_that_fails_once_is_asked_again(
    failures: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does while another service goes down."""
    stand_in, asked = StandIn(), []

    def answer(request: object) -> object:
        asked.append(request)
        if len(asked) <= failures:
            raise RuntimeError("Failed to fetch services")
        return request

    monkeypatch.setitem(sys.modules, "sky", stand_in)
    monkeypatch.setattr(stand_in, "get", answer)
    monkeypatch.setattr(client, "PAUSES_S", (0.0, 0.0, 0.0))
    server = client.SkyServe({})
    if failures < 9:
        assert server.services() == ()
    else:
        with pytest.raises(SourceUnavailableError, match="which services run: Failed to fetch"):
            server.services()
    assert len(asked) == calls


def mounted(service: Wanted, path: str) -> LiveService:
    """A service with mounts as SkyPilot keeps it: it rewrites them to a bucket of its own."""
    return LiveService(
        name=service.name,
        status="READY",
        version=1,
        endpoint="http://x",
        replicas=(),
        document={
            **copy.deepcopy(service.document),
            "file_mounts": {"/cfg": {"name": "bucket-7f"}},
        },
        written={**copy.deepcopy(service.document), "file_mounts": {"/cfg": path}},
    )


@pytest.mark.parametrize(
    ("replicas", "path", "action", "reason"),
    [
        (2, "/home/me/cfg", Action.KEEP, ""),
        (
            3,
            "/home/me/cfg",
            Action.REPLACE,
            "SkyServe keeps no replica at an update with file_mounts",
        ),
        (2, "/home/me/new", Action.REPLACE, "file_mounts changed"),
    ],
)
def test_mounts_restart_at_every_update_and_are_told(
    replicas: int, path: str, action: Action, reason: str
) -> None:
    service = wanted("small", replicas, file_mounts={"/cfg": path})
    live = mounted(wanted("small", 2), "/home/me/cfg")
    (change,) = compare([service], [live], {service.name: service.document}, PRICES)
    assert change.action is action
    assert change.reason == (f"{reason}: replicas are replaced one by one" if reason else "")


def test_what_of_the_resources_changed_is_named() -> None:
    old = wanted("small", 2)
    live = LiveService(
        name=old.name, status="READY", version=1, endpoint=None, replicas=(), document=old.document
    )
    new = wanted("small", 2, resources={**old.document["resources"], "labels": {"team": "ads"}})
    (change,) = compare([new], [live], {new.name: new.document}, PRICES)
    assert change.reason == "resources.labels changed: replicas are replaced one by one"


def test_a_service_whose_memory_skypilot_filled_in_is_left_running() -> None:
    """Of an earlier version: without a word of ours SkyPilot fills in the same figure again."""

    def config() -> dict[str, Any]:
        return {"resources": {"instance_type": "g5.xlarge", "memory": "1+"}}

    for running, left in (
        ({"memory": "16.0"}, None),
        ({"any_of": [{"memory": "16.0"}, {"memory": "16.0"}]}, None),
        ({"memory": "1+"}, "1+"),
        ({}, "1+"),
    ):
        mine = config()
        client._leave_filled(mine, {"resources": running})
        assert mine["resources"].get("memory") == left
