"""`plan.json`: the plan on disk, written and read back without loss.

The document holds all that rendering, simulating, explaining and reporting need. Every number's
origin stands next to it: price (source, as-of), capacity (origin per cell), solver (status, gap).
Reading needs pydantic and writing does not: `melange_sky.planfile.read` is imported when used.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.planfile.write import allocation_origin, dump_plan, plan_document

if TYPE_CHECKING:
    from melange_sky.plans import Plan

log = logging.getLogger(__name__)

PLAN_FILE = "plan.json"
FLEET_ID = "^[0-9a-f]{12}$"
"""What a fleet's id looks like."""

__all__ = [
    "FLEET_ID",
    "PLAN_FILE",
    "allocation_origin",
    "dump_plan",
    "load_document",
    "load_plan",
    "parse_plan",
    "plan_document",
]


def load_plan(path: Path) -> Plan:
    """Read a `plan.json`, or the one inside a plan folder; anything wrong is one InputError."""
    from melange_sky.planfile import read

    plan = read.load_plan(path)
    log.info("read plan %s of %s from %s", plan.name, plan.created_at, path)
    return plan


def load_document(file: Path) -> tuple[object, bytes]:
    """Return what a JSON file holds, and its bytes; anything wrong is one InputError."""
    from melange_sky.planfile import read

    return read.load_document(file)


def parse_plan(document: object, where: str) -> Plan:
    """Turn a parsed document into a plan; `where` names it in messages."""
    from melange_sky.planfile import read

    return read.parse_plan(document, where)
