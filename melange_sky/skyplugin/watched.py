"""What a fleet's watcher last told, from the end of its journal: shown as it stands, its hashes are not checked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from melange_sky.watching.journal import JOURNAL_FILE

if TYPE_CHECKING:
    from pathlib import Path

MOST_SHOWN = 5
"""Decisions and changes that are shown."""

_TAIL_BYTES = 512 * 1024
_LONGEST = 400
_OF_LOOKS = ("time", "decision", "reason", "message")


def last_told(folder: Path) -> dict[str, Any] | None:
    """Return the last look and the last decisions that were not to keep the fleet; None where nobody watches."""
    rows = _rows(folder / JOURNAL_FILE)
    looks = [row for row in rows if row["event"] is None]
    changes = [row for row in rows if row["event"] is not None or row["decision"] != "keep"]
    if not rows:
        return None
    last = {name: looks[-1][name] for name in _OF_LOOKS} if looks else None
    return {"last": last, "changes": changes[: -MOST_SHOWN - 1 : -1]}


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return what the end of a journal holds, oldest first; lines that are none are left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).split(b"\n")
    except OSError:
        return []
    whole = lines[1:-1] if size > _TAIL_BYTES else lines[:-1]
    return [row for line in whole if (row := _row(line)) is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(line)
        row = {
            name: None if told.get(name) is None else str(told[name])[:_LONGEST]
            for name in (*_OF_LOOKS, "event")
        }
        needed = ("time", "message", *(("decision", "reason") if row["event"] is None else ()))
        return None if any(row[name] is None for name in needed) else row
    except (ValueError, RecursionError, AttributeError):
        return None
