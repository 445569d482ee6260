"""The `guard:` section of a spec, or a file of its own: what `watch` may do to a fleet without asking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from melange_sky.plans.guard import NO_GUARD, AllowedHours, GuardRails
from melange_sky.spec import yaml_source
from melange_sky.spec.problems import Problems
from melange_sky.spec.schema import GuardSection

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.spec.yaml_source import KeyPath

KEY = "guard"
LAUNCHES = ("off", "warn", "refuse")


def read_guard(raw: Any, problems: Problems, at: KeyPath = (KEY,)) -> GuardRails:
    """Return the guard rails, none for a section that is not there; what is wrong is noted."""
    if raw is None:
        return NO_GUARD
    section = problems.section(GuardSection, raw, at)
    if section is None:
        return NO_GUARD
    launch = "off" if section.launch is False else section.launch  # YAML reads a bare `off` so
    if launch is not None and launch not in LAUNCHES:
        problems.add((*at, "launch"), f"must be one of {', '.join(LAUNCHES)}")
        return NO_GUARD
    hours = None
    if section.hours is not None:
        try:
            hours = AllowedHours.read(section.hours)
        except ValueError as error:
            problems.add((*at, "hours"), str(error))
    return GuardRails(
        launch=launch,
        max_usd_per_hour=section.max_usd_per_hour,
        max_change_instances=section.max_change_instances,
        min_interval_s=section.min_interval_s,
        hours=hours,
        approve_above_usd=section.approve_above_usd,
        freeze=section.freeze,
    )


def load_guard(path: Path) -> GuardRails:
    """Read a file that holds the keys of `guard:`, or that key with them. Raises InputError with file, line and key."""
    document = yaml_source.parse(yaml_source.read_text(path), path)
    problems = Problems(path, document)
    raw: Any = document.value
    at: KeyPath = ()
    if isinstance(raw, dict) and set(raw) == {KEY}:
        raw, at = raw[KEY], (KEY,)
    rails = read_guard({} if raw is None else raw, problems, at)
    problems.raise_if_any()
    return rails
