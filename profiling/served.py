"""Fit what a served token takes beside its kernels, on the ledger's runs of today's vLLM.

Kernel constants come from `kernels.json` (see operations.py). Served, kernels reach less than alone:
cards throttle, batches are mixed, inputs differ. Fourteen constants close the gap, each with a prior
around 1 or its usual size, fitted by the least |log(measured ÷ predicted)| of rate and TPOT:

    ampere, later      what dense products reach of their kernels on A100, and on cards after it
    experts, prefill   the same for routed experts (times the root of the above: they keep tensor cores
                       less busy, so that less is lost), and for prefill attention
    memory             the same for reading weights and caches
    fp8, unpack, int4  experts in fp8 against their kernels; weights unpacked first; A100's 4-bit experts
                       against its dense products (Marlin; L40S: 0.855)
    sinks              prefill attention of heads with sinks on other cards than Hopper and B200: Triton's, which
                       computed windows in full
    routing_s          routing tokens to experts, per layer
    layer_s, sequence_s, request_s     the host, per layer of a step, sequence in it, and request
    overlap            the part of it that asynchronous scheduling (0.14 and later) leaves
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ledger import Run
from ledger_report import own_flags, predict

from melange_sky.profiles.constants import parse_generation
from melange_sky.steps import Generation

HERE = Path(__file__).resolve().parent
NAMES = (
    "ampere",
    "later",
    "experts",
    "prefill",
    "memory",
    "fp8",
    "unpack",
    "int4",
    "layer_s",
    "sequence_s",
    "request_s",
    "overlap",
    "sinks",
    "routing_s",
)
PRIOR = (0.77, 0.44, 0.85, 0.75, 0.93, 1.0, 0.7, 0.8, 3e-5, 3e-5, 2e-3, 0.4, 0.3, 2e-5)
OUTSIDE = (0.77, 0.44, 1.0, 1.0, 1.0, 1.0, 0.855, 0.855, 3e-5, 1.3e-5, 2e-3, 0.4, 0.5, 2e-5)
"""Priors that owe nothing to the ledger's modern runs, to see what the above owe to them: compute and the
host as fits of other labs' runs have them, packed weights as L40S's Marlin, all else as the kernels alone."""

WIDTH = (0.25, 0.25, 0.25, 0.2, 0.07, 0.25, 0.25, 0.3, 0.5, 0.5, 0.7, 0.4, 0.5, 0.5)
NOISE = 0.10, 0.13
"""Assumed relative noise of a run's rate and TPOT, against which the priors weigh."""

ALIKE = 8.0
"""So many runs weigh as one that is independent: those of one model on one card err alike."""

SMALL_GAP, SLOPE_STEP, LARGEST_MOVE, ROUNDS = 0.5, 0.04, 0.5, 40
"""Gaps below so many noises count by their square; step of the slopes; farthest from where they hold."""

LATENT = {"latent_layer_s": 5.6e-5, "index_layer_s": 1.0e-4, "index_token_s": 6.3e-7}
"""Latent attention, and its index (DeepSeek-V3.2), beyond what other attention takes, in seconds per layer:
the estimator's sums of vLLM 0.24's operations of DeepSeek-R1 and V3.2 over 8 GPUs (H100 and H200 alike
within 6 %; not a run is behind them). A token of a prompt waits for its index whatever the card."""

SAMPLER_BYTES = 15.0
"""V1 measures its peak with top-p sampling too, on every GPU: logits, a sorted copy with 8-byte indexes,
of which little was counted before. With `RUNTIME_ALONE_GIB` it leaves the caches that the ledger's runs
show: 32k tokens of Qwen3-32B on one H100, 60k of gpt-oss-120b."""

RUNTIME_ALONE_GIB = 0.2

STEP_S = 2e-4, 1e-4
"""Scheduling a step, without and with asynchronous scheduling."""

AMPERE = frozenset({"A100", "A100-80GB", "A10G", "A10", "A30", "A40", "A6000"})
WITHOUT_SINKS = AMPERE | {"L40S", "RTXPRO6000"}
"""Cards whose flash attention knows no sinks: Triton's kernel takes those."""

AS = {
    "A100": "A100-80GB",
    "H100-MEGA": "H100",
    "H100-PCIe": "H100",
    "H100-NVL": "H100",
    "GH200": "H200",
    "B300": "B200",
    "GB200": "B200",
    "L40": "L40S",
    "RTX6000-Ada": "L40S",
    "RTX4090": "L40S",
    "RTX5090": "RTXPRO6000",
    "A40": "A100-80GB",
    "A6000": "A100-80GB",
    "A30": "A100-80GB",
}
"""Cards without measured operations that take those of another of their architecture."""

OWN = {
    "A10G": {"bandwidth": 0.875, "compute": 0.65, "attention": 0.75, "layer_s": 3e-5},
    "A10": {"bandwidth": 0.85, "compute": 0.65, "attention": 0.75, "layer_s": 3e-5},
    "T4": {"bandwidth": 0.839, "compute": 0.5033, "attention": 0.4726, "layer_s": 3e-5},
    "L4": {"bandwidth": 0.9, "compute": 0.3, "attention": 0.78, "layer_s": 3e-5},
    "MI300X": {"bandwidth": 0.6, "compute": 0.3, "attention": 0.6, "layer_s": 3e-5},
}
for _figures, _source in (
    (
        "A10G",
        "no modern run exists: bandwidth and compute as under vllm-0.2, whose order of cards holds",
    ),
    ("A10", "no modern run exists: as fitted under tgis"),
    ("T4", "no modern run exists: as fitted under tgis"),
    ("L4", "no modern run exists: compute as under vllm-0.2 (72 W hold it below the data sheet)"),
    ("MI300X", "no modern run at hand: between the constants fitted under vllm-0.5"),
):
    OWN[_figures] = {**OWN[_figures], "source": _source}

Vector = np.ndarray[Any, Any]


def entries(
    z: Vector, base: Mapping[str, Any], dense_fp8: float | None = None
) -> dict[str, dict[str, Any]]:
    """Return the two generations as entries of engine_constants.json, `base` the one of today's."""
    served = dict(zip(NAMES, np.exp(z).tolist(), strict=True))
    served["dense_fp8"] = DENSE_FP8 if dense_fp8 is None else dense_fp8
    kernels = json.loads((HERE / "kernels.json").read_text(encoding="utf-8"))
    accelerators = {
        name: _card(card, served, name in AMPERE) for name, card in kernels["cards"].items()
    }
    for name in WITHOUT_SINKS & accelerators.keys():
        accelerators[name]["sinks"] = _short(served["sinks"])
    for name, like in AS.items():
        accelerators[name] = {**accelerators[like], "source": f"as {like}"}
    for name, figures in OWN.items():
        accelerators[name] = {**figures, "sinks": _short(served["sinks"]), **TRITON_SCAN}
    common = {
        "accelerators": accelerators,
        "default": {**accelerators["H200"], "source": "as H200"},
        "links": {
            links: {
                gpus: {k: v for k, v in row.items() if k != "median_error"}
                for gpus, row in rows.items()
            }
            for links, rows in kernels["links"].items()
        },
        "band": base["band"],
        "band_default": base["band_default"],
    }
    schedule = {
        **base["schedule"],
        "sampler_bytes": SAMPLER_BYTES,
        "runtime_alone_gib": RUNTIME_ALONE_GIB,
    }
    return {
        "vllm": {
            **common,
            "note": base["note"],
            "schedule": schedule,
            "overheads": _overheads(served, True),
        },
        "vllm-0.11": {
            **common,
            "note": base["note_sync"],
            "schedule": {**schedule, "gpu_memory_utilization": 0.9},
            "overheads": _overheads(served, False),
        },
    }


def _card(card: Mapping[str, Any], served: Mapping[str, float], ampere: bool) -> dict[str, Any]:
    compute = served["ampere" if ampere else "later"]
    memory, products, attention = served["memory"], card["products"], card["attention"]
    experts = compute**0.5 * served["experts"]
    plain = card["experts"]
    figures: dict[str, Any] = {
        **_products(products, memory, compute),
        "attention": _short(attention["attention"] * memory),
        "prefill": _short(attention["prefill"] * served["prefill"]),
        "experts": _products(plain, memory, experts),
        "layer_s": _short(4 * products["kernel_s"] + attention["start_s"] + ELEMENTWISE_STARTS_S),
        "expert_layer_s": _short(plain["start_s"] + served["routing_s"]),
        "prompt_layer_s": _short(max(0.0, attention["prefill_start_s"] - attention["start_s"])),
        "source": f"operations of vLLM {card['engine_version']}, served part fitted on the ledger",
    }
    linear = card.get("linear")
    if linear:
        figures["state"] = _short(linear["state"] * memory)
    figures["scan"] = _short((linear or TRITON_SCAN)["scan"] / memory)
    four = card["experts_int4"]
    if four:
        figures["experts_int4"] = _products(four, memory, experts)
    else:  # Marlin's kernels, which dense products of packed weights run in as well
        marlin = {**plain, "compute": products["compute"] * served["int4"]}
        figures["experts_int4"] = _products(marlin, memory, compute)
    if card["products_fp8"]:
        figures["fp8"] = _products(card["products_fp8"], memory, compute * served["dense_fp8"])
        eight = card["experts_fp8"]
        if eight["bandwidth"] < FP8_EXPERTS_LEAST:  # those kernels are not the ones that serve
            eight = {**plain, "compute": plain["compute"] * FP8_EXPERTS}
        figures["experts_fp8"] = _products(eight, memory, experts * served["fp8"])
    return figures


DENSE_FP8 = 0.7
"""Served, dense fp8 products gain next to nothing once they compute: on H100 requests per second of an
8B rise by 15 to 27 % in all, which reading half the weights explains."""

TRITON_SCAN = {"scan": 0.116}
"""Prompts in linear attention on L40S, for cards whose kernels of it were not measured."""

ELEMENTWISE_STARTS_S = 9e-6
"""Starting the three kernels of norms and activation of a layer, as the estimator of the tables has it."""

FP8_EXPERTS_LEAST = 0.3
"""Hopper's tables of fp8 experts are of kernels without tuning (0.1 of the bandwidth)."""

FP8_EXPERTS = 0.65
"""Fraction of the fp8 rate that experts reach in fp8, against that of bf16 (L40S, B200, RTX PRO 6000)."""


def _products(figures: Mapping[str, float], memory: float, compute: float) -> dict[str, float]:
    found = {
        "bandwidth": _short(figures["bandwidth"] * memory),
        "compute": _short(figures["compute"] * compute),
    }
    if "sharpness" in figures:
        found["sharpness"] = _short(figures["sharpness"])
    return found


def _overheads(served: Mapping[str, float], is_async: bool) -> dict[str, float]:
    part = served["overlap"] if is_async else 1.0
    return {
        "step_s": STEP_S[is_async],
        "layer_s": _short(served["layer_s"] * part**0.5),
        "sequence_s": _short(served["sequence_s"] * part),
        "vocabulary_s": 2e-11,
        "allreduce_nvlink_s": 1.208e-05,
        "allreduce_pcie_s": 3e-05,
        "interconnect": 0.6,
        "request_s": _short(served["request_s"]),
        "elementwise": 0.6,
        "weight_only": _short(served["unpack"]),
        "expert_skew": 0.87,
        **LATENT,
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def generations(z: Vector, base: Mapping[str, Any]) -> dict[bool, Generation]:
    """Return the generations without and with asynchronous scheduling."""
    found = entries(z, base)
    return {
        False: parse_generation("vllm-0.11", found["vllm-0.11"]),
        True: parse_generation("vllm", found["vllm"]),
    }


def gaps(z: Vector, runs: Sequence[Run], base: Mapping[str, Any]) -> Vector:
    """Return log(measured ÷ predicted) of rate and TPOT, shape (runs, 2), NaN where there is none."""
    served = generations(z, base)
    out = []
    for run in runs:
        rate_rps, tpot_s = predict(run, own_flags(run, served[run.is_async])) or (np.nan, np.nan)
        out.append(
            (np.log(run.rate_rps / rate_rps), np.log(run.tpot_s / tpot_s) if run.tpot_s else np.nan)
        )
    return np.array(out)


class Slopes(NamedTuple):
    """Gaps of all runs at some constants, shape (runs, 2), and their slopes, shape (runs, 2, constants).

    `prior` is the centre of the constants' priors.
    """

    at: Vector
    gaps: Vector
    slopes: Vector
    prior: Sequence[float] = PRIOR


def slopes(
    z: Vector, runs: Sequence[Run], base: Mapping[str, Any], prior: Sequence[float] = PRIOR
) -> Slopes:
    """Return the runs' gaps and how they change with each constant."""
    here = gaps(z, runs, base)
    found = [
        (gaps(z + SLOPE_STEP * unit, runs, base) - here) / SLOPE_STEP for unit in np.eye(len(z))
    ]
    return Slopes(at=z, gaps=here, slopes=np.nan_to_num(np.stack(found, axis=2)), prior=prior)


def solve(around: Slopes, kept: Vector) -> Vector:
    """Return the constants that fit the `kept` runs best where gaps change as told.

    They minimise the sum of |gap| ÷ noise, `ALIKE` runs weighing as one, and half the squares of the
    priors: by least squares that are weighted anew (Holland and Welsch, 1977).
    """
    known = ~np.isnan(around.gaps) & kept[:, None]
    noise = np.broadcast_to(NOISE, around.gaps.shape)
    rows = (around.slopes / noise[..., None])[known]
    start = (around.gaps / noise)[known]
    centre, prior = np.log(around.prior), ALIKE * np.diag(np.array(WIDTH) ** -2.0)
    z = around.at
    for _ in range(ROUNDS):
        weight = 1 / np.hypot(start + rows @ (z - around.at), SMALL_GAP)
        weighted = rows.T * weight
        pull = weighted @ (rows @ around.at - start) + prior @ centre
        z = np.linalg.solve(weighted @ rows + prior, pull)
        z = around.at + np.clip(z - around.at, -LARGEST_MOVE, LARGEST_MOVE)
    return z


def fit(
    runs: Sequence[Run], base: Mapping[str, Any], prior: Sequence[float] = PRIOR, passes: int = 5
) -> Slopes:
    """Return the slopes around the logarithms of the constants that fit all runs best."""
    around = slopes(np.log(prior), runs, base, prior)
    for _ in range(passes):
        around = slopes(solve(around, np.ones(len(runs), bool)), runs, base, prior)
    return around


STILL, REFITS = 0.005, 4
"""A refit ends once no constant moves by more, or after so many rounds."""


def refit(around: Slopes, kept: Vector, runs: Sequence[Run], base: Mapping[str, Any]) -> Vector:
    """Return the constants that fit the `kept` runs best, the others unseen.

    It starts from what fits all of them, but takes the slopes anew where it arrives.
    """
    some = [run for run, keep in zip(runs, kept, strict=True) if keep]
    everything = np.ones(len(some), bool)
    here = around._replace(gaps=around.gaps[kept], slopes=around.slopes[kept])
    for _ in range(REFITS):
        z = solve(here, everything)
        if np.abs(z - here.at).max() < STILL or not some:
            break
        here = slopes(z, some, base, around.prior)
    return z
