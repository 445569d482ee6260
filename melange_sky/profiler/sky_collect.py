"""Merge what jobs sent into the tables of the profile store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from melange_sky.errors import InputError
from melange_sky.profiler.grid import table_path
from melange_sky.profiler.log_transport import unframe
from melange_sky.profiletable import (
    MeasuredCell,
    ProfileTable,
    parse_table,
    read_table,
    write_table,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLog:
    """What a job's log says: whole tables, whether it ended well, its last word, what it left unmeasured."""

    tables: tuple[ProfileTable, ...]
    done: bool
    progress: str | None
    error: str | None
    left: str | None = None


def read_log(text: str, where: str) -> JobLog:
    """Read a job's log; contents that are not tables are left out."""
    tables = (_table(content, where) for content in unframe(text))
    return JobLog(
        tables=tuple(t for t in tables if t is not None),
        done="MELANGE-DONE" in text,
        progress=_last(text, "MELANGE-PROGRESS "),
        error=_last(text, "MELANGE-ERROR "),
        left=_last(text, "MELANGE-LEFT "),
    )


def _table(content: bytes, where: str) -> ProfileTable | None:
    try:
        return parse_table(content.decode("utf-8").splitlines(), where)
    except (InputError, UnicodeDecodeError):
        return None


def _last(text: str, mark: str) -> str | None:
    _, found, rest = text.rpartition(mark)
    line = "".join(c for c in rest.partition("\n")[0] if c.isprintable())
    return line[:300].strip() if found else None


def merge(tables: Iterable[ProfileTable], folder: Path) -> dict[Path, int]:
    """Add cells to the store's tables, the later of two of a size; return new cells per file.

    A cell that is there already, measured at the same time, changes nothing.
    """
    added: dict[Path, int] = {}
    merged: dict[Path, ProfileTable] = {}
    for table in tables:
        path = table_path(folder, table.provenance)
        if path not in merged:
            merged[path] = (
                read_table(path) if path.exists() else replace(table, cells=(), path=path)
            )
        for cell in table.cells:
            grown = _with(merged[path], cell)
            if grown is not None:
                merged[path] = grown
                added[path] = added.get(path, 0) + 1
    for path in added:
        write_table(merged[path], path)
    return added


def _with(table: ProfileTable, cell: MeasuredCell) -> ProfileTable | None:
    old = table.cell(cell.input_tokens, cell.output_tokens)
    if old is not None and old.measured_at >= cell.measured_at:
        return None
    others = tuple(c for c in table.cells if c is not old)
    return replace(table, cells=(*others, cell))
