"""A trace file read as what it is, as a stream of blocks in memory that does not grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from melange_sky.errors import InputError, clip
from melange_sky.traces.block import Reading, Tally, TraceBlock, TraceRequest
from melange_sky.traces.clock import DateClock, NumberClock, date_clock
from melange_sky.traces.columns import Columns, are_counts, hash_ids_of, is_number, texts_of
from melange_sky.traces.csv_table import csv_table, names_its_columns
from melange_sky.traces.evidence import Evidence, numbers_of, usual_unit
from melange_sky.traces.json_table import json_table
from melange_sky.traces.outcome import failed, not_understood
from melange_sky.traces.parquet_table import ParquetTable
from melange_sky.traces.records import CHARACTERS_PER_TOKEN
from melange_sky.traces.roles import Mapping, map_columns
from melange_sky.traces.sample import Sample
from melange_sky.traces.source import Source, reading_errors, source_of
from melange_sky.traces.stamps import looks_like_times
from melange_sky.traces.tokens import MAX_TOKENS, RULE, counts, is_blank
from melange_sky.traces.units import Unit, certain_unit
from melange_sky.workload import AS_FOUND, TraceOptions

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from melange_sky.traces.table import Chunk, Table

LARGEST_TIME_S = 1e15
EXTRAS = ("session", "hash_ids")
"""Columns that are read only where they are asked for."""


class _Wrong(NamedTuple):
    """What is wrong with a row of a chunk."""

    row: int
    why: str


class TraceReader:
    """One trace file: what it was read as (`reading`), its requests (`blocks`), and then what its rows were (`tally`)."""

    def __init__(
        self,
        path: Path,
        options: TraceOptions = AS_FOUND,
        extras: Sequence[str] = (),
        *,
        proves_later: bool = False,
    ) -> None:
        """Look at how the file begins; InputError for one that cannot be read, or not be told what it is.

        `proves_later`: a large file may be read in the unit of times that is likely by how it begins, and
        `prove` is asked when its blocks have been; else it is read twice where all of it must tell the unit.
        """
        self.path = path
        self.options = options
        self.tally = Tally()
        self._evidence: Evidence | None = None
        with reading_errors(path):
            source = source_of(path)
            if not source.head.strip():
                raise InputError(f"{path}: the trace is empty")
            self._table = _table(source, options)
            sample = self._table.sample()
            mapping = map_columns(sample, options, self._table.begins)
            self._columns = Columns.of(mapping, extras)
            self._source = source
            self._clock = self._clock_of(mapping, sample, proves_later)
        self._mapping = mapping

    @property
    def reading(self) -> Reading:
        """As what the file is read."""
        mapping, clock = self._mapping, self._clock
        roles = {
            "time": mapping.time,
            "input": (*mapping.input[:1], *mapping.added),
            "output": mapping.output[:1],
            "status": mapping.status,
        }
        return Reading(
            kind=self._table.kind,
            columns=tuple(
                (role, " + ".join(column.name for column in found))
                for role, found in roles.items()
                if found
            ),
            clock=None if clock is None else clock.told,
            is_wall_clock=clock is not None and clock.is_wall_clock,
            zone_shift_s=0.0 if clock is None else clock.zone_shift_s,
            written=self._source.written,
            notes=tuple(self._notes()),
            extras=tuple(name for name in EXTRAS if getattr(mapping, name)),
        )

    def _notes(self) -> Iterator[str]:
        if self._mapping.is_end:
            yield f"{self._mapping.time[0].name} tells when requests ended, not when they came: no other time is there"
        counted = (self._mapping.input[0], self._mapping.output[0])
        if any(column.path[0] == "estimated" for column in counted):
            yield (
                f"token counts are estimated from texts at {CHARACTERS_PER_TOKEN:g} characters a token (English;"
                " count them with the model's tokenizer for other languages or code)"
            )
        if isinstance(self._clock, DateClock) and self._clock.went_back:
            yield (
                "its clock went back by most of an hour: where summer time ended, name the zone by --timezone"
            )

    def blocks(self) -> Iterator[TraceBlock]:
        """Yield the requests in file order; InputError for the first row that cannot be read, with its line."""
        self.tally = Tally()
        if isinstance(self._clock, DateClock):
            self._clock.restart()
        if self._evidence is not None:
            self._evidence.seen = None
        try:
            with reading_errors(self.path):
                for chunk in self._table.chunks(self._columns.all, self._columns.numeric):
                    if self._evidence is not None:
                        self._evidence.add(chunk.frame[str(self._columns.time)])
                    block = self._block(chunk)
                    if len(block):
                        yield block
        except InputError:
            # What is wrong with a row may be wrong in the likely unit only.
            if self._evidence is None or self._is_read_in(self._whole(self._evidence)):
                raise

    def prove(self) -> bool:
        """Return whether the blocks were read in the unit that all of the file proves; if not, read them again.

        InputError that asks for the unit where the file does not tell it.
        """
        evidence, self._evidence = self._evidence, None
        if evidence is None:
            return True
        unit = evidence.unit()
        was_right = self._is_read_in(unit)
        self._clock = NumberClock(unit=unit)
        return was_right

    def _is_read_in(self, unit: Unit) -> bool:
        clock = self._clock
        return isinstance(clock, NumberClock) and replace(clock.unit, why=unit.why) == unit

    def _block(self, chunk: Chunk) -> TraceBlock:
        columns, frame = self._columns, chunk.frame
        wrong = [] if chunk.wrong is None else [_Wrong(*chunk.wrong)]
        given = self._counts(frame, columns.input, wrong)
        for k in columns.added:
            given = given + np.nan_to_num(self._counts(frame, (k,), wrong))
        answered = self._counts(frame, columns.output, wrong)
        is_kept = self._sorted_out(frame, given, answered)
        wrong += self._without_input(given, is_kept)
        arrival_s = self._times(frame, is_kept, wrong)
        if wrong:
            first = min(wrong, key=lambda one: one.row)
            raise InputError(f"{self.path}: {chunk.where(first.row)}: {first.why}")
        self.tally.requests += int(np.count_nonzero(is_kept))
        rows: Any = slice(None) if is_kept.all() else np.flatnonzero(is_kept)
        return TraceBlock(
            arrival_s=arrival_s[rows],
            input_tokens=given[rows].astype(np.int64),
            output_tokens=np.nan_to_num(answered[rows]).astype(np.int64),
            session=texts_of(frame, columns.session, rows),
            hash_ids=hash_ids_of(frame, columns.hash_ids, rows),
        )

    def _sorted_out(
        self, frame: pl.DataFrame, given: NDArray[np.float64], answered: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Tally the rows and return which of them count, of shape (rows,)."""
        has_status = bool(self._columns.status)
        if not has_status and len(given) and given.min() >= 0 and answered.min() > 0:
            return np.ones(len(given), dtype=np.bool_)  # none is NaN: all were answered
        is_failed = self._failed(frame)
        is_other = np.isnan(given) & np.isnan(answered) & ~is_failed
        is_empty = ~is_failed & ~is_other & ~(answered > 0)
        is_failed |= is_empty
        is_kept = ~is_failed & ~is_other
        if self.options.keep_failed:
            is_kept |= is_failed & ~np.isnan(given)
        self.tally.other += int(np.count_nonzero(is_other))
        self.tally.failed += int(np.count_nonzero(is_failed))
        self.tally.without_output += int(np.count_nonzero(is_empty))
        self.tally.left_out += int(np.count_nonzero(is_failed & ~is_kept))
        return is_kept

    def _failed(self, frame: pl.DataFrame) -> NDArray[np.bool_]:
        import polars as pl

        if not self._columns.status:
            return np.zeros(len(frame), dtype=np.bool_)
        pairs = [
            (self._columns.all[k], pl.col(str(k)).cast(pl.String)) for k in self._columns.status
        ]
        for column, text in pairs:
            odd = frame.filter(not_understood(column, text)).select(text).to_series()
            self.tally.odd_status.update(odd.drop_nulls().to_list())
        found = frame.select(reduce(or_, (failed(column, text) for column, text in pairs)))
        is_failed: NDArray[np.bool_] = found.to_series().to_numpy().copy()
        return is_failed

    def _counts(
        self, frame: pl.DataFrame, places: Sequence[int], wrong: list[_Wrong]
    ) -> NDArray[np.float64]:
        """Return token counts of shape (rows,), NaN where none is there; note the first that is no count."""
        import polars as pl

        plain = frame.get_column(str(places[0]))
        if len(places) == 1 and plain.dtype == pl.Float64 and not plain.null_count():
            counted: NDArray[np.float64] = plain.to_numpy()
            if are_counts(counted):
                return counted
        parts, odd = [], []
        for k in places:
            cell = pl.col(str(k))
            if frame.schema[str(k)] == pl.String:
                found = counts(cell)
                odd.append(found.is_null() & ~is_blank(cell))
            else:
                found = cell.cast(pl.Float64).fill_nan(None)
            odd.append((found < 0) | (found > MAX_TOKENS) | (found % 1 != 0))
            parts.append(found)
        known, is_odd = frame.select(
            pl.coalesce(parts).alias("known"),
            reduce(or_, (cells.fill_null(value=False) for cells in odd)).alias("odd"),
        )
        if is_odd.any():
            row = int(is_odd.arg_true()[0])
            name, value = self._columns.all[places[0]].name, frame[row, str(places[0])]
            wrong.append(_Wrong(row, f"{RULE} ({name} is '{clip(str(value), 30)}')"))
        return known.to_numpy().astype(np.float64)

    def _without_input(
        self, given: NDArray[np.float64], is_kept: NDArray[np.bool_]
    ) -> list[_Wrong]:
        missing = np.flatnonzero(is_kept & np.isnan(given))
        if not len(missing):
            return []
        name = self._mapping.input[0].name
        return [_Wrong(int(missing[0]), f"{name} is empty, though the request was answered")]

    def _times(
        self, frame: pl.DataFrame, is_kept: NDArray[np.bool_], wrong: list[_Wrong]
    ) -> NDArray[np.float64]:
        if self._clock is None or self._columns.time is None:
            return np.full(len(frame), np.nan)
        found, not_a_time = self._clock.seconds(frame[str(self._columns.time)])
        is_odd = is_kept & ~(np.abs(found) < LARGEST_TIME_S)
        if not_a_time is not None:
            wrong.append(_Wrong(*not_a_time))
            is_odd[not_a_time.row :] = False
        odd = np.flatnonzero(is_odd)
        if len(odd):
            row, name = int(odd[0]), self._mapping.time[0].name
            is_empty = np.isnan(found[row])
            why = f"{name} is empty" if is_empty else "the time is not a finite number"
            wrong.append(_Wrong(row, why))
        return found

    def _clock_of(
        self, mapping: Mapping, sample: Sample, proves_later: bool
    ) -> NumberClock | DateClock | None:
        if not mapping.time or not mapping.time[0].values:
            return None
        column = mapping.time[0]
        where = self._table.begins
        if not looks_like_times(column.values):
            shown = next(
                (f", but such as '{clip(str(value), 30)}'" for value in column.present), ""
            )
            raise InputError(
                f"{where}: {column.name} holds no times{shown}; name the column by --columns time=…"
            )
        if not is_number(column):
            return date_clock(column.values, self.options.timezone)
        first = numbers_of(column)
        unit = certain_unit(column.name, self.options.unit, first)
        if unit is None:
            evidence = Evidence(
                first=first, usual=usual_unit(sample), name=column.name, where=str(self.path)
            )
            likely = evidence.likely_unit(self._source) if proves_later else None
            if likely is not None:
                self._evidence = evidence
            unit = likely or self._whole(evidence)
        return NumberClock(unit=unit)

    def _whole(self, evidence: Evidence) -> Unit:
        """Read the times of the whole file and return the unit that they prove."""
        evidence.seen = None
        place = self._columns.time
        assert place is not None
        column, is_numeric = self._columns.all[place], self._columns.numeric[place]
        with reading_errors(self.path):
            for chunk in self._table.chunks([column], [is_numeric]):
                evidence.add(chunk.frame["0"])
        return evidence.unit()


def _table(source: Source, options: TraceOptions) -> Table:
    if source.is_parquet:
        if source.packing:
            raise InputError(f"{source.path}: Parquet within {source.packing}; unpack it first")
        return ParquetTable(source=source)
    if names_its_columns(source, options):
        return csv_table(source, options)
    from melange_sky.traces.server_log import (
        form_of,
        server_log,
    )  # what engines write: slow to load

    form = form_of(source)
    if form is not None:
        return server_log(source, form)
    if source.head.lstrip()[:1] in (b"{", b"["):
        return json_table(source, options)
    return csv_table(source, options)


def trace_blocks(
    path: Path, options: TraceOptions = AS_FOUND, extras: Sequence[str] = ()
) -> Iterator[TraceBlock]:
    """Yield the requests of a trace in file order, many at a time, in memory that does not grow.

    `extras`: of ``session`` and ``hash_ids``, what blocks shall hold where the trace has it. Raises
    InputError for a missing file, one that cannot be told what it is, or the first unreadable row.
    """
    yield from TraceReader(path, options, extras).blocks()


def read_trace(path: Path, options: TraceOptions = AS_FOUND) -> Iterator[TraceRequest]:
    """Yield the requests of a trace in file order; raises as `trace_blocks` does."""
    for block in trace_blocks(path, options):
        columns = (block.arrival_s, block.input_tokens, block.output_tokens)
        yield from map(TraceRequest._make, zip(*(c.tolist() for c in columns), strict=True))
