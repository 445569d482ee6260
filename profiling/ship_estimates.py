"""Bring the shipped tables up to date: make what is asked for and not there, drop what is out of date.

    python profiling/ship_estimates.py [--jobs N] [--check]

Asked for are the tables of every `melange-sky capacity … --write-table` command that `estimates.json`
records, and those of cards that some instance types link otherwise than usual (catalogs/topology.csv).
A table stands under a key of all that decides it, so that only those are made anew of which the engine
model has changed. Where the SLO begins to be missed between two of a table's sizes it is silent; so that
a plan of a shipped distribution needs no simulation even there, these sizes are simulated too and kept
with the table as its points. Tables are written as they come: what was stopped goes on where it was.
`--check` only counts.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from melange_sky.parallelism import Parallelism
from melange_sky.planner.capacity import CapacityOptions, ask_capacity
from melange_sky.profiles import CapacityQuery, ReplicaShape, engine_replica
from melange_sky.profiles.cache import fingerprint
from melange_sky.profiles.shipped import ShippedTable, read_document, write_document
from melange_sky.profiles.simulated import simulated_cell
from melange_sky.profiles.to_ship import tables_to_ship
from melange_sky.spec.demand import load_distribution, shipped_distributions
from melange_sky.spec.histogram import to_workload
from melange_sky.steps import Misfit, ReplicaModel, RequestSizes, capacity_estimate

FILE = Path(__file__).parent / "estimates.json"
SELF = "python profiling/ship_estimates.py"
OVER_PCIE_MODELS = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-2-7b-hf",
    "meta-llama/Llama-3.1-70B-Instruct",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-32B",
)
OVER_PCIE = CapacityOptions(
    model="",
    accelerators="A100:2,A100-80GB:2",
    inputs="25,100,250,500,1000,2000,4000,8000,16000",
    outputs="25,100,250,500,1000,2000",
    tpot_ms=60,
    ttft_ms=2000,
)
QUANTIZATIONS = (None, "fp8")

Sizes = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One table that is asked for."""

    query: CapacityQuery
    shape: ReplicaShape

    def replica(self) -> ReplicaModel | None:
        """Return the engine that the table is of, None where the model does not fit."""
        found = engine_replica(self.query.model, self.shape, self.query.generation)
        return None if isinstance(found, Misfit) else found

    def key(self) -> str | None:
        """Return the key that a plan looks for."""
        replica = self.replica()
        return replica and fingerprint(replica, self.query.slo, with_limit=False)

    def make(self, sizes: Sizes) -> dict[str, dict[str, Any]]:
        """Return the table under its key, with its points."""
        made = tables_to_ship(self.query, [self.shape])
        for table in made.values():
            table["points"] = self.points(table, sizes)
        return made

    def points(self, table: dict[str, object], sizes: Sizes) -> dict[str, float | str]:
        """Return what simulation says of the sizes that the table cannot tell."""
        replica = self.replica()
        assert replica is not None
        inputs, outputs = np.array(sizes, dtype=np.float64).T
        load = RequestSizes(input_tokens=inputs, output_tokens=outputs)
        guesses = capacity_estimate(replica, load, self.query.slo).rate_rps
        shipped = ShippedTable(
            entry=table,
            input_tokens=[int(row[0]) for row in self.query.input_sizes],
            output_tokens=[int(size) for size in self.query.output_sizes[0]],
        )
        points: dict[str, float | str] = {}
        for at in np.flatnonzero(np.isnan(shipped.ratio(load))):
            cell = simulated_cell(replica, sizes[at], self.query.slo, float(guesses[at]))
            rate = cell.max_rate_rps
            answer = cell.reason if rate is None else float(f"{rate:.5g}")
            assert answer is not None
            points["{},{}".format(*sizes[at])] = answer
        return points


def sizes_of_distributions() -> Sizes:
    """Return the planning sizes of all shipped distributions, in whole tokens."""
    found = set()
    for path in shipped_distributions().values():
        workload = to_workload(load_distribution(path), 1.0)
        for i, j in workload.buckets():
            sizes = workload.input_sizes[i][j], workload.output_sizes[i][j]
            found.add((max(1, round(sizes[0])), max(1, round(sizes[1]))))
    return sorted(found)


def asked_by(command: str) -> CapacityOptions:
    """Return what a recorded command asks for."""
    parser = argparse.ArgumentParser()
    for flag in ("--model", "--accelerators", "--input", "--output", "--write-table"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--tpot-ms", type=float)
    parser.add_argument("--ttft-ms", type=float)
    parser.add_argument("--quantization")
    given = parser.parse_args(shlex.split(command)[2:])
    return CapacityOptions(
        model=given.model,
        accelerators=given.accelerators,
        inputs=given.input,
        outputs=given.output,
        tpot_ms=given.tpot_ms,
        ttft_ms=given.ttft_ms,
        quantization=given.quantization,
    )


def all_wanted(commands: list[str]) -> Iterator[Wanted]:
    """Yield every table that the commands, and the cards of other links, ask for."""
    for command in commands:
        if command == SELF:
            continue
        question = ask_capacity(asked_by(command))
        for shape in question.all_shapes:
            if shape.split == Parallelism(tensor=shape.tensor_parallel):
                yield Wanted(question.query, shape)
    for model in OVER_PCIE_MODELS:
        for word in QUANTIZATIONS:
            question = ask_capacity(replace(OVER_PCIE, model=model, quantization=word))
            for shape in question.all_shapes:
                if shape.tensor_parallel == 2:
                    yield Wanted(question.query, replace(shape, links="pcie"))


def make_all(document: dict[str, Any], missing: list[Wanted], jobs: int) -> None:
    """Make tables side by side, and write each as soon as it is there."""
    sizes = sizes_of_distributions()
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        running = [pool.submit(wanted.make, sizes) for wanted in missing]
        for done, future in enumerate(as_completed(running), start=1):
            document["tables"].update(future.result())
            write_document(FILE, document)
            print(f"{done} of {len(missing)}", flush=True)


def main() -> None:
    """Make what is asked for and not there, drop what is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    document = read_document(FILE)
    wanted = {key: w for w in all_wanted(document["commands"]) if (key := w.key()) is not None}
    missing = [w for key, w in wanted.items() if "points" not in document["tables"].get(key, {})]
    stale = [key for key in document["tables"] if key not in wanted]
    print(f"{len(wanted)} tables: {len(missing)} to make, {len(stale)} out of date", flush=True)
    if given.check:
        raise SystemExit(1 if missing or stale else 0)
    for key in stale:
        del document["tables"][key]
    write_document(FILE, document)
    make_all(document, missing, given.jobs)


if __name__ == "__main__":
    main()
