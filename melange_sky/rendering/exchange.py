"""Two folders change places at once; and what a process that was killed left beside a folder is put right."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

STAGED, ASIDE = "-new-", "-old-"
"""What stands in the names of a folder in the making, and of one that is put aside for a moment."""

YOUNG_S = 10.0
"""A folder in the making that is younger than this may be one that is not held as in use yet."""

_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where the system cannot, and nothing has changed.

    Linux: renameat2 with RENAME_EXCHANGE (3.15 and later, most file systems). macOS: renamex_np with
    RENAME_SWAP (APFS).
    """
    paths = os.fsencode(one), os.fsencode(other)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            failed = libc.renamex_np(*paths, _RENAME_SWAP)
        else:
            failed = libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    except (OSError, TypeError, AttributeError):  # no such library, or no such function in it
        return False
    if failed:
        log.debug("no exchange of folders: %s", os.strerror(ctypes.get_errno()))
    return not failed


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Hold a folder in the making as in use, so that no other process takes it for left behind."""
    try:
        import fcntl
    except ImportError:  # Windows, where nothing is recovered either
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def recover(folder: Path) -> None:
    """Put right what a killed process left beside `folder`: put back what was put aside, remove the rest.

    What a living process makes there just now stays.
    """
    if not folder.parent.is_dir():
        return
    for aside in _left(folder, ASIDE):
        if not folder.exists() and any(aside.iterdir()):
            log.warning("%s was put aside and never replaced: it is put back", folder)
            aside.rename(folder)
        else:
            shutil.rmtree(aside, ignore_errors=True)
    for staged in _left(folder, STAGED):
        if time.time() - staged.stat().st_mtime < YOUNG_S:
            continue
        log.info("removed %s, which a process that was killed left behind", staged)
        shutil.rmtree(staged, ignore_errors=True)


def _left(folder: Path, kind: str) -> list[Path]:
    """Return the folders of a kind beside `folder` that no process uses, oldest first."""
    start = f".{folder.name}{kind}"
    with contextlib.suppress(OSError):
        beside = [p for p in folder.parent.iterdir() if p.name.startswith(start)]
        free = [p for p in beside if _is_ours(p, start) and not _is_in_use(p)]
        return sorted(free, key=lambda p: p.stat().st_mtime)
    return []


def _is_ours(path: Path, start: str) -> bool:
    """Return whether a name is of the form that `tempfile.mkdtemp` gives, and no link."""
    return len(path.name) == len(start) + 8 and path.is_dir() and not path.is_symlink()


def _is_in_use(folder: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        return True
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
