"""What is asked for over time: a CSV of `time,rate_rps[,mix]` as rates of equal steps, in UTC.

In place of `rate_rps` there may be a column `rate_rps:NAME` for each of several models.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.spec.schema import MOST_RPS
from melange_sky.spec.yaml_source import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MOST_BYTES = 64 << 20
MOST_STEPS = 100_000
MOST_TOLD = 20
WEEK_S = 7 * 86_400.0
YEAR_S = 365 * 86_400.0
WEEKS_A_YEAR = 52
OF_A_MODEL = "rate_rps:"

_ZULU = re.compile(r"[zZ]\Z")
_SHORT_OFFSET = re.compile(r"([+-]\d\d)(\d\d)?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class HourlyDemand:
    """Rates over time: step k lasts `step_s` from `starts[k]` on, at `rate_rps[k]` requests per second.

    `starts` are aware, in the offsets that the source wrote, one `step_s` after the other in UTC; not `is_dated`
    where the source tells no dates, and they begin at 1970. `mix` names each step's mix of request sizes; all
    are empty where the spec's own holds throughout. `of_models` are the rates of each model that the source names,
    which add up to `rate_rps`; none where each has its part by the spec's rates. `notes` are what a reader should
    know.
    """

    source: str
    starts: tuple[datetime, ...]
    step_s: float
    rate_rps: tuple[float, ...]
    mix: tuple[str, ...]
    is_dated: bool = True
    of_models: tuple[tuple[str, tuple[float, ...]], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def hours(self) -> float:
        """How long it lasts."""
        return len(self.starts) * self.step_s / 3600

    @property
    def labels(self) -> tuple[str, ...]:
        """The mixes, in the order in which they come."""
        return tuple(dict.fromkeys(self.mix))

    def repeated(self, weeks: int, growth: float) -> HourlyDemand:
        """Return whole weeks of it, repeated over so many, growing by a fraction a year.

        Raises InputError where it does not hold a whole week of whole steps.
        """
        steps = round(WEEK_S / self.step_s)
        if steps * self.step_s != WEEK_S or len(self.starts) < steps:
            raise InputError(
                f"{self.source}: --growth repeats whole weeks, but the demand covers {self.hours:g} hours; give at least 168"
            )
        kept = len(self.starts) // steps * steps
        count = max(weeks * steps, kept)
        first, step = self.starts[0], timedelta(seconds=self.step_s)
        left = len(self.starts) - kept
        notes = (
            (f"{left} steps beyond whole weeks are left out of what is repeated",) if left else ()
        )
        grown = [(1 + growth) ** (n * self.step_s / YEAR_S) for n in range(count)]

        def repeated(rates: Sequence[float]) -> tuple[float, ...]:
            return tuple(rates[n % kept] * by for n, by in enumerate(grown))

        return replace(
            self,
            starts=tuple(first + n * step for n in range(count)),
            rate_rps=repeated(self.rate_rps),
            of_models=tuple((name, repeated(rates)) for name, rates in self.of_models),
            mix=tuple(self.mix[n % kept] for n in range(count)),
            notes=self.notes + notes,
        )


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    start: datetime
    rate_rps: float
    mix: str
    of_models: tuple[tuple[str, float], ...] = ()


def read_demand(path: Path) -> HourlyDemand:
    """Read a CSV of demand; raises InputError with file and line of everything that is wrong with it."""
    rows = list(_rows(path, read_text(path, MOST_BYTES)))
    if len(rows) < 2:
        what = "holds no rows" if not rows else "holds a single row, so that no step can be told"
        raise InputError(f"{path}: {what}; give a row per hour under time,rate_rps")
    step_s = _step_s(rows)
    problems = list(_off_step(path, rows, step_s))
    if problems:
        raise InputError(*_some(path, problems))
    if not any(row.rate_rps > 0 for row in rows):
        raise InputError(f"{path}: every rate is 0: there is nothing to serve")
    return HourlyDemand(
        source=path.name,
        starts=tuple(row.start for row in rows),
        step_s=step_s,
        rate_rps=tuple(row.rate_rps for row in rows),
        mix=tuple(row.mix for row in rows),
        of_models=tuple(
            (name, tuple(row.of_models[n][1] for row in rows))
            for n, (name, _) in enumerate(rows[0].of_models)
        ),
    )


def _rows(path: Path, text: str) -> Iterator[_Row]:
    lines = text.splitlines()
    first = next((n for n, line in enumerate(lines) if line.strip() and line[0] != "#"), None)
    if first is None:
        raise InputError(f"{path}: is empty; give a row per hour under time,rate_rps")
    reader = csv.reader(lines[first:], strict=True)
    problems: list[str] = []
    count = 0
    try:
        columns = _columns(path, first + 1, next(reader))
        for cells in reader:
            if not any(cell.strip() for cell in cells) or cells[0].startswith("#"):
                continue
            line, count = first + reader.line_num, count + 1
            if count > MOST_STEPS:
                raise InputError(
                    f"{path}:{line}: more than {MOST_STEPS} steps; give hours, not requests"
                )
            found = _row(dict(zip(columns, cells, strict=False)), line, columns)
            if isinstance(found, str):
                problems.append(f"{path}:{line}: {found}")
            else:
                yield found
    except csv.Error as error:
        raise InputError(f"{path}:{first + reader.line_num}: is not CSV: {error}") from None
    if problems:
        raise InputError(*_some(path, problems))


def _columns(path: Path, line: int, header: Sequence[str]) -> list[str]:
    columns = [name.strip() for name in header]
    of_models = [name for name in columns if name.startswith(OF_A_MODEL)]
    if of_models and "rate_rps" in columns:
        raise InputError(
            f"{path}:{line}: names both rate_rps and '{clip(of_models[0])}'; give the total of all models, or the rates of each"
        )
    missing = [
        f"{path}:{line}: lacks the column '{name}'{did_you_mean(name, columns)}; the first line must name "
        "time,rate_rps and may name mix"
        for name in ("time", "rate_rps")
        if name not in columns and not (name == "rate_rps" and of_models)
    ]
    known = ("time", "rate_rps", "mix", *dict.fromkeys(of_models))
    twice = [name for name in known if columns.count(name) > 1]
    missing += [f"{path}:{line}: names the column '{clip(name)}' twice" for name in twice]
    if missing:
        raise InputError(*missing)
    return columns


def _row(cells: dict[str, str], line: int, columns: Sequence[str]) -> _Row | str:
    """Return a row, or what is wrong with it."""
    start = _time(cells.get("time", "").strip())
    if isinstance(start, str):
        return start
    named = [name for name in columns if name.startswith(OF_A_MODEL)] or ["rate_rps"]
    rates: list[float] = []
    for name in named:
        rate_rps = _rate(cells.get(name, "").strip(), clip(name))
        if isinstance(rate_rps, str):
            return rate_rps
        rates.append(rate_rps)
    mix = cells.get("mix", "").strip()
    if "mix" in columns and not mix:
        return "mix is empty; name the mix of sizes in every row or in none"
    if len(mix) > 60 or not mix.isprintable():
        return f"mix '{clip(mix)}' must be at most 60 printable characters"
    models = tuple(
        (name.removeprefix(OF_A_MODEL), rate)
        for name, rate in zip(named, rates, strict=True)
        if name != "rate_rps"
    )
    return _Row(line, start, sum(rates), mix, models)


def _time(text: str) -> datetime | str:
    if not text:
        return "time is empty"
    plain = _ZULU.sub("+00:00", text)
    if "T" in plain.upper() or " " in plain:
        plain = _SHORT_OFFSET.sub(lambda found: f"{found[1]}:{found[2] or '00'}", plain)
    try:
        moment = datetime.fromisoformat(plain.replace("t", "T"))
    except ValueError:
        return f"time '{clip(text)}' is not ISO 8601, such as 2026-11-02T09:00:00Z"
    if moment.tzinfo is None:
        return (
            f"time '{clip(text)}' names no offset, so the hour is not known; write {clip(text)}Z for UTC or such as "
            f"{clip(text)}+01:00"
        )
    return moment


def _rate(text: str, name: str) -> float | str:
    if not text:
        return f"{name} is empty; write 0 where nothing is asked"
    try:
        rate_rps = float(text)
    except ValueError:
        return f"{name} '{clip(text)}' is not a number"
    if not math.isfinite(rate_rps):
        return f"{name} '{clip(text)}' is not a finite number"
    if rate_rps < 0:
        return f"{name} is {text}, below 0"
    if rate_rps > MOST_RPS:
        return f"{name} {rate_rps:g} is above {MOST_RPS:g}; requests per second are meant"
    return rate_rps


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc)


def _step_s(rows: Sequence[_Row]) -> float:
    """Return the step that most rows keep to; of equally many the shorter."""
    gaps = Counter(
        (_utc(after.start) - _utc(row.start)).total_seconds() for row, after in pairwise(rows)
    )
    forward = {gap: count for gap, count in gaps.items() if gap > 0}
    return min(forward, key=lambda gap: (-forward[gap], gap), default=3600.0)


def _off_step(path: Path, rows: Sequence[_Row], step_s: float) -> Iterator[str]:
    """Yield every row that does not come one step after the one before."""
    seen: dict[datetime, int] = {}
    for row, before in zip(rows, [None, *rows], strict=False):
        now = _utc(row.start)
        at = f"{path}:{row.line}: {row.start.isoformat()}"
        if now in seen:
            yield (
                f"{at} comes twice: line {seen[now]} has it too (an hour that clocks repeat in autumn needs its own "
                "offset)"
            )
            continue
        seen[now] = row.line
        if before is None:
            continue
        gap_s = (now - _utc(before.start)).total_seconds()
        if gap_s == step_s or before.start == row.start:
            continue
        if gap_s < 0:
            yield f"{at} comes before the line above; sort the rows by time"
        elif gap_s % step_s == 0:
            missing = round(gap_s / step_s) - 1
            are = "step is" if missing == 1 else "steps are"
            yield (
                f"{at}: {missing} {are} missing between this line and the one above (a step is {_told(step_s)}); give "
                "every step, 0 where nothing was asked"
            )
        else:
            yield f"{at} comes {_told(gap_s)} after the line above, but steps are {_told(step_s)}: all must be equal"


def _told(seconds: float) -> str:
    if seconds % 3600 == 0:
        return f"{seconds / 3600:g} h"
    return f"{seconds / 60:g} min" if seconds % 60 == 0 else f"{seconds:g} s"


def _some(path: Path, problems: Sequence[str]) -> list[str]:
    more = len(problems) - MOST_TOLD
    return [*problems[:MOST_TOLD], *([f"{path}: and {more} more"] if more > 0 else [])]
