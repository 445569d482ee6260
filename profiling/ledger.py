"""Published runs as rows, what the engine model says of each, and how true its bands are.

A ledger is a folder of CSV files, one run a line, under comment lines that name `source`, `licence`
and `as_of`. Another run is one more line, in any of them or in a file of your own:

    python profiling/calibrate.py ledger            # the shipped ones
    python profiling/calibrate.py ledger MY.csv     # and your own; a folder: measured profile tables

Columns are described in profiling/README.md. Runs with something in `left_out` are kept as facts, but
neither fitted nor counted.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melange_sky.errors import InputError
from melange_sky.models import ModelShape
from melange_sky.models.checkpoint import Checkpoint, read_model
from melange_sky.models.shipped import shipped_checkpoint
from melange_sky.profiletable import load_tables

LEDGER = Path(__file__).resolve().parent / "ledger"
LOADS = ("burst", "closed", "open", "batch")
"""All at once over HTTP; so many users at all times; a Poisson stream; a batch handed over offline."""

Whole = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One published run. Sizes in tokens, times in seconds; None where the source does not say."""

    id: str
    source: str
    licence: str
    model: str
    quantization: str
    accelerator: str
    tp: int
    pp: int
    engine: str
    version: str
    flags: str
    host: str
    load: str
    requests: int
    concurrency: int
    input_tokens: float
    input_p50: float
    output_tokens: float
    output_p50: float
    rate_rps: float
    ttft_s: float | None
    tpot_s: float | None
    left_out: str = ""

    @cached_property
    def shape(self) -> ModelShape:
        """The model's sizes, as the planner reads them."""
        return read_model(checkpoint(self.model)).shape

    @property
    def flag_values(self) -> Mapping[str, str]:
        """Flags with their values, "" for a switch."""
        values: dict[str, str] = {}
        name = ""
        for word in self.flags.split():
            if word.startswith("--"):
                name = word
                values[name] = ""
            else:
                values[name] = word
        return values

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the engine's version."""
        return tuple(int(part) for part in self.version.split(".") if part.isdigit())

    @property
    def is_async(self) -> bool:
        """Whether it was scheduled asynchronously: by flag, or by default since 0.14."""
        return "--async-scheduling" in self.flag_values or self.numbers >= (0, 14)

    def sizes(self) -> tuple[Whole, Whole]:
        """Return input and output tokens of every request: even quantiles in a shuffled order."""
        return self._drawn

    @cached_property
    def _drawn(self) -> tuple[Whole, Whole]:
        rng = np.random.default_rng(7)
        inputs = _spread(self.input_tokens, self.input_p50, self.requests, rng)
        return inputs, _spread(self.output_tokens, self.output_p50, self.requests, rng)


def _spread(mean: float, median: float, count: int, rng: np.random.Generator) -> Whole:
    """A log-normal of this mean and median by its quantiles, cut at seven means; equal: one size."""
    if mean <= median:
        return np.full(count, max(1, round(mean)), dtype=np.int64)
    sigma = math.sqrt(2 * math.log(mean / median))
    grid = (rng.permutation(count) + 0.5) / count
    drawn = np.exp(sigma * _normal_quantiles(grid))
    drawn = np.minimum(drawn / drawn.mean(), 5.0)
    return np.maximum(1, np.round(drawn / drawn.mean() * mean)).astype(np.int64)


def _normal_quantiles(p: NDArray[np.float64]) -> NDArray[np.float64]:
    from statistics import NormalDist

    inverse = NormalDist().inv_cdf
    return np.array([inverse(float(q)) for q in p])


def read_ledger(paths: Iterable[Path] = ()) -> list[Run]:
    """Return the runs of the shipped files and of `paths`, in order.

    Raises InputError that names file, line and column.
    """
    files = [*sorted(LEDGER.glob("*.csv")), *paths]
    return [run for path in files for run in _read(path)]


def _read(path: Path) -> list[Run]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    head = dict(_facts(line) for line in lines if line.startswith("#") and ":" in line)
    first = sum(1 for line in lines if line.startswith("#"))
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    missing = {f.name for f in dataclasses.fields(Run)} - {"source", "licence"}
    missing -= set(rows.fieldnames or ())
    if missing:
        raise InputError(f"{path}: columns missing: {', '.join(sorted(missing))}")
    for key in ("source", "licence"):
        if not head.get(key):
            raise InputError(f"{path}: no line '# {key}: …' above the columns")
    return [_run(row, head, f"{path} line {first + at}") for at, row in enumerate(rows, start=2)]


def _facts(line: str) -> tuple[str, str]:
    key, _, value = line.lstrip("# ").partition(":")
    return key.strip(), value.strip()


def _run(row: Mapping[str, str], head: Mapping[str, str], where: str) -> Run:
    values: dict[str, Any] = {"source": head["source"], "licence": head["licence"]}
    for field in dataclasses.fields(Run):
        if field.name in values:
            continue
        text = (row.get(field.name) or "").strip()
        values[field.name] = _value(text, str(field.type), f"{where}, {field.name}")
    if values["load"] not in LOADS:
        raise InputError(f"{where}, load: '{values['load']}' is none of {', '.join(LOADS)}")
    return Run(**values)


def _value(text: str, kind: str, where: str) -> Any:
    if kind == "str":
        return text
    if not text and "None" in kind:
        return None
    try:
        number = float(text)
    except ValueError:
        raise InputError(f"{where}: '{text}' is not a number") from None
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"{where}: must be above 0, not {text}")
    return int(number) if kind == "int" else number


@lru_cache(maxsize=1)
def _models() -> dict[str, dict[str, Any]]:
    document: dict[str, Any] = json.loads((LEDGER / "models.json").read_text(encoding="utf-8"))
    return {name: entry for name, entry in document.items() if isinstance(entry, dict)}


@lru_cache(maxsize=64)
def checkpoint(name: str) -> Checkpoint:
    """Return a model of the ledger: a shipped one, or one that `ledger/models.json` describes."""
    entry = _models().get(name)
    if entry is None:
        return shipped_checkpoint(name)
    if "config" in entry:
        base = Checkpoint(name=name, config=entry["config"], where=f"ledger/models.json: {name}")
    else:
        base = dataclasses.replace(checkpoint(entry["same_as"]), name=name)
    config = copy.deepcopy(dict(base.config))
    if "change" in entry:
        text = config.get("text_config", config)
        text.update(entry["change"])
        if "layer_types" in text:
            text["layer_types"] = text["layer_types"][: text["num_hidden_layers"]]
    if "quantization" in entry:
        config["quantization_config"] = entry["quantization"]
    return dataclasses.replace(base, config=config)


def profile_runs(folder: Path) -> list[Run]:
    """Return the probes of measured profile tables as runs, each an open loop at its offered rate."""
    runs = []
    for table in load_tables(folder):
        made = table.provenance
        for cell in table.cells:
            runs += [
                Run(
                    id=f"{made.model}-{cell.input_tokens}x{cell.output_tokens}-{probe.rate_rps:g}",
                    source=f"profile of {made.created_at or 'unknown date'}",
                    licence="own",
                    model=made.model,
                    quantization="own",
                    accelerator=made.accelerator,
                    tp=made.tensor_parallel or made.accelerator_count,
                    pp=1,
                    engine=made.engine,
                    version=made.engine_version or "0",
                    flags="",
                    host=made.instance_type or "",
                    load="open",
                    requests=len(probe.log),
                    concurrency=max(1, round((probe.server or {}).get("running_mean", 1.0))),
                    input_tokens=cell.input_tokens,
                    input_p50=cell.input_tokens,
                    output_tokens=cell.output_tokens,
                    output_p50=cell.output_tokens,
                    rate_rps=probe.rate_rps,
                    ttft_s=_median(probe.log.ttft_s[probe.log.ok]),
                    tpot_s=_median(probe.log.tpot_s[probe.log.ok]),
                    left_out="" if probe.log.ok.any() else "no request completed",
                )
                for probe in cell.probes
                if len(probe.log)
            ]
    return runs


def _median(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) and np.median(known) > 0 else None


def counted(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that are fitted and counted."""
    return [run for run in runs if not run.left_out]
