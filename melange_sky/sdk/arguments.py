"""What callers may pass: paths as text, specs as dicts, plans as files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from melange_sky.planner.plan_files import load_plan
from melange_sky.plans import Plan

AnyPath = str | os.PathLike[str]
AnySpec = AnyPath | Mapping[str, Any]
AnyPlan = AnyPath | Plan


def path_of(path: AnyPath | None) -> Path | None:
    """Return a path, None for none."""
    return None if path is None else Path(path)


def source_of(spec: AnySpec) -> Path | Mapping[str, Any]:
    """Return a spec's file as a path, or its mapping as it is."""
    return spec if isinstance(spec, Mapping) else Path(spec)


def plan_of(plan: AnyPlan) -> Plan:
    """Return a plan, read from its plan.json or folder where it is not one already."""
    return plan if isinstance(plan, Plan) else load_plan(Path(plan))
