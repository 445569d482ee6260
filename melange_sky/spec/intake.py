"""How a trace was read, for a person to see at once whether it was read right."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError, clip

if TYPE_CHECKING:
    from melange_sky.rates import RateCounter
    from melange_sky.traces import TraceReader

Busiest = tuple[float, float]
"""Rate in req/s, and when it begins in seconds after the first request."""

EPOCH_OF_DATES_S = 719_163 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What a trace was read as, and what its rows were.

    `kinds`, `columns` (pairs of role and name) and `clocks` are those of its files, each once. `first_s` and
    `last_s` are on its own clock, dates as `datetime.date.toordinal` counts. `failed` requests have a status
    that says so or no output token; `left_out` of them do not count.
    `extras`: which of ``session`` and ``hash_ids`` any file names.
    """

    kinds: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    clocks: tuple[str, ...]
    is_wall_clock: bool
    zone_shift_s: float
    failed: int
    without_output: int
    left_out: int
    other: int
    notes: tuple[str, ...] = ()
    extras: frozenset[str] = frozenset()
    first_s: float | None = None
    last_s: float | None = None
    busiest_minute: Busiest | None = None
    busiest_hour: Busiest | None = None

    @property
    def why_empty(self) -> str:
        """Why the trace holds no request that counts."""
        if self.left_out:
            return f"all {self.left_out} requests failed or have no output token; --keep-failed counts them"
        if self.other:
            return f"none of its {self.other} rows holds token counts"
        return "the trace holds no request"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out, and what should be known of the rest."""
        told = []
        if self.failed:
            what = "left out" if self.left_out else "kept"
            told.append(
                f"{self.failed} requests failed ({self.without_output} of them without an output token) and are {what}"
                + ("; --keep-failed counts them as demand" if self.left_out else "")
            )
            if 0 < self.left_out < self.failed:
                told[-1] += f"; {self.left_out} of them without sizes are left out"
        if self.other:
            told.append(f"{self.other} rows hold no token counts and are no requests")
        return (*told, *self.notes)

    def moment(self, at_s: float) -> str:
        """Return a time of the trace's own clock for people; seconds where it has no dates."""
        if not self.is_wall_clock:
            return f"{at_s:.6g} s"
        local_s = at_s - EPOCH_OF_DATES_S + self.zone_shift_s
        try:
            moment = datetime(1970, 1, 1) + timedelta(seconds=round(local_s))
        except OverflowError:  # a date that no calendar has
            return f"{at_s:.6g} s"
        return f"{moment:%Y-%m-%d %H:%M:%S}"


def intake_of(readers: list[TraceReader]) -> Intake:
    """Return how files were read, once their blocks have been."""
    from melange_sky.traces import Tally  # only where a spec names a trace

    readings = [reader.reading for reader in readers]
    tally = Tally()
    for reader in readers:
        tally.add(reader.tally)
    notes = dict.fromkeys(note for reading in readings for note in reading.notes)
    if tally.odd_status:
        words = ", ".join(
            f"'{clip(word, 20)}' ({n})" for word, n in tally.odd_status.most_common(3)
        )
        notes[f"status {words} is not known; these requests count as answered"] = None
    kinds = [
        " ".join(filter(None, (r.kind, f"({r.written})" if r.written else ""))) for r in readings
    ]
    return Intake(
        kinds=tuple(dict.fromkeys(kinds)),
        columns=tuple(dict.fromkeys(pair for reading in readings for pair in reading.columns)),
        clocks=tuple(dict.fromkeys(reading.clock for reading in readings if reading.clock)),
        is_wall_clock=readings[0].is_wall_clock,
        zone_shift_s=readings[0].zone_shift_s,
        failed=tally.failed,
        without_output=tally.without_output,
        left_out=tally.left_out,
        other=tally.other,
        notes=tuple(notes),
        extras=frozenset(name for reading in readings for name in reading.extras),
    )


def busiest_of(rates: RateCounter) -> dict[str, Any]:
    """Return when a trace began, ended and was busiest."""
    return {
        "first_s": rates.first_s,
        "last_s": rates.last_s,
        "busiest_minute": rates.busiest(60),
        "busiest_hour": rates.busiest(3600),
    }


def check_span(
    requests: int, rates: RateCounter, name: str, intake: Intake, *, unit_is_given: bool
) -> None:
    """Refuse a stretch of time that no log covers, and a rate that no stretch of traffic has.

    `unit_is_given`: the user has said the unit, so that the rate is as meant.
    """
    from melange_sky.traces.units import LONGEST_S, duration, is_too_fast

    column = dict(intake.columns).get("time", "time")
    read = f"{column} read as {' and '.join(intake.clocks)}"
    hint = f"say the unit, --columns time={column}:s (or :ms, :us, :ns), or leave the odd rows out"
    if rates.span_s > LONGEST_S:
        raise InputError(
            f"{name}: its times span {duration(rates.span_s)}, from {intake.moment(rates.first_s)} to"
            f" {intake.moment(rates.last_s)}: {read}; {hint}"
        )
    if is_too_fast(requests, rates.span_s) and not unit_is_given:
        rate = f" ({requests / rates.span_s:.4g} req/s)" if rates.span_s else ""
        raise InputError(
            f"{name}: {requests} requests within {duration(rates.span_s)}{rate} are no stretch of traffic:"
            f" {read}; {hint}"
        )
