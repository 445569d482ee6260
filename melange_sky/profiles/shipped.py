"""Estimates that ship with the project, so that a plan needs no simulation.

`profiling/estimates.json` holds, per (replica, SLO), the simulated rate over the analytic estimate on
a grid of request sizes, as `melange-sky capacity --write-table` makes it (the commands are in the file).
The ratio is smooth, so it is interpolated in the logarithm of both sizes and applied to the analytic
estimate of the asked size. Where the SLO begins to be missed it is not smooth: sizes there are simulated,
those of the shipped distributions beforehand (`profiling/ship_estimates.py`). A table answers only the very
replica and SLO that it was made for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.capacities import CapacityCell
from melange_sky.profiles.cache import fingerprint
from melange_sky.resources import profiling_dir

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.slo import SLO
    from melange_sky.steps import ReplicaModel, RequestSizes

FILE = "estimates.json"

SMOOTH_FROM = 0.3
"""Ratios below are steep: so far under the analytic rate, the SLO is about to be missed at any rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedTable:
    """One table as it stands in the file, and the grid of sizes that all tables share."""

    entry: dict[str, Any]
    input_tokens: list[int]
    output_tokens: list[int]

    def ratio(self, load: RequestSizes) -> NDArray[np.float64]:
        """Return simulated ÷ analytic rate for each size of `load`.

        0 where all sizes around miss the SLO. NaN where the table cannot tell: outside its sizes, and
        beside sizes of which some miss the SLO or all but miss it.
        """
        ratios = np.array(self.entry["ratios"], dtype=np.float64)
        inputs, outputs = np.array(self.input_tokens), np.array(self.output_tokens)
        inside = _spans(inputs, load.input_tokens) & _spans(outputs, load.output_tokens)
        places = _places(inputs, load.input_tokens), _places(outputs, load.output_tokens)
        return np.where(inside, _bilinear(ratios, *places), np.nan)

    def point(self, size: tuple[int, int]) -> CapacityCell | None:
        """Return what simulation said of a size that the ratios cannot tell, None where it is not there."""
        answer = self.entry.get("points", {}).get("{},{}".format(*size))
        if answer is None:
            return None
        return (
            CapacityCell.unserved(answer)
            if isinstance(answer, str)
            else CapacityCell.estimated(float(answer))
        )


def shipped_table(replica: ReplicaModel, slo: SLO) -> ShippedTable | None:
    """Return the table of this very replica and SLO, None where none is shipped."""
    entry = _under(fingerprint(replica, slo, with_limit=False))
    if entry is None:
        return None
    return ShippedTable(
        entry=entry,
        input_tokens=_under("input_tokens"),
        output_tokens=_under("output_tokens"),
    )


@lru_cache(maxsize=1)
def _text() -> str:
    path = profiling_dir() / FILE
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _under(name: str) -> Any:
    """Return what stands under a name of the shipped file, None where there is no such name.

    It alone is decoded: a plan asks for a few of 250 tables, and reading all of them takes longer than the rest.
    """
    text, key = _text(), f'"{name}":'
    at = text.find(key) + len(key)
    if at < len(key):
        return None
    while text[at].isspace():
        at += 1
    return json.JSONDecoder().raw_decode(text, at)[0]


def _spans(grid: NDArray[np.int64], sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    within: NDArray[np.bool_] = (grid[0] <= sizes) & (sizes <= grid[-1])
    return within


Places = tuple["NDArray[np.int64]", "NDArray[np.float64]"]


def _places(grid: NDArray[np.int64], sizes: NDArray[np.float64]) -> Places:
    """Return, per size, the grid interval and the place in it (0 to 1), in log size, held at the ends."""
    at = np.interp(np.log(sizes), np.log(grid), np.arange(len(grid), dtype=np.float64))
    low = np.clip(np.floor(at).astype(np.int64), 0, max(len(grid) - 2, 0))
    return low, at - low


def _bilinear(values: NDArray[np.float64], rows: Places, columns: Places) -> NDArray[np.float64]:
    """Interpolate. Corners where nothing fits (NaN) do not count; among those that count, one that
    misses the SLO (0), or all but does, leaves the answer open (NaN); only where all miss it it is 0.
    """
    (i, u), (j, v) = rows, columns
    i2, j2 = np.minimum(i + 1, values.shape[0] - 1), np.minimum(j + 1, values.shape[1] - 1)
    corners = np.array([values[i, j], values[i, j2], values[i2, j], values[i2, j2]])
    weights = np.array([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v])
    weights = np.where(np.isnan(corners), 0.0, weights)
    missed = ((corners < SMOOTH_FROM) & (weights > 0)).any(axis=0)
    total = weights.sum(axis=0)
    known = np.nan_to_num(corners)
    mean = (weights * known).sum(axis=0) / np.maximum(total, 1e-12)
    open_or_mean = np.where(missed | (total <= 0), np.nan, mean)
    return np.where((total > 0) & (mean == 0), 0.0, open_or_mean)


def write_table(
    path: Path, command: str, grid: tuple[list[int], list[int]], tables: dict[str, Any]
) -> None:
    """Add tables to the file at `path` (made where it is not), which `command` produced."""
    document = read_document(path)
    document["input_tokens"], document["output_tokens"] = grid
    if command not in document["commands"]:
        document["commands"].append(command)
    document["tables"].update(tables)
    write_document(path, document)


def read_document(path: Path) -> dict[str, Any]:
    """Return a file of shipped estimates, an empty one where there is none."""
    if not path.is_file():
        return {"commands": [], "tables": {}}
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write a file of shipped estimates, a table a line, as a whole."""
    head = {key: part for key, part in document.items() if key != "tables"}
    rows = ",\n".join(
        f" {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(document["tables"].items())
    )
    beside = path.with_name(path.name + ".tmp")
    text = f'{json.dumps(head, indent=1)[:-2]},\n "tables": {{\n{rows}\n }}\n}}\n'
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
