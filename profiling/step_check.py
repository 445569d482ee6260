"""Compare the kernel law with steps summed from measured operations (shared data, or any such file)."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import served

from melange_sky.models import find_model
from melange_sky.names.accelerators import find_accelerator
from melange_sky.profiles.constants import parse_generation
from melange_sky.steps import Generation
from melange_sky.steps.generation import AllReduce
from melange_sky.steps.times import pairs_s, products_s, read_s, step_costs
from melange_sky.topology import linked

SYSTEMS = {
    "h100_sxm": "H100",
    "h200_sxm": "H200",
    "l40s": "L40S",
    "b200_sxm": "B200",
    "rtx_pro_6000_server": "RTXPRO6000",
    "a100_sxm": "A100-80GB",
}
NAMES = {
    "meta-llama/Meta-Llama-3.1-8B": "meta-llama/Llama-3.1-8B",
    "meta-llama/Meta-Llama-3.1-70B": "meta-llama/Llama-3.1-70B",
}


def kernels_alone(base: Mapping[str, Any]) -> Generation:
    """Return a generation whose kernels reach what they reach alone, and whose host takes no time."""
    ones = dict.fromkeys(served.NAMES, 1.0) | dict.fromkeys(
        ("layer_s", "sequence_s", "request_s", "routing_s"), 1e-12
    )
    z = np.log([ones[name] for name in served.NAMES])
    generation = parse_generation("kernels", served.entries(z, base, dense_fp8=1.0)["vllm"])
    host = dataclasses.replace(generation.overheads, step_s=0.0, vocabulary_s=0.0, elementwise=0.8)
    kernels = json.loads((served.HERE / "kernels.json").read_text(encoding="utf-8"))
    own = {  # the sums take the engine's own all-reduces everywhere
        links: {
            int(gpus): AllReduce(**{k: v for k, v in row.items() if k != "median_error"})
            for gpus, row in rows.items()
        }
        for links, rows in kernels["links_own"].items()
    }
    return dataclasses.replace(generation, overheads=host, links={**generation.links, **own})


def step_errors(path: Path, base: Mapping[str, Any]) -> dict[tuple[str, str, str], Any]:
    """Return ours ÷ measured by (card, dtype, decode or prefill), for every step of the file."""
    generation = kernels_alone(base)
    found: dict[tuple[str, str, str], list[float]] = {}
    costs_of: dict[tuple[str, ...], Any] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = row["system"], row["model"], row["tp"], row["dtype"]
            if key not in costs_of:
                costs_of[key] = _costs(key, generation)
            costs, batch, tokens = costs_of[key], float(row["batch"] or 1), float(row["tokens"])
            ours = costs.fixed_s
            if row["kind"] == "decode":
                read = read_s(costs, np.array([tokens]))[0]
                ours += batch * (costs.sequence_s + read) + products_s(costs, np.array([batch]))[0]
            else:
                ours += costs.sequence_s + products_s(costs, np.array([tokens]))[0]
                ours += costs.prompts_s + pairs_s(costs, np.array([tokens]))[0]
            group = SYSTEMS[row["system"]], row["dtype"], row["kind"]
            found.setdefault(group, []).append(ours * 1e3 / float(row["ms"]))
    return {key: np.array(values) for key, values in found.items()}


def _costs(key: tuple[str, ...], generation: Generation) -> Any:
    system, name, split, dtype = key
    model = find_model(NAMES.get(name, name))
    if dtype == "fp8":
        model = dataclasses.replace(model.in_bytes(1.0), fp8_compute=True)
    card = find_accelerator(SYSTEMS[system])
    if card.name == "RTXPRO6000":  # the machine of the tables lets its cards reach each other
        card = linked(card, "pcie-peer")
    return step_costs(model, card, int(split), generation)


def report(path: Path, base: Mapping[str, Any]) -> list[str]:
    """Return a line per card, dtype and kind of step: median and 90th percentile of the error."""
    lines = []
    for (card, dtype, kind), ratios in sorted(step_errors(path, base).items()):
        gaps = np.abs(ratios - 1)
        lines.append(
            f"{card:12} {dtype:5} {kind:8} {len(ratios):4} steps  ours ÷ measured {np.median(ratios):.2f}"
            f"  error median {np.median(gaps):.1%}, p90 {np.percentile(gaps, 90):.0%}"
        )
    return lines
