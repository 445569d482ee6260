"""Write what a command was asked to write: one text file whole or not at all, a folder for several."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from melange_sky.errors import InputError

log = logging.getLogger(__name__)


def write_text(path: Path, text: str) -> None:
    """Write a temporary file next to `path` and move it into place; raises InputError where that is not possible."""
    try:
        mode = path.stat().st_mode & 0o777 if path.is_file() else 0o666 & ~_umask()
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            Path(name).chmod(mode)
            os.replace(name, path)  # noqa: PTH105
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    log.info("wrote %s, %d characters", path, len(text))


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
