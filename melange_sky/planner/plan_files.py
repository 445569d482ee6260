"""A plan on disk: plan.json read back, or written with its services as one folder."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from melange_sky.planfile import dump_plan, load_plan
from melange_sky.rendering import GATEWAY_FILE, render_gateway, render_services, write_folder

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.plans import Plan

log = logging.getLogger(__name__)

__all__ = ["dump_plan", "load_plan", "render_services", "write_plan"]


def write_plan(planned: Plan, folder: Path, *, force: bool = False) -> None:
    """Write plan.json, services and gateway task as one folder, all or nothing.

    Raises InputError where the folder holds foreign or edited files and `force` is False.
    """
    files = {"plan.json": dump_plan(planned), **render_services(planned)}
    if len(files) > 1:
        files[GATEWAY_FILE] = render_gateway(planned)
    write_folder(folder, files, force=force)
    log.info("wrote %d files to %s", len(files), folder)
    log.debug("written: %s", ", ".join(sorted(files)))
