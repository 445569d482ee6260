"""Write what a command was asked to write: one text file whole or not at all, a folder for several."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from melange_sky.errors import InputError
from melange_sky.rendering.shown import REPORT_MARK, head_of

log = logging.getLogger(__name__)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 as `write_bytes` does."""
    write_bytes(path, text.encode())


def check_target(path: Path, *, report: bool = False) -> None:
    """Raise InputError, before any work, where no file can be written at `path`.

    A `report` replaces reports alone: a name typed wrong must not cost a spec.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written (there is no folder {path.parent})")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    if report and path.exists():
        try:
            head = head_of(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
        if head and REPORT_MARK.encode() not in head:
            raise InputError(
                f"{path}: is there already and no report of melange-sky; name another file"
            )


def write_bytes(path: Path, data: bytes) -> None:
    """Write a temporary file next to `path` and move it into place; raises InputError where that is not possible."""
    try:
        mode = path.stat().st_mode & 0o777 if path.is_file() else 0o666 & ~_umask()
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).chmod(mode)
            os.replace(name, path)  # noqa: PTH105
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    log.info("wrote %s, %d bytes", path, len(data))


def make_folder(folder: Path) -> None:
    """Make a folder, its parents too, unless it is there; InputError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder ({error.strerror})") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
