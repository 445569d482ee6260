"""A column of times as seconds: numbers by their unit, dates by their zone.

Dates are instants: seconds since the eve of the year 1 in UTC, as `datetime.date.toordinal` counts days. The
spelling that most rows have is parsed in bulk; rows that differ one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from melange_sky.errors import clip
from melange_sky.traces.bulk_stamps import in_bulk, in_one_spelling
from melange_sky.traces.sample import is_missing
from melange_sky.traces.stamps import (
    EPOCH_ORDINAL,
    Stamp,
    is_day_first,
    number,
    offset_at,
    parse,
)
from melange_sky.traces.units import UNIT_WORDS, Unit

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

EPOCH_S = EPOCH_ORDINAL * 86_400.0
_WHICH: tuple[Literal["earliest"], Literal["latest"]] = ("earliest", "latest")
FOLD_BACK_S = 600.0
"""How far a clock must fall back within the hour that comes twice to be in its second time: logs that are
sorted by when requests ended are out of order by less."""

MOST_OF_AN_HOUR_S = 1500.0


class NotATime(NamedTuple):
    """A cell that is no time: its row, and what is wrong."""

    row: int
    why: str


Seconds = tuple["NDArray[np.float64]", "NotATime | None"]
"""Seconds of shape (rows,), NaN where a cell is missing or no time; and the first cell that is no time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberClock:
    """Times that are numbers."""

    unit: Unit

    @property
    def is_wall_clock(self) -> bool:
        """Whether times are dates."""
        return self.unit.is_date

    @property
    def told(self) -> str:
        """Unit and zone for people."""
        since = " since 1970, UTC" if self.unit.is_date and self.unit.name != "d" else ""
        return f"{UNIT_WORDS[self.unit.name]}{since} ({self.unit.why})"

    @property
    def zone_shift_s(self) -> float:
        """Seconds by which the log's own clock is ahead of UTC."""
        return 0.0

    def seconds(self, cells: pl.Series) -> Seconds:
        """Return cells as seconds."""
        import polars as pl

        numbers, wrong = (cells, None) if cells.dtype.is_numeric() else _numbers(cells)
        found: NDArray[np.float64] = numbers.cast(pl.Float64).to_numpy() / self.unit.ticks_per_s
        return found + (EPOCH_S + self.unit.base_s if self.unit.is_date else 0.0), wrong


def _numbers(cells: pl.Series) -> tuple[pl.Series, NotATime | None]:
    import polars as pl

    found: pl.Series = cells.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
    odd = (found.is_null() & cells.is_not_null()).arg_true().to_list()
    if not odd:
        return found, None
    wrong = None
    values = found.to_list()
    for row in odd:
        values[row] = number(cells[row])
        if values[row] is None and not is_missing(cells[row]) and wrong is None:
            wrong = NotATime(row, f"the time '{clip(str(cells[row]), 30)}' is not a number")
    return pl.Series(values, dtype=pl.Float64), wrong


@dataclass(slots=True, kw_only=True)
class DateClock:
    """Times that are written dates. `zone` is that of dates without one, None for UTC by want of another.

    `day_first`: dates with slashes begin with the day. `has_zones`: the sample's dates name their zones.
    """

    zone: str | None
    day_first: bool
    has_zones: bool
    zone_shift_s: float
    named: str
    is_wall_clock: bool = True
    went_back: int = 0
    _latest_s: float = field(default=-np.inf)
    _is_after_fold: bool = False

    @property
    def told(self) -> str:
        """Unit and zone for people."""
        if self.has_zones:
            return f"dates, {self.named}"
        if self.zone is None:
            return "dates that name no zone, taken as UTC (--timezone says another)"
        return f"dates, {self.zone} as given"

    def seconds(self, cells: pl.Series) -> Seconds:
        """Return cells as instants."""
        import polars as pl

        if cells.dtype in (pl.Datetime, pl.Date):
            return self._of_datetimes(
                cells.cast(pl.Datetime("us", getattr(cells.dtype, "time_zone", None)))
            )
        found = in_one_spelling(cells)
        if found is not None:
            return self._instants(*found, None)
        clock_s, offset_s = in_bulk(cells)
        odd = np.flatnonzero(np.isnan(clock_s) & cells.is_not_null().to_numpy())
        wrong = None
        for row in odd.tolist():
            text = str(cells[row])
            try:
                stamp = parse(text, day_first=self.day_first, zone_is_known=self.zone is not None)
            except ValueError as error:
                if wrong is None and not is_missing(text):
                    why = str(error)
                    shown = f"'{clip(text, 30)}' is {why}" if why.startswith("not ") else why
                    wrong = NotATime(row, f"the time {shown}")
                continue
            clock_s[row] = stamp.clock_s if stamp.zone is None else stamp.instant_s()
            named_s = np.nan if stamp.offset_s is None else stamp.offset_s
            offset_s[row] = 0.0 if stamp.zone is not None else named_s
        return self._instants(clock_s, offset_s, wrong)

    def restart(self) -> None:
        """Forget the rows read so far: the file is read again."""
        self.went_back, self._latest_s, self._is_after_fold = 0, -np.inf, False

    def _of_datetimes(self, cells: pl.Series) -> Seconds:
        import polars as pl

        has_zone = getattr(cells.dtype, "time_zone", None) is not None
        clock_s = cells.dt.epoch("us").cast(pl.Float64).to_numpy() / 1e6
        offset_s = np.full(len(clock_s), 0.0 if has_zone else np.nan)
        return self._instants(clock_s, offset_s, None)

    def _instants(
        self, clock_s: NDArray[np.float64], offset_s: NDArray[np.float64], wrong: NotATime | None
    ) -> Seconds:
        naive = np.isnan(offset_s) & ~np.isnan(clock_s)
        if self.zone is not None and naive.any():
            rows = np.flatnonzero(naive)
            offset_s[rows], missing = self._offsets(clock_s[rows])
            if missing is not None and (wrong is None or rows[missing.row] < wrong.row):
                wrong = NotATime(int(rows[missing.row]), missing.why)
        elif naive.any():
            self._count_backward(clock_s[naive])
        return clock_s - np.nan_to_num(offset_s) + EPOCH_S, wrong

    def _count_backward(self, clock_s: NDArray[np.float64]) -> None:
        """Count steps back by most of an hour: what a clock without zone shows when summer time ends."""
        steps = np.diff(np.concatenate([[self._latest_s], clock_s]))
        self.went_back += int(np.count_nonzero((steps < -MOST_OF_AN_HOUR_S) & (steps > -3600.0)))
        self._latest_s = float(clock_s[-1])

    def _offsets(self, clock_s: NDArray[np.float64]) -> tuple[NDArray[np.float64], NotATime | None]:
        """Return the seconds east of UTC of times on the zone's own clock, and the first time that it skips.

        An hour that comes twice, when summer time ends, is the first until the clock falls back.
        """
        import polars as pl

        assert self.zone is not None
        if self.zone[0] in "+-":
            return np.full(len(clock_s), offset_at(self.zone, 0.0)), None
        local = pl.Series((clock_s * 1e6).round()).cast(pl.Int64).cast(pl.Datetime("us"))
        first, second = (
            local.dt.replace_time_zone(self.zone, ambiguous=which, non_existent="null")
            for which in _WHICH
        )
        skipped = None
        if first.null_count():
            row = int(first.is_null().arg_true()[0])
            skipped = NotATime(
                row,
                f"the time {local[row]:%Y-%m-%d %H:%M} does not exist in {self.zone}, where clocks were set"
                " forward; the log is in another zone",
            )
        offsets: NDArray[np.float64] = (
            clock_s - first.dt.epoch("us").cast(pl.Float64).to_numpy() / 1e6
        )
        later = clock_s - second.dt.epoch("us").cast(pl.Float64).to_numpy() / 1e6
        for row in np.flatnonzero(np.abs(offsets - later) > 1).tolist():
            before_s = clock_s[row - 1] if row else self._latest_s
            self._is_after_fold |= bool(clock_s[row] < before_s - FOLD_BACK_S)
            if self._is_after_fold:
                offsets[row] = later[row]
        self._latest_s = float(clock_s[-1])
        return offsets.round(), skipped


def date_clock(values: Sequence[Any], zone: str | None) -> DateClock:
    """Return the clock of dates such as these."""
    given = [value for value in values if not is_missing(value)]
    texts = [value for value in given if isinstance(value, str)]
    day_first = is_day_first(texts)
    stamps = list(
        filter(None, (_stamp(value, day_first is not False, zone) for value in given[:200]))
    )
    zoned = [stamp for stamp in stamps if stamp.has_zone]
    offsets = {stamp.offset_s for stamp in zoned}
    only = offsets.pop() if len(offsets) == 1 else None
    return DateClock(
        zone=zone,
        day_first=day_first is not False,
        has_zones=len(zoned) == len(stamps) and bool(stamps),
        zone_shift_s=float(only or 0),
        named=_zone_words(zoned, only),
    )


def _stamp(value: Any, day_first: bool, zone: str | None) -> Stamp | None:
    if isinstance(value, datetime):
        found = value.utcoffset()
        offset_s = None if found is None else int(found.total_seconds())
        return Stamp(clock_s=0.0, offset_s=offset_s)
    try:
        return parse(str(value), day_first=day_first, zone_is_known=zone is not None)
    except ValueError:
        return None


def _zone_words(zoned: Sequence[Stamp], only: int | None) -> str:
    if only is None:
        return "each with its own zone"
    if only == 0:
        return "UTC"
    return f"UTC{'+' if only > 0 else '-'}{abs(only) // 3600:02}:{abs(only) % 3600 // 60:02}"
