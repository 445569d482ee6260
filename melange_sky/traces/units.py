"""In which unit a log's times count, told by the name, by the size of the numbers, by what else can be.

Nothing is guessed: where two readings of one log are both possible, the user is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from melange_sky.errors import InputError
from melange_sky.traces.options import TICKS_PER_S
from melange_sky.traces.sample import words_of

_NAMED = {
    "s": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s",
    "ms": "ms", "msec": "ms", "millis": "ms", "milli": "ms", "milliseconds": "ms", "millisecond": "ms",
    "us": "us", "micros": "us", "micro": "us", "microseconds": "us", "usec": "us",
    "ns": "ns", "nanos": "ns", "nano": "ns", "nanoseconds": "ns",
    "min": "min", "mins": "min", "minute": "min", "minutes": "min",
    "h": "h", "hr": "h", "hrs": "h", "hour": "h", "hours": "h", "day": "d", "days": "d",
}  # fmt: skip
UNIT_WORDS = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "min": "minutes",
    "h": "hours",
    "d": "days",
}
EPOCH_S = (946_684_800.0, 4_102_444_800.0)
"""The years 2000 to 2099 in seconds since 1970."""

SPREADSHEET_DAYS = (36_526.0, 73_050.0)
"""The same years as days since 1899-12-30, as spreadsheets count them."""

LONGEST_S = 3 * 366 * 86_400.0
MOST_RPS_IN_A_MINUTE = 1000.0
FEWEST_ROWS = 100
"""Requests from which their rate says what cannot be."""

FEWEST_TO_JUDGE = 20
SHORTEST_LOG_S = 60.0
LEAST_RPS = 1 / 60
MOST_USUAL_RPS = 100.0
_UNITS = ("s", "ms", "us", "ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The times of a log as numbers: how many, the least and the greatest, whether any is no whole number."""

    rows: int
    low: float
    high: float
    has_fractions: bool

    @property
    def span(self) -> float:
        """Greatest less least, in the log's own unit."""
        return self.high - self.low


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """How numbers become seconds: ``number ÷ ticks_per_s + base_s``; `is_date`: since 1970. `why` for people."""

    name: str
    ticks_per_s: float
    is_date: bool
    why: str
    base_s: float = 0.0


def named_unit(name: str) -> str | None:
    """Return the unit that a column's name ends with, None for none.

    >>> named_unit("startTimeUnixNano"), named_unit("arrival_s"), named_unit("time_min"), named_unit("timestamp")
    ('ns', 's', 'min', None)
    """
    words = words_of(name)
    return _NAMED.get(words[-1]) if len(words) > 1 else None


def certain_unit(name: str, given: str | None, numbers: Numbers) -> Unit | None:
    """Return the unit that the user, the name or the size of dates says; None where none of them does."""
    said = given or named_unit(name)
    if said is not None:
        ticks = TICKS_PER_S[said]
        is_date = _in(numbers.low / ticks, EPOCH_S)
        why = "as given" if given else f"as {name} is named"
        return Unit(name=said, ticks_per_s=ticks, is_date=is_date, why=why)
    for unit in ("s", "ms", "us", "ns"):
        ticks = TICKS_PER_S[unit]
        if _in(numbers.low / ticks, EPOCH_S) and _in(numbers.high / ticks, EPOCH_S):
            return Unit(
                name=unit,
                ticks_per_s=ticks,
                is_date=True,
                why=f"{UNIT_WORDS[unit]} since 1970 by their size",
            )
    return None


def unit_by_evidence(numbers: Numbers, usual: str | None, name: str, where: str) -> Unit:
    """Return the unit of times that count from a zero of their own; `numbers` are those of the whole log.

    `usual` is the unit that logs with these columns have, None for unknown. Raises InputError that asks
    where more than one unit can be.
    """
    by_digits = "s" if numbers.has_fractions else None
    if numbers.rows < FEWEST_TO_JUDGE or numbers.span <= 0:
        return _relative(by_digits or usual or "s", "for want of evidence")
    if _is_spreadsheet(numbers):
        base_s = -25_569 * 86_400.0
        return Unit(
            name="d",
            ticks_per_s=1 / 86_400,
            is_date=True,
            why="as spreadsheets count dates",
            base_s=base_s,
        )
    likely = [unit for unit in _UNITS if _is_likely(numbers, unit)]
    if usual is not None and by_digits not in (None, usual):
        # Its kin count in a finer unit, its digits speak for seconds: asked where both can be.
        if usual in likely or not _can_be(numbers, "s"):
            raise InputError(_question(numbers, ("s", usual), name, where))
        return _relative("s", "numbers with fractions")
    expected = usual or by_digits
    others = [unit for unit in likely if unit != expected]
    finer = [unit for unit in others if expected and TICKS_PER_S[unit] > TICKS_PER_S[expected]]
    if expected is None:
        can_be = [unit for unit in _UNITS if _can_be(numbers, unit)]
        lasting = [unit for unit in can_be if _span_s(numbers, unit) >= SHORTEST_LOG_S]
        found = lasting or can_be
        if len(lasting) > 1 or not found:
            pair = (lasting[0], lasting[1]) if lasting else ("s", "ms")
            raise InputError(_question(numbers, pair, name, where))
        return _relative(found[0], f"no other unit fits {numbers.rows} requests")
    is_sure = expected in likely and (usual == "s" or not finer)
    if is_sure or (_can_be(numbers, expected) and not others):
        why = "numbers with fractions" if usual is None else "as logs with these columns count"
        return _relative(expected, why)
    if _can_be(numbers, expected) or len(others) != 1:
        pair = (expected, others[0] if others else ("ms" if expected == "s" else "s"))
        raise InputError(_question(numbers, pair, name, where))
    return _relative(others[0], f"no other unit fits {numbers.rows} requests")


def _relative(unit: str, why: str) -> Unit:
    return Unit(name=unit, ticks_per_s=TICKS_PER_S[unit], is_date=False, why=why)


def _span_s(numbers: Numbers, unit: str) -> float:
    return numbers.span / TICKS_PER_S[unit]


def _is_spreadsheet(numbers: Numbers) -> bool:
    is_dated = _in(numbers.low, SPREADSHEET_DAYS) and _in(numbers.high, SPREADSHEET_DAYS)
    return is_dated and numbers.has_fractions and not _can_be(numbers, "s")


def _can_be(numbers: Numbers, unit: str) -> bool:
    """Return whether a unit makes a stretch of traffic of the numbers."""
    span_s = _span_s(numbers, unit)
    return span_s <= LONGEST_S and not is_too_fast(numbers.rows, span_s)


def _is_likely(numbers: Numbers, unit: str) -> bool:
    """Return whether a unit makes a usual log of the numbers: a request a minute to 100 a second, for long."""
    span_s = _span_s(numbers, unit)
    rate_rps = numbers.rows / span_s
    is_usual = LEAST_RPS <= rate_rps <= MOST_USUAL_RPS
    return is_usual and (span_s >= SHORTEST_LOG_S or rate_rps <= MOST_USUAL_RPS / 2)


def is_too_fast(rows: int, span_s: float) -> bool:
    """Return whether so many requests in so short a time are no stretch of traffic."""
    most = MOST_RPS_IN_A_MINUTE if rows >= FEWEST_ROWS else 2 * MOST_RPS_IN_A_MINUTE
    return span_s < 60 and rows > most * span_s and rows >= FEWEST_TO_JUDGE


def _in(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _question(numbers: Numbers, units: tuple[str, str], name: str, where: str) -> str:
    readings = " or ".join(
        f"{duration(numbers.span / TICKS_PER_S[unit])} at {numbers.rows * TICKS_PER_S[unit] / numbers.span:.3g} req/s"
        f" in {UNIT_WORDS[unit]}"
        for unit in units
    )
    return (
        f"{where}: the unit of {name} is not told: {numbers.rows} requests, {readings};"
        f" say which: --columns time={name}:{units[0]} (or {', '.join(f':{unit}' for unit in ('s', 'ms', 'us', 'ns') if unit != units[0])})"
    )


def duration(seconds: float) -> str:
    """Return a time for people.

    >>> duration(0.596), duration(596), duration(86400 * 6.9), duration(6.1e9)
    ('0.596 s', '9.93 min', '6.9 days', '193 years')
    """
    for limit, size, word in (
        (120, 1, "s"),
        (7200, 60, "min"),
        (172_800, 3600, "hours"),
        (6.3e7, 86_400, "days"),
    ):
        if seconds < limit:
            return f"{seconds / size:.3g} {word}"
    return f"{seconds / 31_557_600:.3g} years"
