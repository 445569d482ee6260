"""What a folder holds that can be shown: a plan, or a reservation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError
from melange_sky.planner.reserving.document import RESERVE_FILE, SCHEMA_VERSION

if TYPE_CHECKING:
    from pathlib import Path


def saved_reservation(path: Path) -> dict[str, Any] | None:
    """Return the reserve.json of a folder, or that is one; None where there is none.

    Raises InputError where it cannot be read, or is of another version.
    """
    file = path / RESERVE_FILE if path.is_dir() else path
    if file.name != RESERVE_FILE or not file.is_file():
        return None
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{file}: is no reservation of this version; run reserve again")
    return document
