"""Estimates that ship with the project, so that a plan needs no simulation.

`profiling/estimates.json` holds, per (replica, SLO), the simulated rate over the analytic estimate on
a grid of request sizes, made by `melange-sky capacity --write-table` (the commands are in the file).
The ratio is smooth, so it is interpolated in the logarithm of both sizes and applied to the analytic
estimate of the asked size. A table answers only the very replica and SLO that it was made for.
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


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    path = profiling_dir() / FILE
    if not path.is_file():
        return {"input_tokens": [1], "output_tokens": [1], "tables": {}}
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def embedded_ratio(replica: ReplicaModel, slo: SLO, load: Load) -> NDArray[np.float64] | None:
    """Return simulated ÷ analytic rate for each size of `load`, None where no table answers.

    0 where the table says that the SLO cannot be met in the neighbourhood.
    """
    document = _tables()
    table = document["tables"].get(fingerprint(replica, slo, with_limit=False))
    if table is None:
        return None
    ratios = np.array(table["ratios"], dtype=np.float64)
    rows = _places(np.array(document["input_tokens"], dtype=np.float64), load.input_tokens)
    columns = _places(np.array(document["output_tokens"], dtype=np.float64), load.output_tokens)
    return _bilinear(ratios, rows, columns)


Places = tuple["NDArray[np.int64]", "NDArray[np.float64]"]


def _places(grid: NDArray[np.float64], sizes: NDArray[np.float64]) -> Places:
    """Return, per size, the grid interval and the place in it (0 to 1), in log size, held at the ends."""
    at = np.interp(np.log(sizes), np.log(grid), np.arange(len(grid), dtype=np.float64))
    low = np.clip(np.floor(at).astype(np.int64), 0, max(len(grid) - 2, 0))
    return low, at - low


def _bilinear(values: NDArray[np.float64], rows: Places, columns: Places) -> NDArray[np.float64]:
    """Interpolate. Corners where nothing fits (NaN) do not count; one that misses the SLO (0) decides
    where it is the nearest, and does not count elsewhere.
    """
    (i, u), (j, v) = rows, columns
    i2, j2 = np.minimum(i + 1, values.shape[0] - 1), np.minimum(j + 1, values.shape[1] - 1)
    corners = np.array([values[i, j], values[i, j2], values[i2, j], values[i2, j2]])
    weights = np.array([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v])
    weights = np.where(np.isnan(corners), 0.0, weights + 1e-9)
    corners = np.nan_to_num(corners)
    nearest = np.take_along_axis(corners, weights.argmax(axis=0)[None], axis=0)[0]
    weights = np.where(corners > 0, weights, 0.0)
    total = weights.sum(axis=0)
    mean = (weights * corners).sum(axis=0) / np.maximum(total, 1e-12)
    return np.where(nearest > 0, mean, 0.0)


def write_table(
    path: Path, command: str, grid: tuple[list[int], list[int]], tables: dict[str, Any]
) -> None:
    """Add tables to the file at `path` (made where it is not), which `command` produced."""
    document = (
        json.loads(path.read_text(encoding="utf-8"))
        if path.is_file()
        else {"commands": [], "tables": {}}
    )
    document["input_tokens"], document["output_tokens"] = grid
    if command not in document["commands"]:
        document["commands"].append(command)
    document["tables"].update(tables)
    rows = ",\n".join(
        f" {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(document.pop("tables").items())
    )
    head = json.dumps(document, indent=1)[:-2]
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(f'{head},\n "tables": {{\n{rows}\n }}\n}}\n', encoding="utf-8")
    beside.replace(path)
