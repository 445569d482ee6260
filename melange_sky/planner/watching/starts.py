"""How long replicas took to serve, from SkyServe's own list of them, kept from run to run.

SkyServe tells when a replica's node was there, not when it was asked for nor when it served. So a start is
counted from the last look at which the replica was not listed yet to the first at which it was ready: too long
by two looks at most, never too short. A replica that was there at the first look is not counted.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError
from melange_sky.planner.output_files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from melange_sky.skyserve import LiveService

log = logging.getLogger(__name__)

STARTS_FILE = "watch-starts.json"
MOST_KEPT = 50
"""Newest starts that are kept of an option."""

_FORMAT = 1
_MOST_BYTES = 1_000_000
_LONGEST_S = 86_400.0


@dataclass(slots=True, kw_only=True)
class StartLog:
    """Starts of a fleet's replicas. `folder` None keeps them in memory alone."""

    folder: Path | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    _begun: dict[str, float] = field(default_factory=dict)
    _known: set[str] | None = None
    _looked_s: float = 0.0

    @classmethod
    def of(cls, folder: Path) -> StartLog:
        """Return what a folder keeps; a file that cannot be read is begun anew, and that is logged."""
        return cls(folder=folder, seconds={k: list(v) for k, v in learnt_starts(folder).items()})

    def note(self, services: Iterable[tuple[str, LiveService]], now_s: float) -> None:
        """Take in the services of a look, by option."""
        rows = [
            (option, f"{service.name}/{replica.id}", replica.status)
            for option, service in services
            for replica in service.replicas
        ]
        learnt = False
        for option, key, status in rows:
            if self._known is not None and key not in self._known:
                self._begun[key] = self._looked_s
            if status == "READY" and key in self._begun:
                took_s = now_s - self._begun.pop(key)
                if 0 < took_s < _LONGEST_S:
                    kept = self.seconds.setdefault(option, [])
                    kept.append(round(took_s, 1))
                    del kept[:-MOST_KEPT]
                    learnt = True
        self._known = {key for _, key, _ in rows}
        self._begun = {key: at for key, at in self._begun.items() if key in self._known}
        self._looked_s = now_s
        if learnt and self.folder is not None:
            self._write(self.folder / STARTS_FILE)

    def _write(self, path: Path) -> None:
        document = {"format": _FORMAT, "seconds": self.seconds}
        try:
            write_text(path, json.dumps(document, indent=2) + "\n")
        except InputError as error:  # a start time less is no reason to stop watching
            log.warning("%s", error)


def learnt_starts(folder: Path) -> Mapping[str, Sequence[float]]:
    """Return the seconds that starts took, by option, as a folder keeps them; none where it keeps none."""
    path = folder / STARTS_FILE
    try:
        if not path.exists() or path.stat().st_size > _MOST_BYTES:
            return {}
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            return {}
        return {
            str(option): [float(s) for s in kept if 0 < float(s) < _LONGEST_S]
            for option, kept in document["seconds"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s: cannot be read, and is begun anew: %s", path, type(error).__name__)
        return {}
