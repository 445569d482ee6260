"""A change of the fleet that is killed anywhere is finished, or taken back, by the next start."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from melange_sky.errors import InputError, MelangeError, SourceUnavailableError
from melange_sky.planfile import PLAN_FILE, load_plan
from melange_sky.planner import apply as applying
from melange_sky.planner.plan_files import write_plan
from melange_sky.planner.watching.acting import SkyActor
from melange_sky.planner.watching.holding import Holding
from melange_sky.planner.watching.intent import INTENT_FILE, read_intent
from melange_sky.planner.watching.sources.sky import SkySource
from melange_sky.planner.watching.starts import STARTS_FILE, StartLog, learnt_starts
from melange_sky.planner.watching.ticking import Meanwhile, NotHadError
from melange_sky.plans import Plan
from melange_sky.skyserve import LiveReplica, LiveService, Wanted
from tests.gateway.bed import split_plan
from tests.planner.test_scheduling import Memory

_WRITES = os.O_WRONLY | os.O_RDWR
_COUNTED = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir"})


def fleet(planned: Plan, **counts: int) -> Plan:
    """The plan with other numbers of replicas."""
    (model,) = planned.models
    allocations = tuple(
        dataclasses.replace(a, instances=counts[a.candidate.option.name]) for a in model.allocations
    )
    return dataclasses.replace(
        planned, models=(dataclasses.replace(model, allocations=allocations),)
    )


class DiskServe(Memory):
    """SkyServe that outlives who asks it: what runs lies in a file. `at` is called around every call.

    Of the service `short` no second replica can be had.
    """

    def __init__(self, path: Path, at: Any = None, short: str | None = None) -> None:
        super().__init__()
        self.short = short
        self.path, self.at = path, at or (lambda: None)
        if path.exists():
            self.live, self.calls, self.ready_history = pickle.loads(path.read_bytes())

    def _with(self, service: LiveService, ready: int) -> LiveService:
        return super()._with(service, min(ready, 1) if service.name == self.short else ready)

    def _keep(self) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(pickle.dumps((self.live, self.calls, self.ready_history)))
        fresh.replace(self.path)

    @contextlib.contextmanager
    def _done(self) -> Iterator[None]:
        self.at()
        yield
        self._keep()
        self.at()

    def start(self, wanted: Wanted) -> None:
        with self._done():
            super().start(wanted)

    def update(self, wanted: Wanted, live: LiveService) -> None:
        with self._done():
            super().update(wanted, live)

    def stop(self, name: str) -> None:
        with self._done():
            super().stop(name)

    def sleep(self, seconds: float) -> None:
        with self._done():
            super().sleep(seconds)

    def options(self) -> dict[str, int]:
        return {str(s.maker.option): s.target for s in self.live.values() if s.target}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan of two small replicas and a big one, and its fleet running."""
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / "home"))
    place = tmp_path / "chat"
    write_plan(fleet(split_plan(), small=2, big=1), place)
    act(place, load_plan(place), DiskServe(tmp_path / "sky"))
    return place


def actor(place: Path, server: Memory, watcher: str = "here") -> SkyActor:
    return SkyActor(folder=place, host=server, holding=Holding(watcher=watcher))


def act(
    place: Path, target: Plan, server: Memory, meanwhile: Meanwhile = lambda: None
) -> list[str]:
    """Act as a watcher does, on time that SkyServe makes pass."""
    events: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(applying.time, "sleep", server.sleep)
        patched.setattr(applying.time, "monotonic", server.clock)
        actor(place, server).act(target, events.append, meanwhile)
    return events


def resume(place: Path, server: Memory) -> bool:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(applying.time, "sleep", server.sleep)
        patched.setattr(applying.time, "monotonic", server.clock)
        return actor(place, server).resume(lambda text: None)


def planned(place: Path) -> dict[str, int]:
    (model,) = load_plan(place).models
    return {a.candidate.option.name: a.instances for a in model.allocations}


def killed(
    place: Path,
    target: Plan,
    sky: Path,
    at: int,
    short: str | None = None,
    meanwhile: Meanwhile = lambda: None,
) -> bool:
    """Act in a process of its own that is killed at its n-th step; return whether it came that far.

    With a `short` service the n-th step of the way back.
    """
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left, path = at, place / INTENT_FILE

    def step() -> None:
        nonlocal left
        goes_back = short is None or (path.exists() and '"way": "back"' in path.read_text())
        left -= goes_back
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if writes or event in _COUNTED:
            step()

    try:
        sys.addaudithook(audit)
        with contextlib.suppress(MelangeError):
            act(place, target, DiskServe(sky, step, short), meanwhile)
    finally:
        os._exit(0)


def copied(place: Path, sky: Path, to: Path) -> tuple[Path, Path]:
    """The same fleet once more, for a change of its own."""
    import shutil

    shutil.copytree(place, to / "chat")
    shutil.copy(sky, to / "sky")
    return to / "chat", to / "sky"


@pytest.mark.parametrize("seed", range(6))
def test_a_change_killed_at_any_step_is_finished_by_the_next_start(
    seed: int, folder: Path, tmp_path: Path
) -> None:
    target = fleet(load_plan(folder), small=1, big=3)
    rng = random.Random(seed)
    for at in rng.sample(range(1 + seed * 8, 9 + seed * 8), 3):
        room = tmp_path / f"at{at}"
        room.mkdir()
        place, sky = copied(folder, tmp_path / "sky", room)
        was_killed = killed(place, target, sky, at)
        before = planned(place)
        assert before in ({"small": 2, "big": 1}, {"small": 1, "big": 3}), "whole, whatever came"
        server = DiskServe(sky)
        left = read_intent(place) is not None
        assert resume(place, server) == left
        if left:
            assert server.options() == planned(place) == {"small": 1, "big": 3}
        elif was_killed and planned(place) == {"small": 2, "big": 1}:
            assert server.options() == {"small": 2, "big": 1}, "nothing had begun"
        else:
            assert server.options() == planned(place) == {"small": 1, "big": 3}
        assert min(server.ready_history[3:], default=3) >= 3, "no moment with fewer than before"
        assert not (place / INTENT_FILE).exists()
        assert resume(place, DiskServe(sky)) is False


def once(plan: Plan, after: int = 2) -> Meanwhile:
    """Need a larger fleet when asked for the n-th time."""
    left = after

    def meanwhile() -> Plan | None:
        nonlocal left
        left -= 1
        return None if left else plan

    return meanwhile


def test_more_that_is_needed_while_a_change_waits_is_added_to_it(
    folder: Path, tmp_path: Path
) -> None:
    server = DiskServe(tmp_path / "sky")
    plan = load_plan(folder)
    events = act(folder, fleet(plan, small=1, big=2), server, once(fleet(plan, small=1, big=4)))
    assert events.count("more is needed than is being started: it is added to the change") == 1
    assert server.options() == planned(folder) == {"small": 1, "big": 4}
    assert read_intent(folder) is None
    assert min(server.ready_history[3:], default=3) >= 3, "no moment with fewer than before"


def test_where_what_was_added_cannot_be_had_the_fleet_goes_back(
    folder: Path, tmp_path: Path
) -> None:
    server = DiskServe(tmp_path / "sky", short="chat-big")
    plan = load_plan(folder)
    with pytest.raises(NotHadError) as error:
        act(folder, fleet(plan, small=2, big=2), server, once(fleet(plan, small=2, big=4)))
    assert error.value.options == {"big"}
    assert server.options() == planned(folder) == {"small": 2, "big": 1}
    assert read_intent(folder) is None


@pytest.mark.parametrize("at", range(14, 62, 4))
def test_a_change_that_was_added_to_and_killed_is_finished(
    at: int, folder: Path, tmp_path: Path
) -> None:
    sky, plan = tmp_path / "sky", load_plan(folder)
    more = fleet(plan, small=1, big=4)
    killed(folder, fleet(plan, small=1, big=2), sky, at, meanwhile=once(more))
    server = DiskServe(sky)
    resume(folder, server)
    assert server.options() == planned(folder)
    assert planned(folder)["big"] in (2, 4)
    assert read_intent(folder) is None
    assert min(server.ready_history[3:], default=3) >= 3


def test_a_plan_that_somebody_wrote_while_a_change_waited_stands(
    folder: Path, tmp_path: Path
) -> None:
    server = DiskServe(tmp_path / "sky")
    plan = load_plan(folder)

    def meanwhile() -> Plan:
        write_plan(fleet(plan, small=4, big=4), folder)
        return fleet(plan, small=1, big=4)

    with pytest.raises(InputError, match="the plan was written anew while it was changed"):
        act(folder, fleet(plan, small=1, big=2), server, meanwhile)
    assert planned(folder) == {"small": 4, "big": 4}


def test_what_cannot_be_had_is_taken_back_and_named(folder: Path, tmp_path: Path) -> None:
    server = DiskServe(tmp_path / "sky", short="chat-big")
    with pytest.raises(NotHadError, match="not ready in time: chat-big") as error:
        act(folder, fleet(load_plan(folder), small=2, big=3), server)
    assert error.value.options == {"big"}
    assert planned(folder) == {"small": 2, "big": 1}
    assert server.options() == {"small": 2, "big": 1}
    assert read_intent(folder) is None


@pytest.mark.parametrize("at", [1, 4, 8, 12, 16, 20, 24])
def test_a_way_back_that_was_killed_is_gone_to_its_end(
    at: int, folder: Path, tmp_path: Path
) -> None:
    sky = tmp_path / "sky"
    target = fleet(load_plan(folder), small=2, big=3)
    assert killed(folder, target, sky, at, short="chat-big")
    server = DiskServe(sky)
    intent = read_intent(folder)
    if intent is not None:
        assert intent.way == "back"
        with pytest.raises(NotHadError):
            resume(folder, server)
    assert server.options() == planned(folder) == {"small": 2, "big": 1}
    assert read_intent(folder) is None


def test_a_skyserve_that_does_not_answer_leaves_the_change_under_way(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = DiskServe(tmp_path / "sky")
    target = fleet(load_plan(folder), small=2, big=2)

    def gone(*_: object) -> Any:
        raise SourceUnavailableError("nobody there")

    with monkeypatch.context() as patched:
        patched.setattr(server, "services", gone)
        with pytest.raises(SourceUnavailableError):
            act(folder, target, server)
    assert read_intent(folder) is not None
    later = fleet(load_plan(folder), small=1, big=2)
    events = act(folder, later, server)
    assert events[0] == "going on with a change that was under way (forth)"
    assert server.options() == planned(folder) == {"small": 1, "big": 2}


def test_a_plan_that_somebody_wrote_meanwhile_stands(folder: Path, tmp_path: Path) -> None:
    sky = tmp_path / "sky"
    killed(folder, fleet(load_plan(folder), small=1, big=3), sky, 30)
    assert read_intent(folder) is not None
    write_plan(fleet(load_plan(folder), small=4, big=4), folder)
    assert read_intent(folder) is not None, "a new plan keeps what a watcher left"
    assert resume(folder, DiskServe(sky)) is False
    assert planned(folder) == {"small": 4, "big": 4}
    assert read_intent(folder) is None


def test_a_folder_that_cannot_be_written_changes_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    server = DiskServe(tmp_path / "sky")
    with pytest.raises(InputError, match="holds files that no plan wrote"):
        act(folder, fleet(load_plan(folder), small=1, big=3), server)
    assert read_intent(folder) is None
    assert server.options() == planned(folder) == {"small": 2, "big": 1}


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}', "[" * 5000, '{"format": 1, "way": 3}'])
def test_an_intent_that_is_none_is_one_line(text: str, folder: Path, tmp_path: Path) -> None:
    (folder / INTENT_FILE).write_text(text)
    with pytest.raises(InputError) as error:
        act(folder, load_plan(folder), DiskServe(tmp_path / "sky"))
    assert "is no change that a watcher left; look at `melange-sky apply" in str(error.value)
    assert "\n" not in str(error.value)


def service(plan: Plan, option: str, *statuses: str, target: int = 2) -> LiveService:
    mark = {"plan": plan.models[0].name, "option": option, "id": plan.fleet_id}
    return LiveService(
        name=f"chat-{option}",
        status="READY",
        version=1,
        endpoint=None,
        replicas=tuple(
            LiveReplica(id=k + 1, status=status, version=1, endpoint=None, launched_at_s=None)
            for k, status in enumerate(statuses)
        ),
        document={
            "service": {"replica_policy": {"min_replicas": target}},
            "_metadata": {"melange_sky": mark},
        },
    )


def test_skyserve_tells_what_serves_what_starts_and_how_long_it_took(folder: Path) -> None:
    plan = load_plan(folder)
    now: dict[str, Any] = {"s": 1000.0, "found": ()}

    class Records:
        def services(self) -> tuple[LiveService, ...]:
            if isinstance(now["found"], MelangeError):
                raise now["found"]
            return now["found"]

    source = SkySource(
        plan=plan, records=Records(), starts=StartLog.of(folder), clock=lambda: now["s"]
    )
    other = dataclasses.replace(plan, fleet_id="0" * 12)

    def see(at_s: float, *found: LiveService) -> Any:
        now["s"], now["found"] = at_s, (*found, service(other, "small", "READY"))
        return source.see()

    first = see(1000, service(plan, "small", "READY", "STARTING"))
    assert (first.live, first.starting) == ({"small": 1, "big": 0}, {"small": 1})
    both = see(1060, service(plan, "small", "READY", "READY"), service(plan, "big", "PROVISIONING"))
    assert (both.live, both.starting) == ({"small": 2, "big": 0}, {"big": 2})
    assert learnt_starts(folder) == {}, "the small one began before anybody looked"
    see(1120, service(plan, "small", "READY", "READY"), service(plan, "big", "STARTING", "READY"))
    assert learnt_starts(folder) == {"big": [60.0]}
    see(1300, service(plan, "small", "READY"), service(plan, "big", "READY", "READY"))
    assert learnt_starts(folder) == {"big": [60.0, 300.0]}
    assert StartLog.of(folder).seconds == {"big": [60.0, 300.0]}
    now["found"] = SourceUnavailableError("nobody there")
    gone = source.see()
    assert [fault.code for fault in gone.faults] == ["unreachable"]
    assert gone.live is None
    (folder / STARTS_FILE).write_text(json.dumps({"format": 1, "seconds": {"big": ["x"]}}))
    assert learnt_starts(folder) == {}
    assert (folder / PLAN_FILE).exists()


def test_a_plan_written_anew_between_two_changes_is_not_overwritten(
    folder: Path, tmp_path: Path
) -> None:
    server = DiskServe(tmp_path / "sky")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(applying.time, "sleep", server.sleep)
        patched.setattr(applying.time, "monotonic", server.clock)
        watcher = actor(folder, server)
        watcher.act(fleet(load_plan(folder), small=2, big=2), lambda text: None)
        target = fleet(load_plan(folder), small=1, big=2)
        write_plan(fleet(load_plan(folder), small=4, big=4), folder)
        with pytest.raises(InputError, match="the plan was written anew since it was looked at"):
            watcher.act(target, lambda text: None)
    assert planned(folder) == {"small": 4, "big": 4}
    assert server.options() == {"small": 2, "big": 2}
    assert read_intent(folder) is None
