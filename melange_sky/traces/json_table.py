"""A trace in JSON: a value a line, an array of records, or one document with the records within it.

Lines whose columns lie in plain keys are parsed by Polars, by the block; all else a value at a time.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError, clip
from melange_sky.traces import table
from melange_sky.traces.records import Record, flattened, requests_in
from melange_sky.traces.sample import SAMPLE_ROWS, Column, Sample, sample_of

if TYPE_CHECKING:
    import polars as pl

    from melange_sky.traces.source import Source
    from melange_sky.workload import TraceOptions

MAX_DOCUMENT = 1 << 29
"""Longest JSON document that is one value, in bytes: it is read as a whole."""

_SPACE = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonTable:
    """JSON. `form`: lines, array or document. `is_plain`: every line of the sample is a request by itself."""

    source: Source
    form: str
    is_plain: bool
    named: frozenset[str]
    _sample: Sample = field(repr=False)

    @property
    def kind(self) -> str:
        """What it is, for people."""
        return {"lines": "JSON lines", "array": "JSON array", "document": "JSON document"}[
            self.form
        ]

    @property
    def begins(self) -> str:
        """The file: its keys stand anywhere."""
        return str(self.source.path)

    def sample(self) -> Sample:
        """Return its first rows."""
        return self._sample

    def chunks(self, columns: Sequence[Column], numeric: Sequence[bool]) -> Iterator[table.Chunk]:
        """Yield all rows."""
        paths = [column.path for column in columns]
        if self.form == "lines":
            yield from self._by_block(paths, list(numeric))
        else:
            yield from gathered(_requests(_values(self.source, self.form), self.named), paths)

    def _by_block(self, paths: list[tuple[str, ...]], numeric: list[bool]) -> Iterator[table.Chunk]:
        line = 1
        is_plain = self.is_plain
        size = table.block_bytes(self.source.path)
        with self.source.open() as file:
            while text := file.read(size):
                text += file.readline(table.MAX_LINE)
                frame = _parsed(text, paths, numeric) if is_plain else None
                if frame is None and is_plain:
                    numeric = [False] * len(numeric)
                    frame = _parsed(text, paths, numeric)
                if frame is not None:
                    yield table.Chunk(frame=frame, where=_counting_lines(text, line))
                else:
                    values = _lines(text, line, self.source)
                    yield from gathered(_requests(values, self.named), paths)
                line += text.count(b"\n")


def json_table(source: Source, options: TraceOptions) -> JsonTable:
    """Look at the first values; InputError where a line is no JSON."""
    form = _form(source)
    named = frozenset(name for role, name in options.columns if role in ("input", "output"))
    values = _first_lines(source) if form == "lines" else _values(source, form)
    looked_at = list(itertools.islice(values, SAMPLE_ROWS))
    rows = list(itertools.islice(_requests(iter(looked_at), named), SAMPLE_ROWS))
    return JsonTable(
        source=source,
        form=form,
        is_plain=all(_is_plain(value, named) for _, value in looked_at),
        named=named,
        _sample=sample_of([record for _, record in rows]),
    )


def _is_plain(value: Any, named: frozenset[str]) -> bool:
    """Return whether a value is a request by itself, its columns in keys that lead to them."""
    if not isinstance(value, dict):
        return False
    rows = list(itertools.islice(requests_in(value, named), 2))
    return len(rows) == 1 and rows[0] == flattened(value) and not _has_attributes(value)


def _has_attributes(value: dict[str, Any]) -> bool:
    return any(
        isinstance(inner, list) and inner and isinstance(inner[0], dict) and "key" in inner[0]
        for inner in value.values()
    )


def _form(source: Source) -> str:
    text = source.head.decode(errors="replace").lstrip()
    if text.startswith("["):
        return "array"
    first, _, rest = text.partition("\n")
    try:
        json.loads(first)
    except ValueError:
        # A document in several lines, or a first line that is broken: what follows it says which.
        return "lines" if rest.lstrip().startswith("{") else "document"
    except RecursionError:
        return "document"
    return "lines"


def _first_lines(source: Source) -> Iterator[tuple[str, Any]]:
    """Yield the values of the lines that the head holds whole, or of the first line where it holds none."""
    whole = source.head[: source.head.rfind(b"\n") + 1]
    if not whole:
        with source.open() as file:
            whole = file.readline(table.MAX_LINE)
    yield from _lines(whole, 1, source)


def _lines(text: bytes, first: int, source: Source) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split(b"\n"), start=first):
        if not line.strip():
            continue
        where = f"line {number}"
        if len(line) >= table.MAX_LINE:
            raise InputError(f"{source.path}: {where}: longer than {table.MAX_LINE} characters")
        try:
            value = json.loads(line.decode(errors="replace"))
        except ValueError as error:
            raise InputError(f"{source.path}: {where}: not JSON ({_why(error)})") from None
        except RecursionError:
            raise InputError(f"{source.path}: {where}: nested too deeply") from None
        if not isinstance(value, dict | list):
            raise InputError(f"{source.path}: {where}: is no JSON object: '{clip(str(value), 30)}'")
        yield where, value


def _why(error: ValueError) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else clip(str(error))


def _requests(
    values: Iterator[tuple[str, Any]], named: frozenset[str]
) -> Iterator[tuple[str, Record]]:
    for where, value in values:
        for record in requests_in(value, named):
            yield where, record


def _values(source: Source, form: str) -> Iterator[tuple[str, Any]]:
    """Yield the items of an array, or a document as a whole."""
    if form == "array":
        yield from _items(source)
        return
    with source.open() as file:
        text = file.read(MAX_DOCUMENT + 1)
    if len(text) > MAX_DOCUMENT:
        raise InputError(
            f"{source.path}: one JSON document of more than 512 MiB; write a record a line"
        )
    try:
        yield "the document", json.loads(text.decode(errors="replace"))
    except ValueError as error:
        line = f"line {error.lineno}: " if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{source.path}: {line}not JSON ({_why(error)})") from None
    except RecursionError:
        raise InputError(f"{source.path}: nested too deeply") from None


def _items(source: Source) -> Iterator[tuple[str, Any]]:
    """Yield the items of an array, each as soon as it is read."""
    decoder = json.JSONDecoder()
    with source.open() as file:
        reader = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="")
        text = reader.read(table.BLOCK_BYTES).lstrip()[1:]
        at, number = 0, 0
        while True:
            at = _end(_SPACE, text, at)
            if text.startswith("]", at):
                return
            try:
                value, at = decoder.raw_decode(text, at)
            except ValueError as error:
                more = reader.read(table.BLOCK_BYTES)
                if not more or len(text) - at > table.MAX_LINE:
                    why = "the file is cut off" if not more else _why(error)
                    raise InputError(
                        f"{source.path}: item {number + 1}: not JSON ({why})"
                    ) from None
                text, at = text[at:] + more, 0
                continue
            except RecursionError:
                raise InputError(f"{source.path}: item {number + 1}: nested too deeply") from None
            number += 1
            yield f"item {number}", value


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def gathered(
    rows: Iterator[tuple[str, Record]], paths: list[tuple[str, ...]]
) -> Iterator[table.Chunk]:
    """Yield records, each with its place, as chunks of text: a column per path."""
    import polars as pl

    while some := list(itertools.islice(rows, table.BLOCK_ROWS)):
        frame = pl.DataFrame(
            {
                str(n): [_text(record.get(path)) for _, record in some]
                for n, path in enumerate(paths)
            },
            schema={str(n): pl.String for n in range(len(paths))},
        )
        places = [where for where, _ in some]
        yield table.Chunk(frame=frame, where=places.__getitem__)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _parsed(text: bytes, paths: list[tuple[str, ...]], numeric: list[bool]) -> pl.DataFrame | None:
    """Return lines parsed by Polars, None where one of them is not plain."""
    import polars as pl

    tree: dict[str, Any] = {}
    for path, is_number in zip(paths, numeric, strict=True):
        inner = tree
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                return None
        inner[path[-1]] = pl.Float64 if is_number else pl.String
    try:
        frame = pl.read_ndjson(io.BytesIO(text), schema={k: _dtype(v) for k, v in tree.items()})
        return frame.select(_field(path).alias(str(n)) for n, path in enumerate(paths))
    except pl.exceptions.PolarsError:
        return None


def _dtype(tree: Any) -> Any:
    import polars as pl

    return pl.Struct({k: _dtype(v) for k, v in tree.items()}) if isinstance(tree, dict) else tree


def _field(path: tuple[str, ...]) -> pl.Expr:
    import polars as pl

    found = pl.col(path[0])
    for key in path[1:]:
        found = found.struct.field(key)
    return found


def _counting_lines(text: bytes, first: int) -> Any:
    def where(row: int) -> str:
        numbers = (n for n, line in enumerate(text.split(b"\n"), start=first) if line.strip())
        return f"line {next(itertools.islice(numbers, row, None), first)}"

    return where
