"""A schedule for people: what runs now, and what changes when, in UTC and on the demand's clock."""

from __future__ import annotations

from datetime import datetime
from typing import Any


def schedule_text(document: dict[str, Any]) -> str:
    """Return the document for people, times in UTC and on the demand's own clock."""
    now = document["now"]
    early = (
        f"Replicas are started {document['ahead_s'] / 60:g} min ahead: {document['startup_s'] / 60:g} min to start "
        f"({document['startup_origin']}) and up to 5 min until the next look"
    )
    lines = [
        f"{document['name']}: fleets by the hour, repeated every {document['repeats']} in UTC",
        early,
        "",
        f"Now ({now['at']}): {_fleet_text(now['services'])}",
    ]
    for step in document["steps"]:
        local = datetime.fromisoformat(step["local"])
        changes = ", ".join(f"{c['service']} {c['before']} → {c['after']}" for c in step["changes"])
        lines.append(f"{step['weekday']} {step['at']}  {local:%a %H:%M%z}  {changes}")
    if not document["steps"]:
        lines.append("nothing ever changes")
    return "\n".join(lines) + "\n"


def _fleet_text(services: list[dict[str, Any]]) -> str:
    return ", ".join(f"{s['service']} × {s['replicas']}" for s in services) or "nothing runs"
