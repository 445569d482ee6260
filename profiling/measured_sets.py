"""Read the measured sets and say what the engine model predicts for each of their rows.

Two open formats, each in its own definition:

* Argonne LLM-Inference-Bench (BSD-3): a batch of B requests of L input and L output tokens sent at
  once; `batch_latency_s` until the last token. Throughput is B ÷ latency; its milliseconds per
  output token are latency ÷ L and so include prefill. Engine generation `vllm-0.5`.
* IBM LLM-Pilot (CDLA-Permissive-2.0): U users who each send the next request when the last one ends,
  sizes of a production mix (log-normal here, by each row's mean and median); requests per second and
  the median TPOT. Engine generation `tgis`.

The Mélange table (best accelerator by tokens per dollar) is read too; it serves vllm-0.2.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melange_sky.models import ModelShape, find_model
from melange_sky.names.accelerators import find_accelerator
from melange_sky.simulator import RequestStream, simulate_closed_loop, simulate_replica
from melange_sky.steps import Generation, ReplicaModel, replica_model

ARGONNE_NAMES = {
    "Nvidia A100 GPU": "A100",
    "Nvidia H100 GPU": "H100",
    "Nvidia GH200 GPU": "GH200",
    "AMD MI300X GPU": "MI300X",
}
PILOT_NAMES = {
    "a10": "A10",
    "a100": "A100",
    "h100": "H100",
    "t4": "T4",
    "v100": "V100",
    "l4": "L4",
    "a30": "A30",
    "l40s": "L40S",
}
MELANGE_PRICES = {"L4": 0.70, "A10G": 1.01, "A100-80GB": 3.67, "H100": 7.516}
LONGEST_SAMPLED = 1500
"""LLM-Pilot's mix is cut here: its service did not take longer inputs or outputs."""


def model_named(name: str) -> ModelShape:
    """Return a model by the short names that the sets use."""
    short = {
        "llama-7b": "Llama-2-7b-hf",
        "llama-13b": "Llama-2-13b-hf",
        "llama-70b": "Llama-2-70b-hf",
    }
    return find_model(short.get(name, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured row: what ran, and the two figures measured (requests/s, seconds per token)."""

    generation: str
    model: str
    accelerator: str
    tensor_parallel: int
    concurrency: int
    sizes: tuple[float, float, float, float]
    rate_rps: float
    token_s: float

    def predict(self, generation: Generation) -> tuple[float, float] | None:
        """Return predicted (requests/s, seconds per token); None where the model would not fit."""
        replica = replica_model(
            model_named(self.model),
            find_accelerator(self.accelerator),
            self.tensor_parallel,
            generation,
        )
        if not isinstance(replica, ReplicaModel):
            return None
        if self.generation == "tgis":
            return _closed_loop(self, replica)
        length = int(self.sizes[0])
        stream = RequestStream.of(np.zeros(self.concurrency), length, length)
        latency_s = float(np.nanmax(simulate_replica(replica, stream).last_token_s))
        return self.concurrency / latency_s, latency_s / length


def _closed_loop(row: Row, replica: ReplicaModel) -> tuple[float, float]:
    count = max(1500, 25 * row.concurrency)
    rng = np.random.default_rng(11)
    inputs = _log_normal(rng, row.sizes[0], row.sizes[1], count)
    outputs = _log_normal(rng, row.sizes[2], row.sizes[3], count)
    log = simulate_closed_loop(replica, row.concurrency, inputs, outputs)
    start, end = np.percentile(log.last_token_s, [5, 90])
    steady = log.select((log.last_token_s > start) & (log.last_token_s <= end))
    return len(steady) / float(end - start), float(np.nanmedian(steady.tpot_s))


def _log_normal(
    rng: np.random.Generator, mean: float, median: float, count: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    sigma = math.sqrt(2 * math.log(max(mean, 1.02 * median) / median))
    drawn = median * np.exp(sigma * rng.standard_normal(count))
    return np.clip(np.round(drawn), 1, LONGEST_SAMPLED).astype(np.int64)


def read_argonne(path: Path) -> list[Row]:
    """Read rows of Argonne's format; those of other engines than vLLM are left out."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(
                generation="vllm-0.5",
                model=r["model"],
                accelerator=ARGONNE_NAMES.get(r["Hardware"], r["Hardware"]),
                tensor_parallel=int(r["tp"]),
                concurrency=int(r["batch"]),
                sizes=(float(r["in_len_eq_out_len"]),) * 4,
                rate_rps=int(r["batch"]) / float(r["batch_latency_s"]),
                token_s=float(r["batch_latency_s"]) / float(r["in_len_eq_out_len"]),
            )
            for r in csv.DictReader(file)
            if r.get("Framework", "vLLM") == "vLLM"
        ]


def read_pilot(path: Path) -> list[Row]:
    """Read rows of LLM-Pilot's format."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(
                generation="tgis",
                model=r["model"],
                accelerator=PILOT_NAMES.get(r["gpu"], r["gpu"]),
                tensor_parallel=int(r["n_gpu"]),
                concurrency=int(r["users"]),
                sizes=(
                    float(r["in_mean"]),
                    float(r["in_p50"]),
                    float(r["out_mean"]),
                    float(r["out_p50"]),
                ),
                rate_rps=float(r["rps"]),
                token_s=float(r["tpot_p50"]) / 1e3,
            )
            for r in csv.DictReader(file)
        ]


def read_rows(path: Path) -> list[Row]:
    """Read a set of either format, told by its header."""
    with path.open(encoding="utf-8") as file:
        return read_pilot(path) if "users" in file.readline() else read_argonne(path)


def below_knee(rows: Iterable[Row]) -> list[Row]:
    """Leave out closed-loop rows past the concurrency of the highest rate of their (model, GPUs)."""
    rows = list(rows)
    best: dict[tuple[str, str, int], Row] = {}
    for row in rows:
        key = (row.model, row.accelerator, row.tensor_parallel)
        if key not in best or row.rate_rps > best[key].rate_rps:
            best[key] = row
    return [
        r
        for r in rows
        if r.generation != "tgis"
        or r.concurrency <= best[r.model, r.accelerator, r.tensor_parallel].concurrency
    ]


def read_melange(path: Path) -> list[tuple[int, int, str, float]]:
    """Read (input tokens, output tokens, best accelerator, percent over the second)."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            (
                int(r["input_tokens"]),
                int(r["output_tokens"]),
                r["best_accelerator"],
                float(r["percent_over_second_best"]),
            )
            for r in csv.DictReader(file)
        ]
