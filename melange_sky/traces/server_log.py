"""Request logs of the servers themselves, read as a table of requests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from melange_sky.engines.request_log import (
    EVENT,
    LogForm,
    Request,
    Sizes,
    log_form,
    stamp_before,
)
from melange_sky.errors import InputError
from melange_sky.traces import table
from melange_sky.traces.json_table import gathered
from melange_sky.traces.records import CHARACTERS_PER_TOKEN, Record
from melange_sky.traces.sample import SAMPLE_ROWS, Column, Sample, sample_of

if TYPE_CHECKING:
    from melange_sky.traces.source import Source

_LOOKED_AT_BYTES = 1 << 26
_LEAST_CUT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLog:
    """A log of a server. `year`: that of its first date, None where dates name theirs.

    `is_estimated`: of input and output, whether token counts come from the length of texts.
    """

    source: Source
    form: LogForm
    year: int | None
    is_estimated: tuple[bool, bool]
    _sample: Sample = field(repr=False)

    @property
    def kind(self) -> str:
        """What it is, for people."""
        year = "" if self.year is None else f", its dates without a year from {self.year} on"
        return f"{self.form.title} request log{year}"

    @property
    def begins(self) -> str:
        """The file: requests begin anywhere."""
        return str(self.source.path)

    def sample(self) -> Sample:
        """Return its first requests."""
        return self._sample

    def chunks(self, columns: Sequence[Column], numeric: Sequence[bool]) -> Iterator[table.Chunk]:
        """Yield all requests, in the order in which they were answered."""
        found = _requests(self.source, self.form, self.year)
        rows = ((where, _record(request, self.is_estimated)) for where, request in found)
        yield from gathered(rows, [column.path for column in columns])


def form_of(source: Source) -> LogForm | None:
    """Return whose log a file is by how it begins, None for no server's."""
    return log_form(source.head.decode(errors="replace"))


def server_log(source: Source, form: LogForm) -> ServerLog:
    """Look at the first requests; InputError that says which flag is missing where the log lacks their sizes."""
    year = _first_year(source)
    looked_at = _requests(source, form, year, _LOOKED_AT_BYTES)
    requests = [request for _, request in itertools.islice(looked_at, SAMPLE_ROWS)]
    why = form.missing(requests)
    if why is None:
        sides = [[r.input for r in requests], [r.output for r in requests if r.is_answered]]
        why = next(filter(None, map(_cut_at, ("prompts", "answers"), sides)), None)
    if why is not None:
        raise InputError(f"{source.path}: a log of {form.title} {why}")
    is_estimated = (
        any(r.input.tokens is None for r in requests if r.is_answered and r.is_begun),
        any(r.output.tokens is None for r in requests if r.is_answered and r.is_begun),
    )
    return ServerLog(
        source=source,
        form=form,
        year=year,
        is_estimated=is_estimated,
        _sample=sample_of([_record(request, is_estimated) for request in requests]),
    )


def _cut_at(what: str, sizes: list[Sizes]) -> str | None:
    """Return what to say of texts that --max-log-len has cut off, None for whole ones.

    It cuts text to as many characters as token ids to tokens: no text has that by itself, again and again.
    """
    lengths = [s.characters for s in sizes if s.characters]
    longest = max(lengths, default=0)
    if longest < _LEAST_CUT:
        return None
    both = sum(s.characters == s.tokens == longest for s in sizes)
    texts = {s.text_hash for s in sizes if s.characters == longest and s.tokens is None}
    if both < 2 and len(texts) < max(3, 0.05 * len(sizes)):
        return None
    return (
        f"whose {what} are cut off at {longest} characters and tokens;"
        " its server writes them whole without --max-log-len"
    )


def _record(request: Request, is_estimated: tuple[bool, bool]) -> Record:
    found: Record = {("time",): request.stamp, ("finish_reason",): request.finish}
    sides = (("input_tokens", request.input), ("output_tokens", request.output))
    for (name, sizes), by_text in zip(sides, is_estimated, strict=True):
        count = sizes.tokens
        if count is None and by_text and sizes.characters is not None:
            count = max(1, round(sizes.characters / CHARACTERS_PER_TOKEN))
        told = count if request.is_begun else None
        found[("estimated", name) if by_text else (name,)] = told
    return found


def _requests(
    source: Source, form: LogForm, year: int | None, most_bytes: int | None = None
) -> Iterator[tuple[str, Request]]:
    """Yield requests as they are answered, then those that never were; each with the line that told it last."""
    begun: dict[str, Request] = {}
    dates = _Dates(year)
    number, size = 0, 0
    with source.open() as file:
        while line := file.readline(table.MAX_LINE):
            number += 1
            size += len(line)
            if most_bytes is not None and size > most_bytes:
                break
            text = line.decode(errors="replace")
            event = EVENT.match(text)
            if event is None:
                continue
            done = form.read(event["what"], text[event.end() :], dates.of(event["before"]), begun)
            if done is not None:
                yield f"line {number}", done
    yield from ((f"line {number}", request) for request in begun.values())


class _Dates:
    """Dates of lines in their order; those without a year follow each other from `year` on."""

    def __init__(self, year: int | None) -> None:
        self._year = year
        self._month = 0

    def of(self, before: str) -> datetime | None:
        """Return the date that stands before a message."""
        stamp = stamp_before(before)
        if stamp is None or self._year is None or isinstance(stamp, datetime):
            return stamp if isinstance(stamp, datetime) else None
        month = int(stamp[:2])
        if month < self._month - 6:
            self._year += 1
        self._month = month
        return _dated(self._year, stamp)


def _dated(year: int, stamp: str) -> datetime | None:
    try:
        return datetime.strptime(f"{year}-{stamp}", "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return None


def _first_year(source: Source) -> int | None:
    """Return the latest year in which the first request's date is not in the future; None where it has its own."""
    for line in source.head.decode(errors="replace").split("\n"):
        event = EVENT.match(line)
        stamp = None if event is None else stamp_before(event["before"])
        if isinstance(stamp, datetime):
            return None
        if stamp is not None:
            latest = datetime.now() + timedelta(days=1)
            years = range(latest.year, latest.year - 9, -1)
            dates = ((year, _dated(year, stamp)) for year in years)
            return next((year for year, at in dates if at is not None and at <= latest), None)
    return None
