"""What a gateway serves as one file: a plan and where its replicas answer, taken together or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.planfile import PLAN_FILE, load_document, parse_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melange_sky.plans import Plan

log = logging.getLogger(__name__)

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A plan as a file holds it. `backends`: URLs by PLAN/OPTION where it is a routes file, else None.

    `revision` names the file's content, None where there is no file.
    """

    plan: Plan
    backends: Mapping[str, Sequence[str]] | None
    revision: str | None


def read_served(path: Path) -> Served:
    """Read a plan.json, the one in a plan folder, or a routes file; anything wrong is one InputError."""
    file = path / PLAN_FILE if path.is_dir() else path
    document, content = load_document(file)
    revision = revision_of(content)
    log.info("read %s, revision %s", file, revision)
    if not isinstance(document, dict) or "routes_format" not in document:
        return Served(plan=parse_plan(document, str(file)), backends=None, revision=revision)
    if document["routes_format"] != _FORMAT:
        raise InputError(
            f"{file}: routes_format must be {_FORMAT}; write it again with this version"
        )
    plan = parse_plan(document.get("plan"), f"{file}: plan")
    backends = _urls(document.get("backends"), str(file))
    return Served(plan=plan, backends=backends, revision=revision)


def routes_text(plan_file: Path, backends: Mapping[str, Sequence[str]]) -> str:
    """Return a routes file of the plan in a file, as it stands there, and its backends by PLAN/OPTION."""
    document, _ = load_document(plan_file)
    routes = {"routes_format": _FORMAT, "backends": backends, "plan": document}
    return json.dumps(routes, allow_nan=False) + "\n"


def revision_of(content: bytes) -> str:
    """Return the name of a file's content, by which `/health` of a gateway says what it serves."""
    return hashlib.sha256(content).hexdigest()[:16]


def _urls(value: object, where: str) -> dict[str, list[str]]:
    if not isinstance(value, dict) or not all(
        isinstance(urls, list) and all(isinstance(url, str) for url in urls)
        for urls in value.values()
    ):
        raise InputError(f"{where}: backends: must be lists of URLs by PLAN/OPTION")
    return value
