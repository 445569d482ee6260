"""Bring about what a schedule says for now: one run at a time, and a line in its log for all that it did."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from melange_sky import settings
from melange_sky.errors import InputError, MelangeError
from melange_sky.planner.apply import Deployment, find_running, is_settled, wanted_of
from melange_sky.planner.clock import utc_text
from melange_sky.planner.handover import Handover
from melange_sky.rendering import file_name, service_documents
from melange_sky.skyserve.client import SkyServe

if TYPE_CHECKING:
    from melange_sky.planner.scheduling.folder import Schedule, ScheduledFleet
    from melange_sky.skyserve import Wanted

LOG_FILE = "schedule.jsonl"
BUSY = "another run of this schedule is at work: nothing was done"
Event = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedOut:
    """What a run did: `done` sentences, none where all was as it should be; `busy` where another one runs."""

    done: tuple[str, ...] = ()
    busy: bool = False


def carry_out(
    schedule: Schedule, handover: Handover, on_event: Event, moment: datetime
) -> CarriedOut:
    """Make SkyServe run what the schedule says for a moment.

    What grows is ready before the gateways take the fleet's plan, and that before anything shrinks. It reads
    what runs, never what an earlier run did: one that was killed anywhere is finished by the next.
    Raises MelangeError where a service fails or does not get ready; nothing is shrunk then.
    """
    lock = settings.home_dir() / "schedules" / f"{schedule.fleet_id}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            return _carried_out(schedule, handover, on_event, moment)
    except Timeout:
        return CarriedOut(busy=True)
    except OSError as error:
        raise InputError(f"{lock}: cannot be locked: {error.strerror or error}") from error


def _carried_out(
    schedule: Schedule, handover: Handover, on_event: Event, moment: datetime
) -> CarriedOut:
    done: list[str] = []
    fleet = schedule.fleets[schedule.timetable.fleet_at(moment)]

    def tell(text: str) -> None:
        done.append(text)
        _log(schedule, fleet, text)
        on_event(text)

    try:
        if schedule.timetable.running_at(moment):
            deployment = deployment_of(schedule, moment)
            _bring_about(deployment, fleet.counts, handover, tell)
        else:
            _stop_all(schedule, tell)
    except MelangeError as error:
        _log(schedule, fleet, f"failed: {' '.join(str(error).split())}")
        raise
    return CarriedOut(done=tuple(done))


def _bring_about(
    deployment: Deployment, needs: Mapping[str, int], handover: Handover, tell: Event
) -> None:
    """Carry out what differs; gateways are told of the hour's plan at once where what it `needs` is ready."""
    changes, tells = deployment.changes(), handover.routes or handover.backends or handover.gateways
    if not is_settled(changes):
        deployment.apply(changes, tell, handover, needs if tells else None)
    elif tells:
        deployment.apply(
            changes, _quiet, handover
        )  # an earlier run may have ended before it told them


def _quiet(text: str) -> None:
    """Say nothing: that all is ready is no news in a run that changes nothing."""


def _stop_all(schedule: Schedule, tell: Event) -> None:
    """Take down what runs of the fleet: nothing is asked for now."""
    file = next(f.file for f in schedule.fleets if f.file is not None)
    find_running(file).stop(tell)


def deployment_of(schedule: Schedule, moment: datetime) -> Deployment:
    """Return what runs at a moment as a deployment; gateways are told of the plan that serves then.

    Before the first replicas of a day serve, that is the plan that they start for.
    """
    counts = schedule.timetable.running_at(moment)
    fleets = [schedule.fleets[n] for n in schedule.timetable.fleets_from(moment)]
    told = next(fleet for fleet in fleets if fleet.plan is not None)
    assert told.plan is not None and told.file is not None
    rows: dict[str, Wanted] = {}
    for fleet in fleets:
        for wanted in _wanted(fleet):
            more = counts[wanted.name] - fleet.counts[wanted.name]
            rows.setdefault(wanted.name, _with_more(wanted, more))
    names = {name for w in rows.values() for name in w.document.get("secrets") or {}}
    return Deployment(
        planned=told.plan,
        plan_file=told.file,
        wanted=tuple(rows[name] for name in sorted(rows)),
        server=SkyServe(settings.secrets(names)),
    )


def _wanted(fleet: ScheduledFleet) -> tuple[Wanted, ...]:
    if fleet.plan is None:
        return ()
    documents = service_documents(fleet.plan)
    return wanted_of(fleet.plan, lambda name: (documents[file_name(name)], name))


def _with_more(wanted: Wanted, more: int) -> Wanted:
    """Return a service with so many replicas more; of those that SkyServe moves itself both bounds rise."""
    document: dict[str, Any] = copy.deepcopy(wanted.document)
    service = document["service"]
    if "replicas" in service:
        service["replicas"] += more
    else:
        service["replica_policy"]["min_replicas"] += more
        service["replica_policy"]["max_replicas"] += more
    most = None if wanted.most is None else wanted.most + more
    return replace(wanted, replicas=wanted.replicas + more, most=most, document=document)


def _log(schedule: Schedule, fleet: ScheduledFleet, text: str) -> None:
    """Add a line to the log and bring it to the disk."""
    path = schedule.folder / LOG_FILE
    row = {
        "time": utc_text(datetime.now(timezone.utc)),
        "plan": None if fleet.file is None else fleet.file.name,
        "event": text,
    }
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
