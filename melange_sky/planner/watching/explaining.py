"""What a journal says: the last decision that mattered, or the last lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError, clip
from melange_sky.watching.journal import JOURNAL_FILE, read_journal

if TYPE_CHECKING:
    from pathlib import Path

LAST = "LAST"


def explained(folder: Path, which: str = LAST) -> tuple[dict[str, Any], ...]:
    """Return lines of a folder's journal: the last that did not keep the fleet, or the last so many.

    Where all keep it, the last. Raises InputError where there is no journal, or `which` is no number.
    """
    path = (folder if folder.is_dir() else folder.parent) / JOURNAL_FILE
    lines = read_journal(path).lines
    if not lines:
        raise InputError(f"{path}: nothing is told there yet; `melange-sky watch` writes it")
    if which.upper() == LAST:
        other = [line for line in lines if line.get("decision") not in (None, "keep")]
        return tuple((other or list(lines))[-1:])
    if not which.isascii() or not which.isdigit() or not int(which):
        raise InputError(f"--explain: '{clip(which)}' must be LAST or a number of lines")
    return lines[-int(which) :]
