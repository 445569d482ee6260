"""What `schedule` is asked for, and its answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.planner.clock import created_at
from melange_sky.planner.handover import Handover
from melange_sky.planner.scheduling.folder import Schedule, read_schedule

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.planner.scheduling.carrying_out import CarriedOut

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleOptions:
    """The flags of `schedule`: whether to carry it out now, to write what does so, and how gateways hear of it."""

    apply: bool = False
    cron: bool = False
    startup_s: float | None = None
    handover: Handover = field(default_factory=Handover)

    def __post_init__(self) -> None:
        if self.apply and self.cron:
            raise InputError("--apply acts now and --cron writes what acts later: one of the two")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A schedule at a moment; what was done where that was asked, and the crontab that was written."""

    schedule: Schedule
    moment: datetime
    carried_out: CarriedOut | None = None
    crontab: str | None = None
    told: tuple[str, ...] = ()


def schedule_folder(
    folder: Path, options: ScheduleOptions, on_event: Callable[[str], None] | None = None
) -> Scheduled:
    """Read a reserve folder as a schedule, and carry it out or write what does.

    Raises InputError for a folder that holds none; with `apply` SourceUnavailableError where SkyPilot cannot
    say what runs, and MelangeError where a service fails or does not get ready.
    """
    schedule = read_schedule(folder, options.startup_s)
    moment = datetime.strptime(created_at(), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    if options.cron:
        from melange_sky.planner.scheduling.cron import CRON_FILE, JOB_FILE, write_cron

        crontab, _ = write_cron(schedule, options.handover)
        told = (f"wrote {folder / CRON_FILE} and {folder / JOB_FILE}",)
        return Scheduled(schedule=schedule, moment=moment, crontab=crontab, told=told)
    if not options.apply:
        return Scheduled(schedule=schedule, moment=moment)
    from melange_sky.planner.scheduling.carrying_out import BUSY, carry_out

    moment = datetime.now(timezone.utc)
    done = carry_out(schedule, options.handover, on_event or log.info, moment)
    lines = [] if done.done else [BUSY if done.busy else "nothing to change"]
    return Scheduled(schedule=schedule, moment=moment, carried_out=done, told=tuple(lines))
