"""Keep what was simulated, by content: the same replica under the same SLO is never run twice.

One JSON file per (replica, SLO) in `<home>/estimates/`, named by a hash of all that decides the
result. A damaged or unwritable cache costs time, never an answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.settings import estimates_dir

if TYPE_CHECKING:
    from melange_sky.slo import SLO
    from melange_sky.steps import ReplicaModel

VERSION = 1
"""Raise it when the simulator or the search changes what they answer."""

Sizes = tuple[int, int]
Known = dict[Sizes, tuple[float | None, str | None]]
"""(input, output) tokens → (rate, None) or (None, reason)."""


def fingerprint(replica: ReplicaModel, slo: SLO | None, with_limit: bool = True) -> str:
    """Return a hash of everything that decides a replica's capacity under an SLO.

    Without `with_limit` the most sequences are left out, for tables that serve any limit.
    """
    content = replica if with_limit else replace(replica, max_num_seqs=0)
    costs = [f"{float(x):.9g}" for x in content.costs]
    # A field that keeps its default says nothing, so that a new one leaves what is known in place.
    rest = [
        (field.name, getattr(content, field.name))
        for field in fields(content)
        if field.name != "costs" and getattr(content, field.name) != field.default
    ]
    return hashlib.sha256(repr((VERSION, costs, rest, slo)).encode()).hexdigest()[:32]


class EstimateCache:
    """The estimates of one (replica, SLO), read at once and written back as a whole."""

    def __init__(self, replica: ReplicaModel, slo: SLO, folder: Path | None = None) -> None:
        """Read what is known of this replica under this SLO."""
        folder = estimates_dir() if folder is None else folder
        self._path = folder / f"{fingerprint(replica, slo)}.json"
        self._known = self._read()
        self._dirty = False

    def _read(self) -> Known:
        try:
            rows = json.loads(self._path.read_text(encoding="utf-8"))
            return {
                (int(i), int(o)): (None if rate is None else float(rate), reason)
                for i, o, rate, reason in rows
            }
        except (OSError, ValueError, TypeError):
            return {}

    def get(self, sizes: Sizes) -> tuple[float | None, str | None] | None:
        """Return what is known of a size, None where nothing is."""
        return self._known.get(sizes)

    def put(self, sizes: Sizes, rate_rps: float | None, reason: str | None) -> None:
        """Take in a result; `save` writes it."""
        self._known[sizes] = (rate_rps, reason)
        self._dirty = True

    def save(self) -> None:
        """Write the file as a whole, beside and then into place. Failure is no error."""
        if not self._dirty:
            return
        rows = [[*sizes, *found] for sizes, found in sorted(self._known.items())]
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(rows), encoding="utf-8")
            beside.replace(self._path)
            self._dirty = False
