"""Guard rails: what may be done to a running fleet without asking anybody."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone

_HOURS = re.compile(r"(\d{1,2})(?::([0-5]\d))?-(\d{1,2})(?::([0-5]\d))? +(\S{1,60})\Z")
_DAY = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedHours:
    """A part of the day in which changes are allowed, in minutes of the zone's clock; it may span midnight."""

    text: str
    start: int
    end: int
    zone: str

    @classmethod
    def read(cls, text: str) -> AllowedHours:
        """Read such as ``08-20 Europe/Berlin`` or ``22:30-06 UTC``; raises ValueError with what is wrong."""
        match = _HOURS.match(text.strip())
        if match is None:
            raise ValueError(
                "must be hours and a zone, such as 08-20 Europe/Berlin or 22:30-06 UTC"
            )
        start, end = (
            int(hour) * 60 + int(minute or 0)
            for hour, minute in ((match[1], match[2]), (match[3], match[4]))
        )
        if start >= _DAY or end > _DAY or start == end:
            raise ValueError("must be two different times between 00:00 and 24:00")
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # few plans name hours

        try:
            ZoneInfo(match[5])
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"knows no time zone '{match[5]}'") from None
        return cls(text=text.strip(), start=start, end=end, zone=match[5])

    def hold(self, time: float) -> bool:
        """Return whether they hold at a time in seconds since 1970."""
        from zoneinfo import ZoneInfo

        local = datetime.fromtimestamp(time, timezone.utc).astimezone(ZoneInfo(self.zone))
        minute = local.hour * 60 + local.minute
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRails:
    """What may be done to a fleet; None for no limit.

    `launch` is what the plugin's guard does about launches that differ from a plan (off, warn, refuse). The
    fleet may cost up to `max_usd_per_hour`; one change starts and stops at most `max_change_instances`, `min_interval_s`
    after the one before, within `hours`. A change that adds more than `approve_above_usd` per hour is proposed, not
    made. `freeze` forbids every change.
    """

    launch: str | None = None
    max_usd_per_hour: float | None = None
    max_change_instances: int | None = None
    min_interval_s: float | None = None
    hours: AllowedHours | None = None
    approve_above_usd: float | None = None
    freeze: bool = False


NO_GUARD = GuardRails()
