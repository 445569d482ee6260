"""The id by which a plan's services are told from those of other plans of the same name."""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import TYPE_CHECKING

from melange_sky import settings
from melange_sky.planfile import FLEET_ID, PLAN_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.plans import Plan


def new_fleet_id(planned: Plan) -> str:
    """Return an id that no other fleet has; where the time is fixed, the same for the same work."""
    if settings.source_date_epoch() is None:
        return os.urandom(6).hex()
    work = [(m.name, m.model, m.slo, m.workload) for m in planned.models]
    return hashlib.sha256(repr((planned.name, work)).encode()).hexdigest()[:12]


def earlier_fleet_id(name: str, folder: Path) -> str | None:
    """Return the fleet id of the plan of that name in `folder`, None where there is none to be read."""
    file = folder / PLAN_FILE
    try:
        earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(earlier, dict) or earlier.get("name") != name:
        return None
    known = earlier.get("fleet_id")
    return known if isinstance(known, str) and re.match(FLEET_ID, known) else None
