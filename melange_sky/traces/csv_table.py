"""A trace in delimited text: comma, semicolon, tab or bar, told by the line that names the columns."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from melange_sky.errors import InputError, clip
from melange_sky.traces import table
from melange_sky.traces.roles import side_of
from melange_sky.traces.sample import SAMPLE_ROWS, Column, Sample
from melange_sky.traces.table import Chunk
from melange_sky.traces.tokens import as_count

if TYPE_CHECKING:
    import polars as pl

    from melange_sky.traces.source import Source
    from melange_sky.workload import TraceOptions

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_BEYOND = "beyond"
_HEADER_WITHIN = 10
"""Lines among which the header is looked for: titles and remarks may stand before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvTable:
    """Delimited text. `header_line` counts from 1, 0 for a file whose columns have no names but numbers."""

    source: Source
    separator: str
    names: tuple[str, ...]
    header_line: int

    @property
    def kind(self) -> str:
        """What it is, for people."""
        return "CSV" if self.separator == "," else f"CSV with {_SEPARATORS[self.separator]}"

    @property
    def begins(self) -> str:
        """The place of its header."""
        return f"{self.source.path}: line {max(1, self.header_line)}"

    def sample(self) -> Sample:
        """Return its first rows."""
        text = self.source.head.decode(errors="replace")
        lines = text.splitlines(keepends=True)[self.header_line :]
        rows = []
        try:
            for row in csv.reader(lines, delimiter=self.separator):
                if row:
                    rows.append(row)
                if len(rows) == SAMPLE_ROWS:
                    break
        except csv.Error:
            pass  # the reader of all rows tells where
        if len(rows) > 1 and len(rows) < SAMPLE_ROWS:
            rows.pop()  # the head may end within it
        columns = tuple(
            Column(path=(name,), values=tuple(row[n] if n < len(row) else None for row in rows))
            for n, name in enumerate(self.names)
        )
        return Sample(columns=columns)

    def chunks(self, columns: Sequence[Column], numeric: Sequence[bool]) -> Iterator[Chunk]:
        """Yield all rows, block by block."""
        places = [self.names.index(column.name) for column in columns]
        reader = _BlockReader(table=self, places=places, numeric=list(numeric))
        with self.source.open() as file:
            for _ in range(self.header_line):
                file.readline(table.MAX_LINE)
            place = [self.header_line + 1]
            for text in whole_records(file, self.source, place):
                yield reader.chunk(text, place[0])
                place[0] += text.count(b"\n")


def names_its_columns(source: Source, options: TraceOptions) -> bool:
    """Return whether the first line is a header beyond doubt: names alone, those of token columns among them."""
    line = source.head.decode(errors="replace").partition("\n")[0].strip()
    names = max((line.split(separator) for separator in _SEPARATORS), key=len)
    plain = all(name.replace("_", "").replace(" ", "").isalnum() for name in names)
    return plain and _score(names, {name.casefold() for _, name in options.columns}) >= 2


def csv_table(source: Source, options: TraceOptions) -> CsvTable:
    """Find the separator and the header: the first line that names the columns of tokens.

    InputError where no line does.
    """
    lines = source.head.decode(errors="replace").splitlines()[:_HEADER_WITHIN]
    wanted = {name.casefold() for _, name in options.columns}
    best = (0, 0, 0, ",", ["?"])
    for number, line in enumerate(lines, start=1):
        for separator in _SEPARATORS:
            names = next(csv.reader([line], delimiter=separator), [])
            score = _score(names, wanted)
            if score > best[0] and len(names) > 1:
                best = (score, -number, number, separator, names)
    if best[0] >= 2:
        return _table(source, best[3], best[4], best[2])
    return _unnamed(source, options, lines)


def _score(names: list[str], wanted: set[str]) -> int:
    """Return how many of the columns that matter a line names."""
    if any(as_count(name) is not None for name in names):
        return 0
    given = sum(name.strip().casefold() in wanted for name in names)
    sides = {side_of((name.strip(),)) for name in names} - {None}
    return max(len(sides), given)


def _unnamed(source: Source, options: TraceOptions, lines: list[str]) -> CsvTable:
    """Return a table whose header names no column of tokens, or that has none: told later, by its columns."""
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    separator = max(_SEPARATORS, key=first.count)
    cells = next(csv.reader([first], delimiter=separator), [])
    if not first.count(separator):
        raise InputError(
            f"{source.path}: line 1: unknown trace header '{clip(first)}'; a trace is CSV with a header, JSON lines,"
            " a JSON array or Parquet, with the time, input and output tokens of each request"
        )
    if sum(as_count(cell) is not None for cell in cells) >= 2:
        numbers = tuple(str(n) for n in range(1, len(cells) + 1))
        if not {name for _, name in options.columns} <= set(numbers):
            shown = ",".join(f"{role}=N" for role in ("time", "input", "output"))
            raise InputError(
                f"{source.path}: line 1: no header; its {len(cells)} columns go by number: --columns {shown}"
            )
        return _table(source, separator, list(numbers), lines.index(first))
    return _table(source, separator, cells, lines.index(first) + 1)


def _is_blank(name: str, kind: pl.DataType) -> pl.Expr:
    import polars as pl

    cell = pl.col(name)
    return cell.is_null() | (cell.str.strip_chars() == "") if kind == pl.String else cell.is_null()


def _table(source: Source, separator: str, names: list[str], line: int) -> CsvTable:
    cleaned: list[str] = []
    for n, name in enumerate(names):
        plain = name.strip() or f"column {n + 1}"
        cleaned.append(plain if plain not in cleaned else f"{plain} ({n + 1})")
    return CsvTable(source=source, separator=separator, names=tuple(cleaned), header_line=line)


def whole_records(file: BinaryIO, source: Source, place: list[int]) -> Iterator[bytes]:
    """Yield blocks that end with a line, and never within quotes; `place` is the line that the next begins at."""
    size = table.block_bytes(source.path)
    while text := file.read(size):
        parts = [text, file.readline(table.MAX_LINE)]
        if b'"' not in text and b'"' not in parts[1]:
            yield b"".join(parts)
            continue
        quotes = text.count(b'"') + parts[1].count(b'"')
        length = 0
        while quotes % 2 and (more := file.readline(table.MAX_LINE)):
            parts.append(more)
            quotes += more.count(b'"')
            length += len(more)
            if length > table.MAX_LINE:
                break
        whole = b"".join(parts)
        if quotes % 2:
            raise InputError(f"{source.path}: {_open_quote(whole, place[0])}")
        yield whole


def _open_quote(text: bytes, line: int) -> str:
    """Return where the last quote that is not closed stands."""
    at = line + text[: text.rfind(b'"')].count(b"\n")
    return f"line {at}: not CSV (a quote is not closed)"


@dataclass(slots=True, kw_only=True)
class _BlockReader:
    """Parses blocks; what is not all numbers in one block is read as text from then on."""

    table: CsvTable
    places: list[int]
    numeric: list[bool]

    def chunk(self, text: bytes, line: int) -> Chunk:
        """Return a block's rows without those that hold nothing."""
        import polars as pl

        frame = self._parsed(text, self.numeric)
        if frame is None:
            self.numeric = [False] * len(self.numeric)
            frame = self._parsed(text, self.numeric)
        if frame is None:
            raise InputError(f"{self.table.source.path}: line {line} and on: not CSV")
        wrong = None
        beyond = frame.drop_in_place(_BEYOND)
        if beyond.null_count() < len(beyond) or any(c.null_count() for c in frame.get_columns()):
            # A short row is null-filled: only a count of its cells tells it from one with empty cells.
            wrong = self._ragged(text, line)
            frame = frame.filter(~pl.all_horizontal(_is_blank(*i) for i in frame.schema.items()))
        return Chunk(frame=frame, where=lambda row: self._where(text, line, row), wrong=wrong)

    def _parsed(self, text: bytes, numeric: list[bool]) -> pl.DataFrame | None:
        """Return a block parsed by Polars with what stands beyond the header's columns, None where a cell
        is no number."""
        import polars as pl

        width = len(self.table.names)
        kinds: dict[str, type[pl.DataType]] = {
            f"column_{n}": pl.String for n in range(1, width + 2)
        }
        names = [f"column_{place + 1}" for place in self.places]
        for name, is_number in zip(names, numeric, strict=True):
            kinds[name] = pl.Float64 if is_number else pl.String
        # The parser takes the width from the first row: one of empty cells is put before it.
        padding = self.table.separator.encode() * width + b"\n"
        try:
            frame = pl.read_csv(
                padding + text,
                has_header=False,
                schema=kinds,
                columns=[*dict.fromkeys(names), f"column_{width + 1}"],
                separator=self.table.separator,
                quote_char='"' if b'"' in text else None,
                encoding="utf8-lossy",
                truncate_ragged_lines=True,
            )
        except pl.exceptions.PolarsError:
            return None
        picked = [frame.get_column(name).slice(1).alias(str(n)) for n, name in enumerate(names)]
        beyond = frame.get_column(f"column_{width + 1}").slice(1).alias(_BEYOND)
        return pl.DataFrame([*picked, beyond])

    def _rows(self, text: bytes, line: int) -> Iterator[tuple[int, list[str]]]:
        lines = io.StringIO(text.decode(errors="replace"), newline="")
        rows = csv.reader(lines, delimiter=self.table.separator)
        while True:
            first = line + rows.line_num
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                raise InputError(
                    f"{self.table.source.path}: line {first}: not CSV ({clip(str(error))})"
                ) from None
            yield first, row

    def _ragged(self, text: bytes, line: int) -> tuple[int, str] | None:
        """Return the first row with too few cells, or with more than the header that hold something."""
        width, last = len(self.table.names), max(self.places)
        rows = (row for _, row in self._rows(text, line) if self._holds_any(row))
        for number, row in enumerate(rows):
            if len(row) <= last:
                return number, f"fewer columns than the header ({len(row)} of {width})"
            if any(cell.strip() for cell in row[width:]):
                why = "a number with separators in it needs quotes"
                return number, f"more columns than the header ({len(row)} of {width}); {why}"
        return None

    def _holds_any(self, cells: list[str]) -> bool:
        return any(cells[place].strip() for place in self.places if place < len(cells))

    def _where(self, text: bytes, line: int, row: int) -> str:
        places = (at for at, cells in self._rows(text, line) if self._holds_any(cells))
        return f"line {next(itertools.islice(places, row, None), line)}"
