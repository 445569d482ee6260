"""How a user says that a trace is to be read, where its own names and stamps leave it open."""

from __future__ import annotations

import re
from collections.abc import Mapping
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.workload import TraceOptions

ROLES = ("time", "input", "output", "status", "session", "hash_ids")
"""What a column can be: `--columns ROLE=NAME`."""

TICKS_PER_S = {
    "s": 1.0,
    "ms": 1e3,
    "us": 1e6,
    "µs": 1e6,
    "ns": 1e9,
    "min": 1 / 60,
    "h": 1 / 3600,
    "d": 1 / 86_400,
}
"""Units of a time that is a number."""

_UNIT = re.compile(r"(?P<name>.+):(?P<unit>s|ms|us|µs|ns|min|h|d)\Z")
_OFFSET = re.compile(r"[+-]\d\d:?\d\d\Z")


def read_options(
    columns: str | Mapping[str, str] | None,
    timezone: str | None = None,
    *,
    keep_failed: bool = False,
) -> TraceOptions:
    """Return options from ``time=startTime:ms,input=…`` (or a mapping) and a zone's name.

    Raises InputError for an unknown role, a pair without ``=``, an unknown zone.
    """
    pairs = (
        _pairs(columns) if columns is None or isinstance(columns, str) else list(columns.items())
    )
    unit = None
    named: dict[str, str] = {}
    for role, name in pairs:
        if role not in ROLES:
            hint = did_you_mean(role, ROLES) or f"; known: {', '.join(ROLES)}"
            raise InputError(f"columns: unknown role '{clip(role)}'{hint}")
        if role in named:
            raise InputError(f"columns: {role} is named twice")
        found = _UNIT.match(name) if role == "time" else None
        named[role] = found["name"] if found else name
        unit = found["unit"] if found else unit
    return TraceOptions(
        columns=tuple(sorted(named.items())),
        unit=unit,
        timezone=None if timezone is None else _zone(timezone),
        keep_failed=keep_failed,
    )


def _pairs(text: str | None) -> list[tuple[str, str]]:
    pairs = []
    for part in (text or "").split(","):
        role, sign, name = part.strip().partition("=")
        if part.strip() and not (sign and role and name):
            raise InputError(
                f"columns: '{clip(part)}' must be ROLE=NAME, such as time=startTime or time=ts:ms"
            )
        if part.strip():
            pairs.append((role.strip(), name.strip()))
    return pairs


def _zone(name: str) -> str:
    if _OFFSET.match(name):
        return name
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        from zoneinfo import available_timezones

        zones = available_timezones()
        near = [
            zone for zone in sorted(zones) if zone.rpartition("/")[2].casefold() == name.casefold()
        ]
        hint = f" (did you mean '{near[0]}'?)" if near else did_you_mean(name, zones)
        raise InputError(
            f"timezone: unknown zone '{clip(name)}'{hint}; give one such as Europe/Berlin, UTC or +02:00"
        ) from None
    return name
