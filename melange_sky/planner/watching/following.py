"""Follow a live fleet: look, decide, write down, tell, and make or propose the change."""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from melange_sky import settings
from melange_sky.errors import InputError, MelangeError
from melange_sky.planfile import PLAN_FILE, load_plan
from melange_sky.planner.plan_files import write_plan
from melange_sky.planner.routes import revision_of
from melange_sky.planner.watching.entries import change_entry
from melange_sky.planner.watching.holding import Holding, TakenError, own_id
from melange_sky.planner.watching.plan_fleets import PlanFleets
from melange_sky.planner.watching.target import target_plan
from melange_sky.planner.watching.ticking import NotHadError, Watcher
from melange_sky.watching.decide import failed
from melange_sky.watching.journal import JOURNAL_FILE, Journal, read_journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from melange_sky.planner.watching.asking import WatchOptions
    from melange_sky.planner.watching.ticking import Actor, Source, Tick
    from melange_sky.plans import Plan

log = logging.getLogger(__name__)

PROPOSAL = "-proposed"
"""What is proposed lies in a folder beside the plan's, named so at its end, ready for `apply`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What a run saw: its last look, how many there were, and whether a guard forbade the cure at the last."""

    looks: int
    last: dict[str, Any] | None
    forbidden: bool


class Follower:
    """One plan folder's fleet, followed."""

    def __init__(
        self, folder: Path, options: WatchOptions, source: Source, actor: Actor | None
    ) -> None:
        """Read plan and journal. Raises InputError."""
        planned = load_plan(folder)
        options.check(planned)
        self.folder = folder if folder.is_dir() else folder.parent
        self.options, self.source, self.actor = options, source, actor
        self.watcher = Watcher(
            PlanFleets(planned),
            options.start_ups(self.folder),
            options.rules(planned),
            options.every_s,
        )
        self._revision = plan_revision(self.folder)
        path = self.folder / JOURNAL_FILE
        self.watcher.resume(read_journal(path).lines)
        self.journal = Journal(path)

    @property
    def fleets(self) -> PlanFleets:
        """The fleets for the sizes that are seen."""
        return self.watcher.fleets

    def is_of_another_plan(self) -> bool:
        """Return whether somebody wrote the plan anew since it was read; one that cannot be read is none."""
        return plan_revision(self.folder) not in (self._revision, None)

    def look(self, tell: Callable[[str], None]) -> Tick:
        """Take one look and do what it asks for. Raises TakenError where another watcher has the fleet."""
        tick, target = self._looked(tell)
        if target is not None and self.actor is not None:
            self._act(target, tell)
        return tick

    def _looked(
        self, tell: Callable[[str], None], *, changing: bool = False
    ) -> tuple[Tick, Plan | None]:
        """Take one look, write it down and propose what it asks for; return it, and the plan to carry out if any."""
        tick = self.watcher.tick(self.source.see(), changing=changing)
        self.journal.append(tick.entry)
        self.fleets.save()
        decision = tick.decision
        tell(f"{tick.entry['time']} {decision.verb} [{decision.reason}] {decision.message}")
        if decision.reason == "taken":
            raise TakenError(f"{self.fleets.plan.name}: {decision.message}")
        if decision.target is None or decision.verb not in ("propose", "apply"):
            return tick, None
        target = target_plan(self.fleets, decision.target, _need(tick))
        if decision.verb == "apply":
            return tick, target
        place = self.folder.resolve()
        place = place.with_name(place.name + PROPOSAL)
        write_plan(target, place)
        tell(f"approve it with: melange-sky apply {shlex.quote(str(place))}")
        return tick, None

    def _act(self, target: Plan, tell: Callable[[str], None]) -> None:
        """Make a change, and write down what came of it."""
        assert self.actor is not None
        if self.is_of_another_plan():
            return  # the next look is at that
        due_s = time.monotonic() + self.options.every_s

        def meanwhile() -> Plan | None:
            nonlocal due_s
            if time.monotonic() < due_s:
                return None
            due_s = time.monotonic() + self.options.every_s
            return self._looked(tell, changing=True)[1]

        try:
            self.actor.act(target, tell, meanwhile)
        except TakenError as error:
            self.note("taken", str(error), tell)
            raise
        except InputError as error:  # where somebody wrote the plan anew, the next look is at that
            self.failed(error, tell)
            return
        except MelangeError as error:
            self.failed(error, tell)
        else:
            self.watcher.state = replace(self.watcher.state, target=None)
            self.note("done", "the fleet is what was decided", tell)
        self._revision = plan_revision(self.folder)

    def failed(self, error: MelangeError, tell: Callable[[str], None]) -> None:
        """Write down that a change could not be made; what could not be had is left alone for a while."""
        lacking = error.options if isinstance(error, NotHadError) else frozenset()
        self.watcher.state = failed(self.watcher.state, lacking, self.watcher.rules)
        event = "not-had" if lacking else "failed"
        self.note(event, " ".join(str(error).split()), tell)

    def note(self, event: str, message: str, tell: Callable[[str], None]) -> None:
        """Add a line about a change that was made, or was not."""
        state = self.watcher.state
        self.journal.append(change_entry(time.time(), event, message, state, self.fleets.options))
        tell(f"{event}: {message}")


def plan_revision(folder: Path) -> str | None:
    """Return the name of a plan's content, None where it cannot be read."""
    try:
        return revision_of((folder / PLAN_FILE).read_bytes())
    except OSError:
        return None


def _need(tick: Tick) -> float:
    forecast = tick.entry["forecast"]
    return float(max(forecast["high_rps"], forecast["later_high_rps"]))


def follow(
    folder: Path,
    options: WatchOptions,
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Followed:
    """Follow a fleet until interrupted, or for one look. Raises InputError where another watcher is at work.

    That one may work here (it holds the lock) or elsewhere (it changed the fleet: TakenError).
    """
    from melange_sky.planner.watching.opening import source_of

    planned = load_plan(folder)
    options.check(planned)
    actor = holding = None
    if options.mode == "apply":
        from melange_sky.planner.watching.acting import actor_of  # observe never needs SkyPilot

        holding = Holding(watcher=own_id())
        actor = actor_of(folder, options, holding)
    with locked(planned):
        was_left, lost = (False, None) if actor is None else _ended(actor, tell)
        source = source_of(options, planned, folder if folder.is_dir() else folder.parent, holding)
        follower = Follower(folder, options, source, actor)
        if actor is not None:  # nothing is under way any more
            follower.watcher.state = replace(follower.watcher.state, target=None)
        if lost is not None:
            follower.failed(lost, tell)
        elif was_left:
            follower.note("done", "a change that an earlier watcher began is made", tell)
        looks = 0
        last: Tick | None = None
        try:
            while last is None or not options.once:
                if looks:
                    sleep(options.every_s)
                if follower.is_of_another_plan():
                    tell("the plan was written anew: it is followed from now on")
                    source = source_of(options, load_plan(folder), follower.folder, holding)
                    follower = Follower(folder, options, source, actor)
                last = follower.look(tell)
                looks += 1
        except KeyboardInterrupt:
            log.info("interrupted after %d looks", looks)
    forbidden = last is not None and last.decision.verb == "blocked" and last.decision.slo_missed
    return Followed(looks=looks, last=None if last is None else last.entry, forbidden=forbidden)


def _ended(actor: Actor, tell: Callable[[str], None]) -> tuple[bool, NotHadError | None]:
    """End a change that an earlier watcher left; return whether there was one, and why it could not be made."""
    try:
        return actor.resume(tell), None
    except NotHadError as error:
        return True, error


@contextlib.contextmanager
def locked(planned: Plan) -> Iterator[None]:
    """Hold the lock of a plan's fleet on this machine. Raises InputError where another watcher has it."""
    path = settings.home_dir() / "watch" / f"{planned.fleet_id or planned.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise InputError(f"{planned.name}: another watcher of this fleet is at work here") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be locked: {error.strerror or error}") from error
