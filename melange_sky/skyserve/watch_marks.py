"""Which watcher changed a service last: a comment in the YAML that SkyServe keeps beside what runs.

SkyServe keeps the text that each version of a service was handed in with, shows it, and leaves it out where it
compares two versions: it is the one place of a service's record that may differ without a replica being replaced
(SkyPilot 0.14, `sky/serve/replica_managers.py`, `update_version`). Whoever sees the service sees the mark.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import yaml

from melange_sky.errors import clip

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from melange_sky.skyserve.changes import LiveService, Wanted

TEXT_KEY = "_user_specified_yaml"
"""Where SkyPilot keeps the text."""

_HEAD = "# changed by `melange-sky watch`: "
_LONGEST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchMark:
    """A watcher's change of a service: `watcher` is its id, `host` the machine's name, `at_s` seconds since 1970."""

    watcher: str
    host: str
    at_s: float

    @property
    def order(self) -> tuple[float, str]:
        """The later of two marks is the one with the higher; no two watchers' are the same."""
        return self.at_s, self.watcher


def marked(wanted: Wanted, mark: WatchMark) -> Wanted:
    """Return a wanted service whose text says who changes it."""
    about = {"watcher": mark.watcher, "host": mark.host, "at": mark.at_s}
    rest = {key: value for key, value in wanted.document.items() if key != TEXT_KEY}
    text = f"{_HEAD}{json.dumps(about)}\n{yaml.safe_dump(rest, sort_keys=False)}"
    return replace(wanted, document={**rest, TEXT_KEY: text})


def mark_of(service: LiveService) -> WatchMark | None:
    """Return the watcher that made a service's newest version, None where another did or what is said is none."""
    document: Mapping[str, Any] = service.document
    first, _, _ = str(document.get(TEXT_KEY) or "").partition("\n")
    if not first.startswith(_HEAD) or len(first) > _LONGEST:
        return None
    try:
        about = json.loads(first[len(_HEAD) :])
        found = WatchMark(
            watcher=str(about["watcher"]), host=clip(str(about["host"])), at_s=float(about["at"])
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if abs(found.at_s) < 1e11 else None
