"""Simulate the sizes of the shipped distributions that the shipped tables cannot tell.

A table of `estimates.json` is silent where the SLO begins to be missed between two of its sizes. So
that a plan of a shipped distribution needs no simulation even there, these sizes are simulated here
and kept with the tables. Run after every change of tables or distributions:

    python profiling/points.py
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.models import find_model
from melange_sky.profiles import ReplicaShape, engine_replica
from melange_sky.profiles.shipped import read_document, shipped_table, write_document
from melange_sky.profiles.simulated import simulated_cell
from melange_sky.slo import SLO
from melange_sky.spec.demand import load_distribution, shipped_distributions
from melange_sky.spec.histogram import to_workload
from melange_sky.steps import Misfit, RequestSizes, capacity_estimate

FILE = Path(__file__).parent / "estimates.json"


def sizes_of_distributions() -> list[tuple[int, int]]:
    """Return the planning sizes of all shipped distributions, in whole tokens."""
    found = set()
    for path in shipped_distributions().values():
        workload = to_workload(load_distribution(path), 1.0)
        for i, j in workload.buckets():
            sizes = workload.input_sizes[i][j], workload.output_sizes[i][j]
            found.add((max(1, round(sizes[0])), max(1, round(sizes[1]))))
    return sorted(found)


def points_of(table: dict[str, Any], sizes: list[tuple[int, int]]) -> dict[str, float | str]:
    """Return what simulation says of the sizes that one table cannot tell."""
    shape = ReplicaShape(
        accelerator=table["accelerator"],
        tensor_parallel=table["tensor_parallel"],
        links=table.get("links"),
    )
    model = DEFAULT_ENGINE.held(find_model(table["model"]), table.get("engine_args", ()))
    replica = engine_replica(model, shape, table["engine"])
    assert not isinstance(replica, Misfit)
    slo = SLO(**table["slo"])
    inputs, outputs = np.array(sizes, dtype=np.float64).T
    load = RequestSizes(input_tokens=inputs, output_tokens=outputs)
    shipped = shipped_table(replica, slo)
    assert shipped is not None, (
        f"the table of {table['accelerator']} is of an older model: write it anew"
    )
    guesses = capacity_estimate(replica, load, slo).rate_rps
    points: dict[str, float | str] = {}
    for at in np.flatnonzero(np.isnan(shipped.ratio(load))):
        cell = simulated_cell(replica, sizes[at], slo, float(guesses[at]))
        rate = cell.max_rate_rps
        answer = cell.reason if rate is None else float(f"{rate:.5g}")
        assert answer is not None
        points["{},{}".format(*sizes[at])] = answer
    return points


def main() -> None:
    """Write the points of every table."""
    document = read_document(FILE)
    tables, sizes = list(document["tables"].values()), sizes_of_distributions()
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for table, points in zip(
            tables, pool.map(points_of, tables, [sizes] * len(tables)), strict=True
        ):
            table["points"] = points
    write_document(FILE, document)
    print(f"{sum(len(table['points']) for table in tables)} points of {len(tables)} tables")


if __name__ == "__main__":
    main()
