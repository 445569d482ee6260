"""The `elastic:` section of a spec: how far SkyServe's own autoscaler may move the replicas of each option."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from melange_sky.plans import Elastic
from melange_sky.spec.schema import ElasticSection

if TYPE_CHECKING:
    from melange_sky.spec.problems import Problems
    from melange_sky.spec.schema import RedundancySection
    from melange_sky.spec.values import Resources

KEY = "elastic"
DELAYS = frozenset({"upscale_delay_s", "downscale_delay_s"})


def read_elastic(
    raw: Any, problems: Problems, resources: Resources | None, redundancy: RedundancySection | None
) -> Elastic | None:
    """Return what is asked for, None for a section that is not there; what is wrong is noted.

    What a rule of the spec forbids at the bounds is refused: rules hold for what runs, not for the plan alone.
    """
    if raw is None:
        return None
    section = problems.section(ElasticSection, raw, (KEY,))
    if section is None:
        return None
    if isinstance(raw, dict) and set(raw) <= DELAYS | {k for k in raw if raw[k] == 1}:
        problems.add((KEY,), "needs min below 1 or max above 1: the planned replicas are 1")
    if resources is not None and section.max > 1:
        for name, value in (
            ("limits", resources.limits),
            ("budget_usd_per_hour", resources.budget_usd_per_hour),
        ):
            if value:
                problems.add(
                    (KEY, "max"),
                    f"more than planned could break resources.{name}, which SkyServe's autoscaler knows nothing of; "
                    "leave one of the two out",
                )
    if redundancy is not None and section.min < 1:
        for name, is_asked in (
            ("spare", redundancy.spare > 0),
            ("min_replicas", redundancy.min_replicas > 1),
        ):
            if is_asked:
                problems.add(
                    (KEY, "min"),
                    f"fewer than planned would break redundancy.{name}; leave one of the two out",
                )
    return Elastic(
        min=section.min,
        max=section.max,
        upscale_delay_s=section.upscale_delay_s,
        downscale_delay_s=section.downscale_delay_s,
    )
