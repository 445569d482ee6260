"""Request traces, read as a stream: a file larger than memory costs one pass and no more.

Formats, told apart by their first line:

* Azure LLM inference 2023/2024: ``TIMESTAMP,ContextTokens,GeneratedTokens``, wall-clock stamps
* BurstGPT: ``Timestamp,…,Request tokens,Response tokens,…``, seconds
* Mooncake: one JSON object a line with ``timestamp`` (ms), ``input_length``, ``output_length``
* this project's own request logs: ``arrival_s,input_tokens,output_tokens``
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from melange_sky.errors import InputError, clip
from melange_sky.spec.block_parsing import (
    LARGEST_TIME_S,
    MAX_LINE,
    MAX_TOKENS,
    CsvLayout,
    TraceBlock,
    parse_csv,
    parse_json_lines,
)

BLOCK_BYTES = 1 << 19
BLOCK_ROWS = 1 << 15

_COLUMNS = {
    ("timestamp", "contexttokens", "generatedtokens"): "azure",
    ("timestamp", "request tokens", "response tokens"): "burstgpt",
    ("arrival_s", "input_tokens", "output_tokens"): "own",
}
FORMATS = "Azure (TIMESTAMP,ContextTokens,GeneratedTokens), BurstGPT, Mooncake JSONL or arrival_s,input_tokens,output_tokens"


class TraceRequest(NamedTuple):
    """One request of a trace; `arrival_s` counts from the trace's own zero."""

    arrival_s: float
    input_tokens: int
    output_tokens: int


def read_trace(path: Path) -> Iterator[TraceRequest]:
    """Yield the requests of a trace in file order; raises as `trace_blocks` does."""
    for block in trace_blocks(path):
        columns = (block.arrival_s, block.input_tokens, block.output_tokens)
        yield from map(TraceRequest._make, zip(*(c.tolist() for c in columns), strict=True))


def trace_blocks(path: Path) -> Iterator[TraceBlock]:
    """Yield the requests of a trace in file order, many at a time, in memory that does not grow.

    Raises InputError for a missing file, an unknown format, or the first unreadable line, with its
    number.
    """
    try:
        with _open(path) as file:
            yield from _blocks(file, path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such trace file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder where a trace file is expected") from None
    except gzip.BadGzipFile:
        raise InputError(f"{path}: ends in .gz but is not gzip") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "the file is cut off"
        raise InputError(f"{path}: cannot be read ({reason})") from None


def _open(path: Path) -> BinaryIO:
    """Open a trace, unpacked."""
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"))
    return path.open("rb")


def _blocks(file: BinaryIO, path: Path) -> Iterator[TraceBlock]:
    first = _first_line(file)
    if not first:
        raise InputError(f"{path}: the trace is empty")
    if len(first) == MAX_LINE:
        raise InputError(f"{path}: line 1: longer than {MAX_LINE} characters")
    is_json = first.lstrip().startswith(b"{")
    layout = None if is_json else _layout(_text(first), path)
    number = 1 if is_json else 2
    rest = first if is_json else b""
    while text := rest + file.read(BLOCK_BYTES):
        text += file.readline(MAX_LINE)
        block = parse_json_lines(text) if layout is None else parse_csv(text, layout)
        if block is None:
            # A quoted cell may hold line ends: from here on every line is read by itself.
            more = iter(lambda: file.readline(MAX_LINE), b"")
            lines = _bounded(itertools.chain(text.splitlines(keepends=True), more), path, number)
            if layout is None:
                yield from _gathered(_json_lines(lines, path, number))
            else:
                yield from _gathered(_csv_lines(lines, path, number, layout))
            return
        yield block
        number += text.count(b"\n")
        rest = b""


def _first_line(file: BinaryIO) -> bytes:
    return file.readline(MAX_LINE).removeprefix(codecs.BOM_UTF8)


def _gathered(rows: Iterator[TraceRequest]) -> Iterator[TraceBlock]:
    while chunk := list(itertools.islice(rows, BLOCK_ROWS)):
        at, given, answered = zip(*chunk, strict=True)
        yield TraceBlock(
            arrival_s=np.array(at, dtype=np.float64),
            input_tokens=np.array(given, dtype=np.int64),
            output_tokens=np.array(answered, dtype=np.int64),
        )


def _bounded(lines: Iterable[bytes], path: Path, number: int) -> Iterator[str]:
    for line in lines:
        if len(line) >= MAX_LINE:
            raise InputError(f"{path}: line {number}: longer than {MAX_LINE} characters")
        yield _text(line)
        number += 1


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace")


def _json_lines(lines: Iterable[str], path: Path, first: int) -> Iterator[TraceRequest]:
    for number, line in enumerate(lines, start=first):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield _checked(
                float(row["timestamp"]) / 1000, row["input_length"], row["output_length"]
            )
        except KeyError as error:
            raise InputError(
                f"{path}: line {number}: has no {clip(str(error.args[0]))}"
                " (a Mooncake line has timestamp, input_length and output_length)"
            ) from None
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            raise InputError(f"{path}: line {number}: {_why(error)}") from None


def _csv_lines(
    lines: Iterable[str], path: Path, first: int, layout: CsvLayout
) -> Iterator[TraceRequest]:
    stamp = _WallClock() if layout.is_wall_clock else float
    rows = csv.reader(lines, strict=True)
    while True:
        try:
            row = next(rows)
            if not row:
                continue
            yield _checked(stamp(row[layout.time_at]), row[layout.input_at], row[layout.output_at])
        except StopIteration:
            return
        except IndexError:
            raise InputError(
                f"{path}: line {first + rows.line_num - 1}: fewer columns than the header"
            ) from None
        except (ValueError, OverflowError, csv.Error) as error:
            raise InputError(f"{path}: line {first + rows.line_num - 1}: {_why(error)}") from None


def _layout(header: str, path: Path) -> CsvLayout:
    try:
        names = [name.strip().casefold() for name in next(csv.reader([header]))]
    except (csv.Error, StopIteration):
        names = []
    for columns, kind in _COLUMNS.items():
        if all(column in names for column in columns):
            time_at, input_at, output_at = (names.index(column) for column in columns)
            return CsvLayout(
                width=len(names),
                time_at=time_at,
                input_at=input_at,
                output_at=output_at,
                is_wall_clock=kind == "azure",
            )
    raise InputError(f"{path}: line 1: unknown trace header; supported: {FORMATS}")


def has_wall_clock(path: Path) -> bool:
    """Return whether a readable trace's times are dates, so that hours and weekdays mean something."""
    with _open(path) as file:
        first = _first_line(file)
    return not first.lstrip().startswith(b"{") and _layout(_text(first), path).is_wall_clock


class _WallClock:
    """Reads ``YYYY-MM-DD HH:MM:SS.fffffff`` in seconds, any zone suffix left away.

    Every stamp of a trace is in one zone; the day is parsed once per day.
    """

    def __init__(self) -> None:
        self._day = ""
        self._day_s = 0.0

    def __call__(self, text: str) -> float:
        day, clock = text[:10], text[11:]
        if day != self._day:
            self._day_s = date.fromisoformat(day).toordinal() * 86400.0
            self._day = day
        if len(clock) > 8:
            clock = clock.split("+")[0].rstrip("Z")
        hours, minutes, seconds = clock.split(":")
        if not (0 <= int(hours) < 24 and 0 <= int(minutes) < 60):
            raise ValueError("not a time of day")
        return self._day_s + int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _checked(arrival_s: float, input_tokens: Any, output_tokens: Any) -> TraceRequest:
    if not -LARGEST_TIME_S < arrival_s < LARGEST_TIME_S:
        raise ValueError("the time is not a finite number")
    return TraceRequest(arrival_s, _tokens(input_tokens), _tokens(output_tokens))


def _tokens(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("token counts must be whole numbers")
    number = float(value)
    if not (0 <= number <= MAX_TOKENS and number == int(number)):
        raise ValueError(f"token counts must be whole numbers from 0 to {MAX_TOKENS}")
    return int(number)


def _why(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg})"
    if isinstance(error, csv.Error):
        return f"not CSV ({clip(str(error))})"
    text = str(error)
    if text.startswith(("token counts", "the time", "not a")):
        return text
    return "a time or token count is not a number"


def edges_problem(edges: Sequence[int]) -> str | None:
    """Return what is wrong with bucket edges, None for good ones."""
    rising = all(low < high for low, high in itertools.pairwise(edges))
    if len(edges) < 2 or edges[0] < 0 or not rising or edges[-1] > MAX_TOKENS:
        return f"must rise strictly from 0 or more, at most {MAX_TOKENS} tokens"
    return None


def parse_edges(text: str | None, option: str) -> tuple[int, ...] | None:
    """Read ``0,25,100``; None for None. Raises InputError naming `option`."""
    if text is None:
        return None
    try:
        edges = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{option}: '{clip(text)}' must be whole numbers such as 0,25,100"
        ) from None
    wrong = edges_problem(edges)
    if wrong is not None or len(edges) > 201:
        raise InputError(f"{option}: {wrong or 'at most 201 edges'}")
    return edges
