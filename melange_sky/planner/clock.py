"""The time of planning."""

from __future__ import annotations

from datetime import datetime, timezone

from melange_sky.errors import InputError
from melange_sky.settings import source_date_epoch


def created_at() -> str:
    """Return the time of planning, ISO 8601 in UTC; SOURCE_DATE_EPOCH fixes it."""
    epoch = source_date_epoch()
    if epoch is None:
        now = datetime.now(timezone.utc)
    else:
        try:
            now = datetime.fromtimestamp(epoch, timezone.utc)
        except (ValueError, OverflowError, OSError) as error:
            raise InputError(
                "SOURCE_DATE_EPOCH must be a whole number of seconds since 1970"
            ) from error
    return utc_text(now)


def utc_text(moment: datetime) -> str:
    """Return a moment as ISO 8601 in UTC, to the second."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
