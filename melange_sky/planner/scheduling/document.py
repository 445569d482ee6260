"""What `schedule --format json` prints: what runs now, and what changes when within one repetition."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from melange_sky.planner.clock import utc_text

if TYPE_CHECKING:
    from melange_sky.planner.scheduling.folder import Schedule

SCHEMA_VERSION = 1


def schedule_document(schedule: Schedule, moment: datetime) -> dict[str, Any]:
    """Return the schedule over one cycle from a moment on, for `--format json`."""
    table = schedule.timetable
    before = table.running_at(moment)
    steps = []
    running = before
    for at, after in table.changes(moment):
        steps.append(
            {
                "at": utc_text(at),
                "weekday": at.astimezone(timezone.utc).strftime("%a"),
                "local": at.astimezone(table.start.tzinfo).isoformat(),
                "plan": _plan(schedule, at),
                "services": _rows(after),
                "changes": [
                    {"service": name, "before": running.get(name, 0), "after": after.get(name, 0)}
                    for name in sorted(running.keys() | after.keys())
                    if running.get(name, 0) != after.get(name, 0)
                ],
            }
        )
        running = after
    return {
        "schema_version": SCHEMA_VERSION,
        "name": schedule.name,
        "fleet_id": schedule.fleet_id,
        "repeats": schedule.repeats,
        "startup_s": schedule.startup_s,
        "startup_origin": schedule.startup_origin,
        "ahead_s": table.ahead_s,
        "now": {"at": utc_text(moment), "plan": _plan(schedule, moment), "services": _rows(before)},
        "steps": steps,
    }


def _rows(running: dict[str, int]) -> list[dict[str, Any]]:
    return [{"service": name, "replicas": count} for name, count in running.items()]


def _plan(schedule: Schedule, moment: datetime) -> str | None:
    file = schedule.fleets[schedule.timetable.fleet_at(moment)].file
    return None if file is None else file.name
