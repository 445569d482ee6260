"""How a change that was decided is made on SkyServe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.planner.watching.asking import WatchOptions
    from melange_sky.planner.watching.ticking import Actor
    from melange_sky.plans import Plan


def actor_of(folder: Path, planned: Plan, options: WatchOptions) -> Actor:
    """Return what carries changes of a plan folder's fleet out. Raises InputError where nothing can."""
    del folder, planned, options
    raise InputError("--mode apply: changes cannot be made yet; --mode propose writes them down")
