"""Reports and pictures of results: files that say themselves who wrote them, wherever they lie.

People put them beside the plan that they show. So a plan folder keeps them, and no plan is refused for one.
"""

from __future__ import annotations

from pathlib import Path

MAKER = "melange-sky"
"""What a picture's own data names as its program."""

REPORT_MARK = f'<meta name="generator" content="{MAKER}'
"""What the head of a report holds."""

_MARKS = {
    ".html": (REPORT_MARK,),
    ".htm": (REPORT_MARK,),
    ".png": (f"Software\0{MAKER}",),
    ".svg": (f"<dc:title>{MAKER}<",),
}
_HEAD = 4096
"""Bytes at the start of a file in which the mark stands."""


def is_shown_result(path: Path) -> bool:
    """Return whether `path` is a report or a picture that we wrote; False also where it cannot be read."""
    marks = _MARKS.get(path.suffix.lower())
    if marks is None or path.is_symlink() or not path.is_file():
        return False
    try:
        head = head_of(path)
    except OSError:
        return False
    return any(mark.encode() in head for mark in marks)


def head_of(path: Path) -> bytes:
    """Return the part of a file in which a mark stands. Raises OSError."""
    with path.open("rb") as file:
        return file.read(_HEAD)
