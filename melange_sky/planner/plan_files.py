"""A plan on disk: plan.json read back, or written with its services as one folder."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from melange_sky.planfile import PLAN_FILE, dump_plan, load_plan
from melange_sky.planner.fleet_ids import earlier_fleet_id, new_fleet_id
from melange_sky.plans import RESTARTING
from melange_sky.rendering import (
    GATEWAY_FILE,
    render_gateway,
    render_services,
    service_documents,
    write_folder,
)

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.plans import Plan

log = logging.getLogger(__name__)

__all__ = ["dump_plan", "load_plan", "render_services", "restarts", "write_plan"]


def restarts(planned: Plan, folder: Path) -> tuple[str, ...]:
    """Return what of the services in `folder` would replace running replicas, a sentence for each service.

    Services are compared as SkyServe compares them; one that is new, gone or cannot be read has none.
    """
    lines = []
    for name, after in service_documents(planned).items() if folder.is_dir() else ():
        path = folder / name
        if not path.is_file():
            continue
        try:
            before = _document(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        from melange_sky.skyserve.changes import differences

        mounts = [key for key in RESTARTING if before.get(key) != after.get(key)]
        changed = sorted([*differences(before, after), *mounts])
        if changed:
            lines.append(
                f"{name.removesuffix('.sky.yaml')}: {', '.join(changed)} changed since the plan in {folder}, so"
                " that an update replaces its replicas one by one"
            )
    return tuple(lines)


def _document(text: str) -> dict[str, Any]:
    document = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(document, dict):
        raise ValueError("not a service")
    return document


def write_plan(planned: Plan, folder: Path, *, force: bool = False) -> Plan:
    """Write plan.json, services and gateway task as one folder, all or nothing; return the plan as written.

    It bears the fleet id of the folder's earlier plan of its name, whose services it thus goes on with.
    Raises InputError where the folder holds foreign or edited files and `force` is False.
    """
    known = earlier_fleet_id(planned.name, folder) or planned.fleet_id
    planned = replace(planned, fleet_id=known or new_fleet_id(planned))
    files = {PLAN_FILE: dump_plan(planned), **render_services(planned)}
    if len(files) > 1:
        files[GATEWAY_FILE] = render_gateway(planned)
    write_folder(folder, files, force=force)
    log.info("wrote %d files to %s, fleet %s", len(files), folder, planned.fleet_id)
    log.debug("written: %s", ", ".join(sorted(files)))
    return planned
