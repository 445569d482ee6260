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
from typing import TYPE_CHECKING, Any

from melange_sky.capacities import CapacityCell
from melange_sky.settings import estimates_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from melange_sky.slo import SLO
    from melange_sky.steps import ReplicaModel

_APART = ("costs", "pool")
VERSION = 1
"""Raise it when the simulator or the search changes what they answer."""

Size = tuple[int, int]
"""(input, output) tokens."""


def fingerprint(replica: ReplicaModel, slo: SLO | None, with_limit: bool = True) -> str:
    """Return a hash of everything that decides a replica's capacity under an SLO.

    Without `with_limit` the most sequences are left out, for tables that serve any limit.
    """
    content = replica if with_limit else replace(replica, max_num_seqs=0)
    costs = [f"{float(x):.9g}" for x in _numbers(content.costs)]
    rest = [*_said(content.pool), *(row for row in _said(content) if row[0] not in _APART)]
    return hashlib.sha256(repr((VERSION, costs, rest, slo)).encode()).hexdigest()[:32]


def _numbers(costs: Any) -> Iterator[float]:
    """Yield the numbers of step costs, those of their windows last."""
    for part in costs:
        if isinstance(part, tuple):
            yield from _numbers(part)
        else:
            yield part


def _said(record: Any) -> list[tuple[str, object]]:
    """Return the fields of a record that differ from their defaults.

    A field that keeps its default says nothing, so that a new one leaves what is known in place.
    """
    named = [(field.name, getattr(record, field.name), field.default) for field in fields(record)]
    return [(name, value) for name, value, default in named if value != default]


def read_kept(path: Path) -> Any:
    """Return what a file of the cache holds, None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def keep(path: Path, content: object) -> bool:
    """Write a file of the cache as a whole, beside and then into place; return whether that was possible."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(content), encoding="utf-8")
        beside.replace(path)
        return True
    return False


class EstimateCache:
    """The estimates of one (replica, SLO), read at once and written back as a whole."""

    def __init__(self, replica: ReplicaModel, slo: SLO, folder: Path | None = None) -> None:
        """Read what is known of this replica under this SLO."""
        folder = estimates_dir() if folder is None else folder
        self._path = folder / f"{fingerprint(replica, slo)}.json"
        self._cells = self._read()
        self._changed = False

    def _read(self) -> dict[Size, CapacityCell]:
        try:
            return {
                (int(i), int(o)): CapacityCell.unserved(reason)
                if rate is None
                else CapacityCell.estimated(float(rate))
                for i, o, rate, reason in read_kept(self._path)
            }
        except (ValueError, TypeError):
            return {}

    def get(self, size: Size) -> CapacityCell | None:
        """Return the cell of a size, None where it is not kept."""
        return self._cells.get(size)

    def put(self, size: Size, cell: CapacityCell) -> None:
        """Take in a result; `save` writes it."""
        self._cells[size] = cell
        self._changed = True

    def save(self) -> None:
        """Write what is new. Failure is no error."""
        if not self._changed:
            return
        sizes = sorted(self._cells)
        rows = [[*s, self._cells[s].max_rate_rps, self._cells[s].reason] for s in sizes]
        self._changed = not keep(self._path, rows)
