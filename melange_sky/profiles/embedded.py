"""Estimates that ship with the project, so that a plan needs no simulation.

`profiling/estimates.json` holds, per (replica, SLO), the simulated rate over the analytic estimate on
a grid of request sizes, made by `melange-sky capacity --write-table` (the commands are in the file).
The ratio is smooth, so it is interpolated in the logarithm of both sizes and applied to the analytic
estimate of the asked size. Where the SLO begins to be missed it is not smooth: sizes there are simulated,
those of the shipped distributions beforehand (`profiling/points.py`). A table answers only the very
replica and SLO that it was made for.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.profiles.cache import fingerprint
from melange_sky.resources import profiling_dir

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.engine import Load, ReplicaModel
    from melange_sky.slo import SLO

FILE = "estimates.json"

SMOOTH_FROM = 0.3
"""Ratios below are steep: so far under the analytic rate, the SLO is about to be missed at any rate."""

Found = tuple[float | None, str | None]
"""(rate of one engine in requests/s, None) or (None, reason)."""


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    return read_document(profiling_dir() / FILE)


def embedded_ratio(replica: ReplicaModel, slo: SLO, load: Load) -> NDArray[np.float64] | None:
    """Return simulated ÷ analytic rate for each size of `load`, None where no table answers.

    0 where all sizes around miss the SLO. NaN where the table cannot tell: outside its sizes, and
    beside sizes of which some miss the SLO or all but miss it.
    """
    document = _tables()
    table = document["tables"].get(fingerprint(replica, slo, with_limit=False))
    if table is None:
        return None
    ratios = np.array(table["ratios"], dtype=np.float64)
    grids = [
        np.array(document[axis], dtype=np.float64) for axis in ("input_tokens", "output_tokens")
    ]
    sizes = (load.input_tokens, load.output_tokens)
    rows, columns = (_places(grid, asked) for grid, asked in zip(grids, sizes, strict=True))
    inside = [(g[0] <= asked) & (asked <= g[-1]) for g, asked in zip(grids, sizes, strict=True)]
    return np.where(inside[0] & inside[1], _bilinear(ratios, rows, columns), np.nan)


def embedded_points(replica: ReplicaModel, slo: SLO) -> dict[tuple[int, int], Found]:
    """Return the sizes of shipped distributions that the table cannot tell, simulated one by one."""
    points = _tables().get("points", {}).get(fingerprint(replica, slo, with_limit=False), {})
    found: dict[tuple[int, int], Found] = {}
    for size, answer in points.items():
        input_tokens, output_tokens = map(int, size.split(","))
        known = (None, answer) if isinstance(answer, str) else (float(answer), None)
        found[input_tokens, output_tokens] = known
    return found


Places = tuple["NDArray[np.int64]", "NDArray[np.float64]"]


def _places(grid: NDArray[np.float64], sizes: NDArray[np.float64]) -> Places:
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
    """Write a file of shipped estimates, one table or set of points a line, as a whole."""
    head = {key: part for key, part in document.items() if key not in ("tables", "points")}
    text = json.dumps(head, indent=1)[:-2]
    for key in ("points", "tables"):
        rows = ",\n".join(
            f" {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(document.get(key, {}).items())
        )
        text += f',\n "{key}": {{\n{rows}\n }}'
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(f"{text}\n}}\n", encoding="utf-8")
    beside.replace(path)
