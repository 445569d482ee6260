"""Two watchers of one fleet on two machines: whatever they do when, one goes on and the other ends with a line."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from melange_sky.errors import InputError
from melange_sky.planfile import load_plan
from melange_sky.planner import apply as applying
from melange_sky.planner.apply import open_deployment
from melange_sky.planner.watching import acting, following, opening
from melange_sky.planner.watching.acting import SkyActor
from melange_sky.planner.watching.asking import WatchOptions
from melange_sky.planner.watching.holding import HELD_S, Holding, TakenError, own_id
from melange_sky.planner.watching.intent import read_intent
from melange_sky.planner.watching.sources.sky import SkySource
from melange_sky.skyserve import LiveService, Wanted
from melange_sky.skyserve.watch_marks import TEXT_KEY, WatchMark, mark_of, marked
from melange_sky.watching.journal import JOURNAL_FILE, read_journal
from tests.cli.runner import call
from tests.watching.test_acting import DiskServe, fleet, folder, planned
from tests.watching.test_sources import NAME, page, pages

__all__ = ["folder"]

NOON = 1_800_000_000.0


class Machine:
    """A watcher on a machine of its own, with a clock of its own and a copy of the folder."""

    def __init__(self, name: str, place: Path, server: DiskServe, clock_s: float = NOON) -> None:
        self.now_s = clock_s
        self.place, self.server = place.parent / f"{place.name}-{name}", server
        shutil.copytree(place, self.place)
        self.name = name
        self.start()

    def start(self) -> None:
        """Begin, as after an end."""
        self.holding = Holding(watcher=self.name, host=self.name, clock=lambda: self.now_s)

    def looks(self) -> bool:
        """Return whether the watcher may go on."""
        source = SkySource(
            plan=load_plan(self.place),
            records=self.server,
            holding=self.holding,
            clock=lambda: self.now_s,
        )
        return source.see().live is not None

    def acts(self, **counts: int) -> bool:
        """Change the fleet; return whether the watcher may go on."""
        actor = SkyActor(folder=self.place, host=self.server, holding=self.holding)
        try:
            actor.act(fleet(load_plan(self.place), **counts), lambda text: None)
        except TakenError:
            return False
        return True


@pytest.fixture
def server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiskServe:
    """The SkyServe that the machines share."""
    found = DiskServe(tmp_path / "sky")
    for service in found.live.values():  # nobody's mark yet
        service.document.pop(TEXT_KEY, None)
    monkeypatch.setattr(applying.time, "sleep", found.sleep)
    monkeypatch.setattr(applying.time, "monotonic", found.clock)
    return found


def test_the_one_that_changed_the_fleet_last_goes_on(folder: Path, server: DiskServe) -> None:
    here, there = (Machine(name, folder, server) for name in ("here", "there"))
    assert here.looks() and there.looks(), "nobody has changed anything"
    assert here.acts(small=2, big=2)
    assert here.looks() and not there.looks()
    assert not there.acts(small=5, big=5)
    assert planned(there.place) == {"small": 2, "big": 1}, "its plan is as it was"
    assert read_intent(there.place) is None
    assert server.options() == {"small": 2, "big": 2}
    assert here.acts(small=2, big=1) and here.looks()


def test_one_that_starts_elsewhere_waits_for_an_hour_and_then_has_the_fleet(
    folder: Path, server: DiskServe
) -> None:
    here, there = (Machine(name, folder, server) for name in ("here", "there"))
    assert here.acts(small=2, big=2)
    there.now_s += HELD_S - 60
    there.start()
    assert not there.looks()
    there.now_s += 120
    there.start()
    assert there.looks() and here.looks(), "until one of them acts"
    assert there.acts(small=3, big=2)
    assert there.looks() and not here.looks()
    here.now_s = there.now_s
    here.start()
    assert not here.looks(), "nor when it is started again"


@pytest.mark.parametrize("seed", range(30))
def test_of_two_that_act_at_once_one_goes_on_whatever_their_clocks_say(
    seed: int, folder: Path, server: DiskServe
) -> None:
    rng = random.Random(seed)
    here, there = (
        Machine(name, folder, server, NOON + rng.choice([0, 0, -7, 30, 5 * HELD_S, -5 * HELD_S]))
        for name in ("here", "there")
    )
    assert here.looks() and there.looks()
    first, second = rng.sample([here, there], 2)
    at_once(first, second, server)
    assert [first.looks(), second.looks()].count(True) == 1
    ends = first if second.looks() else second
    stays = second if ends is first else first
    for _ in range(3):
        assert stays.acts(small=rng.randint(1, 3), big=rng.randint(1, 3))
        assert stays.looks() and not ends.looks()


def at_once(first: Machine, second: Machine, server: DiskServe) -> None:
    """Let both update a service of their own, neither having seen what the other does."""
    for machine, place in ((first, 0), (second, 1)):
        wanted = open_deployment(machine.place, host=server).wanted[place]
        server.update(marked(wanted, machine.holding.mark()), server.live[wanted.name])


def as_wanted(service: LiveService) -> Wanted:
    return Wanted(
        name=service.name,
        plan="chat",
        option="small",
        replicas=service.target,
        price_usd_per_hour=1.0,
        document=service.document,
    )


def test_a_change_by_hand_ends_no_watcher(folder: Path, server: DiskServe) -> None:
    here, there = (Machine(name, folder, server) for name in ("here", "there"))
    there.now_s -= 2 * HELD_S
    assert there.acts(small=2, big=2)
    here.start()
    assert here.acts(small=3, big=2)
    hand = folder.parent / "chat-hand"
    shutil.copytree(here.place, hand)
    actor = SkyActor(folder=hand, host=server, holding=here.holding)
    actor._write(json.loads((folder / "plan.json").read_text()))
    deployment = open_deployment(hand, host=server)
    deployment.apply(deployment.changes())
    assert server.options() == {"small": 2, "big": 1}
    assert here.looks(), "what an earlier watcher left elsewhere is nothing new"
    assert here.acts(small=2, big=2)


def test_one_that_is_overtaken_on_its_way_leaves_everything_as_it_is(
    folder: Path, server: DiskServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (Machine(name, folder, server) for name in ("here", "there"))
    assert here.looks() and there.looks()
    sleep = server.sleep
    waits: list[float] = []

    def while_it_waits(seconds: float) -> None:
        sleep(seconds)
        waits.append(seconds)
        if len(waits) == 1:
            there.holding._newest = here.holding._newest  # it looked between the two
            assert there.acts(small=2, big=3)

    monkeypatch.setattr(applying.time, "sleep", while_it_waits)
    assert not here.acts(small=4, big=1)
    assert server.options() == {"small": 2, "big": 3}, "nothing was taken back"
    assert there.looks()
    left = read_intent(here.place)
    assert left is not None and left.way == "forth"


def test_a_watcher_that_has_lost_its_fleet_ends_with_a_line_and_a_reason(
    folder: Path, server: DiskServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Machine("there", folder, server)
    there.now_s = applying.time.time()
    monkeypatch.setattr(following, "own_id", lambda: "here")
    monkeypatch.setattr(
        acting,
        "actor_of",
        lambda place, options, holding: SkyActor(folder=place, host=server, holding=holding),
    )
    monkeypatch.setattr(
        opening,
        "_of_sky",
        lambda plan, place, holding: SkySource(plan=plan, records=server, holding=holding),
    )
    told: list[str] = []
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            there.acts(small=2, big=2)

    with pages(page(finished=5, plan=NAME)) as (url, _):
        options = WatchOptions(mode="apply", metrics=[f"big={url}"])
        with pytest.raises(TakenError, match="chat: a watcher on there changed this fleet at 20"):
            following.follow(folder, options, told.append, sleep)
    rows = read_journal(folder / JOURNAL_FILE).lines
    assert [row["reason"] == "taken" for row in rows] == [False, False, True]
    assert (rows[-1]["decision"], rows[-1]["observed"]["faults"][0]["code"]) == ("keep", "taken")
    assert "keep [taken]" in told[-1]
    assert server.options() == {"small": 2, "big": 2}


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "# changed by `melange-sky watch`: ",
        "# changed by `melange-sky watch`: {}",
        "# changed by `melange-sky watch`: [1]",
        '# changed by `melange-sky watch`: {"watcher": "x", "host": "h", "at": "soon"}',
        '# changed by `melange-sky watch`: {"watcher": "x", "host": "h", "at": NaN}',
        '# changed by `melange-sky watch`: {"watcher": "x", "host": "h", "at": 1e300}',
        "# changed by `melange-sky watch`: " + "[" * 900,
        "# changed by `melange-sky watch`: " + json.dumps({"watcher": "x" * 2000}),
    ],
)
def test_what_is_no_mark_is_nobodys(text: object, server: DiskServe) -> None:
    service = next(iter(server.live.values()))
    service = dataclasses.replace(service, document={**service.document, TEXT_KEY: text})
    assert mark_of(service) is None
    assert Holding(watcher="here").taken([service]) is None


def test_a_mark_says_who_in_one_line_and_leaves_the_rest_of_the_text(server: DiskServe) -> None:
    import yaml

    service = next(iter(server.live.values()))
    mark = WatchMark(watcher="w", host="a\nb", at_s=NOON)
    wanted = marked(marked(as_wanted(service), mark), mark)
    text = wanted.document[TEXT_KEY]
    rest = {k: v for k, v in wanted.document.items() if k != TEXT_KEY}
    assert yaml.safe_load(text) == rest == service.document
    assert text.count("# changed by") == 1
    found = mark_of(dataclasses.replace(service, document=wanted.document))
    assert found == WatchMark(watcher="w", host="a?b", at_s=NOON)


def test_a_machine_keeps_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = set()
    for home in ("one", "two", "one", "two"):
        monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / home))
        ids.add(own_id())
    assert len(ids) == 2 and all(ids)
    (tmp_path / "three").write_text("no folder")
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / "three"))
    with pytest.raises(InputError, match="three/watch/id: cannot be kept"):
        own_id()


def elastic(place: Path) -> Path:
    from melange_sky.planner.plan_files import write_plan
    from melange_sky.plans import Elastic

    plan = load_plan(place)
    write_plan(dataclasses.replace(plan, elastic=Elastic(min=1, max=2)), place)
    return place


@pytest.mark.parametrize(
    "words", [["--mode", "apply"], ["--mode", "propose"], ["--mode", "apply", "--cron"]]
)
def test_an_elastic_plan_is_not_changed_by_two(
    words: Iterable[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elastic(folder)
    code, _, told = call(capsys, "watch", str(folder), "--gateway", "http://127.0.0.1:9", *words)
    assert code == 2
    assert told == (
        f"error: --mode {list(words)[1]}: chat is `elastic`: SkyServe's autoscaler changes its replicas, and two "
        "cannot; make the plan without `elastic`, or watch it with --mode observe\n"
    )
    code, _, told = call(
        capsys, "watch", str(folder), "--gateway", "http://127.0.0.1:9", "--every", "1", "--once"
    )
    assert code == 0 and "keep [signal]" in told


def test_a_plan_that_becomes_elastic_is_followed_no_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pages(page(finished=5, plan=NAME)) as (url, _):
        options = WatchOptions(mode="propose", gateway=url)
        with pytest.raises(InputError, match="chat is `elastic`"):
            following.follow(folder, options, lambda text: None, lambda s: elastic(folder) and None)
