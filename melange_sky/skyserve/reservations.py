"""The reservations that SkyPilot is configured to use: `aws|gcp: prioritize_reservations, specific_reservations`.

Read in SkyPilot 0.14: only these clouds count any, each free reserved node costs 0 to its optimizer, and
spot never uses one. How many are free only the cloud's own API tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from melange_sky import settings
from melange_sky.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

CLOUDS = ("aws", "gcp")
_LARGEST_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservations:
    """What is configured for one cloud: `names`, and whether open ones are looked for as well."""

    cloud: str
    names: tuple[str, ...]
    prioritize: bool
    files: tuple[str, ...]


def configured_reservations() -> tuple[Reservations, ...]:
    """Return the reservations of SkyPilot's configuration, by cloud; none where it names none.

    Raises InputError for a file that is no YAML mapping: SkyPilot would refuse it, too.
    """
    merged: dict[str, dict[str, Any]] = {cloud: {} for cloud in CLOUDS}
    files = settings.sky_config_files()
    for path in files:
        document = _read(path)
        for cloud in CLOUDS:
            section = document.get(cloud)
            if isinstance(section, dict):
                merged[cloud] |= section
    found = []
    for cloud, section in merged.items():
        names = section.get("specific_reservations")
        prioritize = section.get("prioritize_reservations") is True
        listed = tuple(map(str, names)) if isinstance(names, list) else ()
        if listed or prioritize:
            found.append(
                Reservations(
                    cloud=cloud, names=listed, prioritize=prioritize, files=tuple(map(str, files))
                )
            )
    return tuple(found)


def _read(path: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise InputError(f"{path}: too large for a configuration of SkyPilot")
        document = yaml.load(path.read_text(encoding="utf-8"), loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"SkyPilot's configuration {path} cannot be read: {reason}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InputError(f"SkyPilot's configuration {path} is no mapping of keys")
    return document
