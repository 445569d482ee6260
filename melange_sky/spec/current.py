"""The `current:` section: what runs today, to compare the plan with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError, clip
from melange_sky.names.clouds import read_infra
from melange_sky.spec.choices import read_accelerator_choice
from melange_sky.spec.schema import CurrentSection
from melange_sky.spec.values import CurrentInstances

if TYPE_CHECKING:
    from melange_sky.spec.problems import Problems

KEY = "current"
_SPLIT = re.compile(r"tp\d+( pp\d+)?( ep\d+)?\Z")


def read_current(raw: Any, problems: Problems) -> tuple[CurrentInstances, ...] | None:
    """Return the entries, None with their problems noted."""
    if raw is None:
        return ()
    if not isinstance(raw, list) or not raw:
        problems.add((KEY,), "must be a list of instances: accelerators, infra, instances")
        return None
    found = [_entry(item, i, problems) for i, item in enumerate(raw)]
    entries = tuple(entry for entry in found if entry is not None)
    return entries if len(entries) == len(found) else None


def _entry(raw: Any, i: int, problems: Problems) -> CurrentInstances | None:
    section = problems.section(CurrentSection, raw, (KEY, i))
    if section is None:
        return None
    try:
        choice = read_accelerator_choice(section.accelerators)
    except InputError as error:
        problems.add((KEY, i, "accelerators"), str(error))
        return None
    try:
        place = None if section.infra is None else read_infra(section.infra)
    except InputError as error:
        problems.add((KEY, i, "infra"), str(error))
        return None
    split = None if section.split is None else " ".join(section.split.split())
    if split is not None and not _SPLIT.match(split):
        text = f"'{clip(split)}' must be a split such as tp4, tp4 pp2 or tp1 ep8"
        problems.add((KEY, i, "split"), text)
        return None
    return CurrentInstances(
        choice=choice,
        place=place,
        instances=section.instances,
        usd_per_hour=section.usd_per_hour,
        split=split,
        where=problems.where((KEY, i)),
    )
