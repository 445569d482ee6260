"""From flags to what is looked at: the sources of a fleet's looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.errors import InputError

if TYPE_CHECKING:
    from melange_sky.planner.watching.asking import WatchOptions
    from melange_sky.planner.watching.ticking import Source
    from melange_sky.plans import Plan


def source_of(options: WatchOptions, planned: Plan) -> Source:
    """Return what the options name. Raises InputError where that cannot be read."""
    del planned
    flags = ("observed", "gateway", "metrics", "prometheus")
    given = [f"--{name}" for name in flags if getattr(options, name)]
    if not given:
        raise InputError(
            "give --observed FILE, --gateway URL, --metrics URL or --prometheus URL: where the traffic is seen"
        )
    raise InputError(f"{given[0]}: cannot be followed yet; --replay TRACE plays a trace")
