"""A CSV file of one's own terms or instances: opened and taken apart, every fault in a line of its own."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, TypeVar

from melange_sky.errors import InputError, did_you_mean
from melange_sky.pricing.commitments.cells import CellError
from melange_sky.pricing.own_text import own_text
from melange_sky.pricing.units import unit_columns, unit_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")

LARGEST_BYTES = 4 * 1024 * 1024
MOST_FAULTS = 20
"""So many faults of one file are told."""


def read_table(
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str],
    read: Callable[[Mapping[str, str], str], T],
    passed_over: Sequence[str] = (),
) -> tuple[tuple[T, ...], str]:
    """Return what `read` makes of each row (cells by column, and ``file:line``), and the file's hash.

    Columns of no known name are passed over, unless they look like a misspelt one; `passed_over` never do.

    Lines that start with ``#`` are comments. Raises InputError with a line per fault.
    """
    text, digest = own_text(path, LARGEST_BYTES)
    found: list[T] = []
    faults: list[str] = []
    try:
        for where, cells in _rows(path, text, columns, optional, passed_over):
            try:
                if isinstance(cells, str):
                    faults.append(f"{where}: {cells}")
                else:
                    found.append(read(cells, where))
            except CellError as error:
                faults.append(f"{where}: {error}")
    except csv.Error as error:
        raise InputError(*faults, f"{path} is not CSV: {error}") from error
    if len(faults) > MOST_FAULTS:
        more = len(faults) - MOST_FAULTS
        faults = [*faults[:MOST_FAULTS], f"{path}: {more} more rows cannot be used"]
    if faults:
        raise InputError(*faults)
    if not found:
        raise InputError(f"{path} holds no rows: it needs at least one under its header")
    return tuple(found), digest


def _rows(
    path: Path,
    text: str,
    columns: Sequence[str],
    optional: Sequence[str],
    passed_over: Sequence[str],
) -> Iterator[tuple[str, dict[str, str] | str]]:
    """Yield where each row is and its cells, or what is wrong with the row as a whole."""
    lines = text.split("\n")
    start = next((i for i, line in enumerate(lines) if line.strip() and line[0] != "#"), 0)
    reader = csv.reader((line.removesuffix("\r") for line in lines[start:]), strict=True)
    header = [name.strip() for name in next(reader, [])]
    _check_header(path, [h for h in header if h not in passed_over], columns, optional)
    units = unit_columns(header)
    for row in reader:
        if not row or row[0].startswith("#") or not any(cell.strip() for cell in row):
            continue
        where = f"{path}:{start + reader.line_num}"
        if len(row) != len(header):
            yield where, f"{len(row)} cells where the header has {len(header)}"
            continue
        problem = unit_problem(units, row)
        yield where, problem or dict(zip(header, row, strict=True))


def _check_header(
    path: Path, header: Sequence[str], columns: Sequence[str], optional: Sequence[str]
) -> None:
    known = (*columns, *optional)
    problems = [
        f"{path} lacks the column '{name}'{did_you_mean(name, header)}; needed: {', '.join(columns)};"
        f" optional: {', '.join(optional)}"
        for name in columns
        if name not in header
    ]
    for name in header:
        hint = did_you_mean(name, known) if name not in known else ""
        if hint and not problems:
            problems.append(f"{path}: unknown column '{name}'{hint}")
    problems += [f"{path}: the column '{n}' is there twice" for n in known if header.count(n) > 1]
    if problems:
        raise InputError(*problems)
