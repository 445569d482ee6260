"""Whether watched files are still those that were read."""

from __future__ import annotations

from pathlib import Path

Stamp = tuple[int, int]
"""When a file was written, and which one it is."""


def stamps_of(paths: tuple[Path, ...]) -> list[Stamp | None]:
    """Return the stamp of each file, None where there is none."""
    return [_stamp(path) for path in paths]


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
