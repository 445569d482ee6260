"""One written date and time read as an instant: the spellings that logs use, with zones and without.

The reader of a file parses its common spelling in bulk (`clock`); this is for every other one, and for the
rows that differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from melange_sky.traces.sample import is_missing
from melange_sky.traces.tokens import as_count

EPOCH_ORDINAL = 719_163
"""1970-01-01 as `datetime.date` counts days."""

_MONTHS = {
    name: number
    for number, names in enumerate(
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
        start=1,
    )
    for name in [names]
}
_DAY = (
    r"(?:(?P<y>\d{4})[-/.]?(?P<mo>\d{2})[-/.]?(?P<d>\d{2})"
    r"|(?P<a>\d{1,2})[-/.](?P<b>\d{1,2})[-/.](?P<y2>\d{4})"
    r"|(?:[A-Za-z]{3,9},?\s+)?(?P<d3>\d{1,2})[-/\s](?P<m3>[A-Za-z]{3,9})[-/,\s]+(?P<y3>\d{4})"
    r"|(?:[A-Za-z]{3,9},?\s+)??(?P<m4>[A-Za-z]{3,9})\s+(?P<d4>\d{1,2})(?:,)?\s+(?P<y4>\d{4}))"
)
_CLOCK = r"(?P<h>\d{1,2}):?(?P<mi>\d{2})(?::?(?P<s>\d{2})(?:[.,](?P<f>\d{1,12}))?)?\s*(?P<ap>[AaPp]\.?[Mm]\.?(?![A-Za-z]))?"
_ZONE = r"(?P<z>[Zz]|(?:UTC|GMT)?[+-]\d{2}(?::?\d{2})?|[A-Za-z]{2,5}|[A-Za-z_]+(?:/[A-Za-z_+-]+)+|\[[A-Za-z_/+-]+\])"
_STAMP = re.compile(
    rf"\[?{_DAY}(?:[T\s:,]\s*|(?<=\d{{8}})){_CLOCK}\s*(?:{_ZONE})?(?:\[[A-Za-z_/]+\])?\]?\Z"
)
_ASCTIME = re.compile(
    rf"[A-Za-z]{{3}}\s+(?P<m>[A-Za-z]{{3}})\s+(?P<d>\d{{1,2}})\s+{_CLOCK}\s+(?:(?P<z>[A-Z]{{2,5}})\s+)?(?P<y>\d{{4}})\Z"
)
_UNAMBIGUOUS_ZONES = {
    "CET": 1,
    "CEST": 2,
    "EET": 2,
    "EEST": 3,
    "WET": 0,
    "WEST": 1,
    "JST": 9,
    "KST": 9,
    "UTC": 0,
    "GMT": 0,
    "Z": 0,
}
"""Hours east of UTC of names that mean one zone; RFC 2822 gives those of the United States."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """A date and time as written: seconds of its clock since 1970, and its zone, None where none is named.

    `offset_s`: seconds east of UTC; `zone` an IANA name instead.
    """

    clock_s: float
    offset_s: int | None = None
    zone: str | None = None

    @property
    def has_zone(self) -> bool:
        """Whether it names its zone."""
        return self.offset_s is not None or self.zone is not None

    def instant_s(self) -> float:
        """Return seconds since 1970 in UTC; a time without zone is taken as UTC."""
        if self.zone is not None:
            return self.clock_s - offset_at(self.zone, self.clock_s)
        return self.clock_s - (self.offset_s or 0)


def offset_at(zone: str, clock_s: float) -> float:
    """Return the seconds east of UTC of a zone at a time of its own clock."""
    whole = int(clock_s // 1)
    local = datetime(1970, 1, 1) + timedelta(seconds=whole)
    found = local.replace(tzinfo=fixed_or_named(zone)).utcoffset()
    assert found is not None
    return found.total_seconds()


def fixed_or_named(zone: str) -> timezone | ZoneInfo:
    """Return a zone: ``+02:00`` or a name of the IANA database."""
    if zone[0] in "+-":
        return timezone(timedelta(seconds=offset_of(zone)))
    return ZoneInfo(zone)


def parse(text: str, *, day_first: bool = True, zone_is_known: bool = False) -> Stamp:
    """Return a written time; ValueError that says what is wrong with it.

    `day_first`: 03/04/2025 is the third of April. `zone_is_known`: an abbreviation that means several
    zones, such as IST, is taken as the one that is known.

    >>> parse("30/Mar/2025:00:00:31 +0200").instant_s() == parse("2025-03-29T22:00:31Z").instant_s()
    True
    """
    text = text.strip()
    found = _STAMP.match(text) or _ASCTIME.match(text)
    if found is None:
        raise ValueError("not a date and time")
    parts = found.groupdict()
    days = date(*_day(parts, day_first=day_first)).toordinal() - EPOCH_ORDINAL
    clock_s = days * 86400.0 + _time_of_day(parts)
    offset_s, zone = _zone(parts["z"], is_known=zone_is_known)
    return Stamp(clock_s=clock_s, offset_s=offset_s, zone=zone)


def _day(parts: dict[str, Any], *, day_first: bool) -> tuple[int, int, int]:
    if parts.get("m"):
        return int(parts["y"]), _month(parts["m"]), int(parts["d"])
    if parts["y"]:
        return int(parts["y"]), int(parts["mo"]), int(parts["d"])
    if parts["y2"]:
        day, month = int(parts["a"]), int(parts["b"])
        return int(parts["y2"]), *((month, day) if day_first else (day, month))
    which = "3" if parts["y3"] else "4"
    return int(parts["y" + which]), _month(parts["m" + which]), int(parts["d" + which])


def _month(name: str) -> int:
    if name[:3].lower() not in _MONTHS:
        raise ValueError("not a date and time")
    return _MONTHS[name[:3].lower()]


def _time_of_day(parts: dict[str, Any]) -> float:
    hours, minutes, seconds = int(parts["h"]), int(parts["mi"]), int(parts["s"] or 0)
    if parts["ap"]:
        if not 1 <= hours <= 12:
            raise ValueError("not a time of day")
        hours = hours % 12 + (12 if parts["ap"][0] in "pP" else 0)
    if hours > 23 or minutes > 59 or seconds > 60:
        raise ValueError("not a time of day")
    return (
        hours * 3600
        + minutes * 60
        + (seconds + float(f"0.{parts['f']}") if parts["f"] else seconds)
    )


def _zone(name: str | None, *, is_known: bool) -> tuple[int | None, str | None]:
    if name is None:
        return None, None
    name = name.strip("[]")
    upper = name.upper()
    if upper in _UNAMBIGUOUS_ZONES:
        return _UNAMBIGUOUS_ZONES[upper] * 3600, None
    if re.match(r"(UTC|GMT)?[+-]\d", upper):
        return offset_of(upper.removeprefix("UTC").removeprefix("GMT")), None
    if "/" in name:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"unknown zone '{name[:40]}'") from None
        return None, name
    from email.utils import parsedate_tz  # slow to load for a word that few logs have

    known = parsedate_tz(f"Mon, 01 Jan 2024 00:00:00 {upper}")
    # RFC 2822: a name that is not its own means nothing (-0000), which the parser gives as None.
    if (
        known is not None
        and known[9] is not None
        and upper in {"EST", "EDT", "CST", "CDT", "MST", "MDT", "PST", "PDT"}
    ):
        return known[9], None
    if is_known:
        return None, None
    raise ValueError(
        f"the zone '{name[:10]}' means several: say which by --timezone, such as Asia/Kolkata"
    )


def offset_of(text: str) -> int:
    """Return the seconds east of UTC of ``+02:00``, ``-0500`` or ``+02``."""
    digits = text[1:].replace(":", "")
    seconds = int(digits[:2]) * 3600 + int(digits[2:] or 0) * 60
    return -seconds if text[0] == "-" else seconds


def is_day_first(texts: list[str]) -> bool | None:
    """Return whether dates with slashes begin with the day; None where they do not say.

    Told by a number above 12; else by which of the two moves: the days of a log do, its months hardly.
    """
    found = [re.match(r"\[?(\d{1,2})[-/.](\d{1,2})[-/.]\d{4}", text.strip()) for text in texts]
    pairs = [(int(m[1]), int(m[2])) for m in found if m]
    if not pairs:
        return None
    if any(a > 12 for a, _ in pairs):
        return True
    if any(b > 12 for _, b in pairs):
        return False
    firsts, seconds = {a for a, _ in pairs}, {b for _, b in pairs}
    if len(firsts) == len(seconds):
        return None
    return len(firsts) > len(seconds)


def looks_like_times(values: tuple[Any, ...]) -> bool:
    """Return whether a column holds numbers or dates, as far as it holds anything."""
    given = [value for value in values if not is_missing(value)][:50]
    return bool(given) and sum(map(_is_time, given)) >= 0.9 * len(given)


def _is_time(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float | datetime) or number(value) is not None:
        return True
    return any(_parses(str(value), day_first) for day_first in (True, False))


def _parses(text: str, day_first: bool) -> bool:
    try:
        parse(text, day_first=day_first, zone_is_known=True)
    except ValueError:
        return False
    return True


def number(value: Any) -> float | None:
    """Return a time cell that is a number, also one with a decimal comma; None where it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if abs(value) < 1e30 else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    if re.match(r"[+-]?\d+,\d+\Z", text):
        text = text.replace(",", ".")
    if re.match(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z", text):
        return float(text)
    return as_count(text)
