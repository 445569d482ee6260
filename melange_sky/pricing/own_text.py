"""The text of a CSV file of the user's own, and the digest that tells one content from another."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from melange_sky.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def own_text(path: Path, largest_bytes: int, of: str = "") -> tuple[str, str]:
    """Return a file's text and its digest; `of` says in the error for a folder what the file would hold.

    Raises InputError for a folder, a file that is too large, cannot be read or is not UTF-8.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; a CSV file{of} belongs there")
        if path.stat().st_size > largest_bytes:
            raise InputError(f"{path} is larger than {largest_bytes // 2**20} MiB")
        data = path.read_bytes()
        return data.decode("utf-8-sig"), hashlib.sha256(data).hexdigest()[:12]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from error
