"""Make a change that was decided on SkyServe: written down before, grown first, finished or taken back after any end.

Kill it anywhere: the next start reads what was under way (`intent`), and what runs, and goes on from there. Where
SkyServe cannot be asked the change stays under way; where replicas cannot be had the fleet goes back to the plan
that it came from.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError, MelangeError, SourceUnavailableError
from melange_sky.planfile import PLAN_FILE, dump_plan, load_document, parse_plan
from melange_sky.planner.apply import Deployment, ServiceHost, is_settled, open_deployment
from melange_sky.planner.handover import Handover
from melange_sky.planner.plan_files import write_plan
from melange_sky.planner.watching.holding import Holding
from melange_sky.planner.watching.intent import (
    Intent,
    end_intent,
    read_intent,
    write_intent,
)
from melange_sky.planner.watching.sources.sky import of_fleet
from melange_sky.planner.watching.ticking import Meanwhile, NotHadError
from melange_sky.skyserve.watch_marks import marked

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.planner.watching.asking import WatchOptions
    from melange_sky.planner.watching.ticking import Actor
    from melange_sky.plans import Plan
    from melange_sky.skyserve import LiveService, Wanted

log = logging.getLogger(__name__)

Tell = Callable[[str], None]


class _MoreNeededError(Exception):
    """A larger fleet is needed than the one that a change goes to."""

    def __init__(self, target: Plan) -> None:
        super().__init__("more is needed")
        self.target = target


def _nothing() -> None:
    """Need no other fleet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldHost:
    """SkyServe for one watcher: what it changes bears its mark; whatever is read tells whether another has the fleet.

    Raises TakenError then.
    """

    host: ServiceHost
    planned: Plan
    holding: Holding

    def services(self) -> tuple[LiveService, ...]:
        """Return all services that run."""
        found = self.host.services()
        self.holding.check(service for _, service in of_fleet(self.planned, found))
        return found

    def users(self) -> frozenset[str]:
        """Return SkyPilot's ids of this user."""
        return self.host.users()

    def answers(self, service: LiveService) -> bool:
        """Return whether a service's load balancer knows a replica."""
        return self.host.answers(service)

    def normal(self, wanted: Wanted, live: LiveService | None) -> dict[str, Any]:
        """Return a document as SkyPilot would keep it."""
        return self.host.normal(wanted, live)

    def start(self, wanted: Wanted) -> None:
        """Bring a service up."""
        self.host.start(marked(wanted, self.holding.mark()))

    def update(self, wanted: Wanted, live: LiveService) -> None:
        """Change a service."""
        self.host.update(marked(wanted, self.holding.mark()), live)

    def stop(self, name: str) -> None:
        """Take a service down."""
        self.host.stop(name)


@dataclass(slots=True, kw_only=True)
class SkyActor:
    """Carries changes of one plan folder's fleet out, one at a time. `host` is SkyServe, None the real one."""

    folder: Path
    holding: Holding
    handover: Handover = field(default_factory=Handover)
    host: ServiceHost | None = None
    _known: dict[str, Any] | None = None
    _meanwhile: Meanwhile = field(default=_nothing)

    def act(self, target: Plan, tell: Tell, meanwhile: Meanwhile = _nothing) -> None:
        """Make the fleet what a plan says. A change that an earlier run left is ended first.

        `meanwhile` is called whenever it waits; the plan that it returns, of a larger fleet, takes the target's place.
        Raises NotHadError where replicas could not be had: the fleet is what it was before;
        SourceUnavailableError where SkyServe cannot be asked: the next call goes on; InputError where the
        folder cannot be written: nothing is changed then; TakenError where another watcher has the fleet.
        """
        self.resume(tell)
        with contextlib.suppress(SourceUnavailableError):  # the change stays under way then
            self._deployment().services()  # before anything is written, another watcher shows
        before = self._document()
        if self._known is not None and before != self._known:
            self._known = before
            raise InputError(
                f"{self.folder}: the plan was written anew since it was looked at; it is left as it is"
            )
        intent = Intent(way="forth", before=before, after=json.loads(dump_plan(target)))
        write_intent(self.folder, intent)
        try:
            self._write(intent.goal)
        except InputError:
            end_intent(self.folder)
            raise
        self._meanwhile = meanwhile
        try:
            self._carried(intent, tell)
        finally:
            self._meanwhile = _nothing

    def _carried(self, intent: Intent, tell: Tell) -> None:
        """Carry a change out, and what takes its place while it waits."""
        while True:
            try:
                return self._carry(intent, tell)
            except _MoreNeededError as error:
                if self._document() != self._known:
                    raise InputError(
                        f"{self.folder}: the plan was written anew while it was changed; it is left as it is"
                    ) from None
                tell("more is needed than is being started: it is added to the change")
                intent = intent.grown(json.loads(dump_plan(error.target)))
                write_intent(self.folder, intent)

    def _wait(self, seconds: float) -> None:
        time.sleep(seconds)
        target = self._meanwhile()
        if target is not None:
            raise _MoreNeededError(target)

    def resume(self, tell: Tell) -> bool:
        """End a change that was left under way; return whether there was one. Raises as `act` does."""
        intent = read_intent(self.folder)
        if intent is None:
            self._known = self._known or self._document()
            return False
        now = self._document()
        if not intent.knows(now):
            tell("the plan was written anew while a change was under way, which is given up")
            end_intent(self.folder)
            return False
        tell(f"going on with a change that was under way ({intent.way})")
        self._carry(intent, tell)
        return True

    def _carry(self, intent: Intent, tell: Tell) -> None:
        if intent.way == "forth":
            try:
                self._bring_about(intent.goal, tell)
            except (SourceUnavailableError, InputError):
                raise
            except MelangeError as error:
                why = " ".join(str(error).split())
                intent = intent.turned(why, self._lacking())
                write_intent(self.folder, intent)
            else:
                end_intent(self.folder)
                return
        self._meanwhile = _nothing  # whatever comes, it goes back first
        tell(f"back to the fleet before: {intent.why}")
        self._bring_about(intent.goal, tell)
        end_intent(self.folder)
        raise NotHadError(intent.why, frozenset(intent.options))

    def _bring_about(self, document: dict[str, Any], tell: Tell) -> None:
        """Write a plan where it is not there yet, and make SkyServe run it."""
        self._write(document)
        deployment = self._deployment()
        changes = deployment.changes()
        if not is_settled(changes) or self.handover.routes or self.handover.backends:
            deployment.apply(changes, tell, self.handover)
        elif self.handover.gateways:
            deployment.apply(changes, log.debug, self.handover)

    def _write(self, document: dict[str, Any]) -> None:
        if self._document() != document:
            write_plan(parse_plan(document, PLAN_FILE), self.folder)
        self._known = self._document()

    def _document(self) -> dict[str, Any]:
        document, _ = load_document(self.folder / PLAN_FILE)
        if not isinstance(document, dict):
            raise InputError(f"{self.folder / PLAN_FILE}: is no plan of one model")
        return document

    def _deployment(self) -> Deployment:
        plain = open_deployment(self.folder, host=self.host)
        host = HeldHost(host=plain.server, planned=plain.planned, holding=self.holding)
        return replace(plain, server=host, idle=self._wait)

    def _lacking(self) -> tuple[str, ...]:
        """Return the options whose services have fewer ready replicas than the plan wants."""
        deployment = self._deployment()
        states = deployment.states(deployment.services())
        return tuple(sorted({s.option for s in states if s.ready < s.planned}))


def actor_of(folder: Path, options: WatchOptions, holding: Holding) -> Actor:
    """Return what carries changes of a plan folder's fleet out. Raises InputError where nothing can."""
    if not folder.is_dir():
        raise InputError(f"--mode apply: give the plan's folder, not {folder.name}")
    return SkyActor(folder=folder, handover=options.handover, holding=holding)
