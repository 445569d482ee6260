"""The fleets of a reserve folder by the hour."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from melange_sky.planner.handover import Handover
from melange_sky.planner.scheduling.asking import Scheduled, ScheduleOptions, schedule_folder
from melange_sky.planner.scheduling.document import schedule_document
from melange_sky.report.schedule import schedule_text
from melange_sky.sdk.arguments import path_of
from melange_sky.sdk.results import Shown, as_result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from melange_sky.sdk.arguments import AnyPath


class FleetSchedule(Shown, Scheduled):
    """A schedule, and what was done; printed as `schedule` shows it."""

    __slots__ = ()

    @property
    def document(self) -> dict[str, Any]:
        """What `schedule --format json` prints."""
        return schedule_document(self.schedule, self.moment)

    def __str__(self) -> str:
        return schedule_text(self.document)


def schedule(
    folder: AnyPath,
    *,
    apply_now: bool = False,
    cron: bool = False,
    startup_s: float | None = None,
    routes: AnyPath | None = None,
    backends: AnyPath | None = None,
    gateways: Sequence[str] = (),
    drain_s: float = 600.0,
    on_event: Callable[[str], None] | None = None,
) -> FleetSchedule:
    """Return when the fleets of a reserve folder grow and shrink; with `apply_now` bring now's about.

    Replicas are started before the hour that needs them and stopped after it; those that two fleets share
    keep running. Interrupted anywhere, call it again.

    Args:
        folder: What `reserve` wrote.
        apply_now: Make SkyServe run what is wanted now, without asking.
        cron: Write a crontab and a SkyPilot job beside the plans that carry the schedule out.
        startup_s: Seconds from starting a replica until it serves; None for what reserve was told, else 900.
        routes: File to write plan and addresses to as one, which `gateway` serves and follows.
        backends: File to write OPTION=URL*REPLICAS lines to, for the gateway.
        gateways: URLs of gateways that must serve the plan before anything stops.
        drain_s: Longest wait in seconds for requests that still run at what stops.
        on_event: Called with a sentence at each step; None logs them.

    Returns:
        The schedule, with what was done (`carried_out`) and the `crontab` that was written.

    Raises:
        InputError: The folder holds no reserve.json that can be scheduled.
        SourceUnavailableError: SkyPilot is not installed, or cannot say what runs.
        MelangeError: A service fails or does not get ready; nothing is shrunk then.
    """
    handover = Handover(
        routes=path_of(routes), backends=path_of(backends), gateways=gateways, drain_s=drain_s
    )
    options = ScheduleOptions(apply=apply_now, cron=cron, startup_s=startup_s, handover=handover)
    return as_result(FleetSchedule, schedule_folder(Path(folder), options, on_event))
