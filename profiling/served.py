"""Fit what a served token takes beside its kernels, on the ledger's runs of today's vLLM.

Kernel constants come from `kernels.json` (see operations.py). Served, kernels reach less than alone:
cards throttle, batches are mixed, inputs differ. Twelve constants close the gap, each with a prior
around 1 or its usual size, fitted by robust least squares on log(measured ÷ predicted) of rate and TPOT:

    ampere, later      what dense products reach of their kernels on A100, and on cards after it
    experts, prefill   the same for routed experts (times the above), and for prefill attention
    memory             the same for reading weights and caches
    fp8, unpack, int4  experts in fp8 against their kernels; weights unpacked first; A100's 4-bit experts
    layer_s, sequence_s, request_s     the host, per layer of a step, sequence in it, and request
    overlap            the part of it that asynchronous scheduling (0.14 and later) leaves
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
)
PRIOR = (0.8, 0.5, 0.85, 0.75, 0.93, 0.75, 0.7, 1.2, 3e-5, 3e-5, 2e-3, 0.4)
WIDTH = (0.25, 0.25, 0.25, 0.2, 0.07, 0.25, 0.25, 0.3, 0.5, 0.5, 0.7, 0.4)
NOISE = 0.12, 0.25
"""Assumed relative noise of a run's rate and TPOT, against which the priors weigh."""

LATENT = 1.5
"""DeepSeek-R1 and V3.2 on 8 H200 (14 runs), which the fit leaves out: kernels of latent and sparse
attention are not among the constants."""

SAMPLER_BYTES = 20.0
"""V1 measures its peak with top-p sampling too, on every GPU: logits, probabilities, a sorted copy of
them with 8-byte indexes."""

STEP_S = 2e-4, 1e-4
"""Scheduling a step, without and with asynchronous scheduling."""

AMPERE = frozenset({"A100", "A100-80GB", "A10G", "A10", "A30", "A40", "A6000"})
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
    for name, like in AS.items():
        accelerators[name] = {**accelerators[like], "source": f"as {like}"}
    accelerators |= {name: dict(figures) for name, figures in OWN.items()}
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
    schedule = {**base["schedule"], "sampler_bytes": SAMPLER_BYTES}
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
    experts = compute * served["experts"]
    plain = card["experts"]
    figures: dict[str, Any] = {
        **_products(products, memory, compute),
        "attention": _short(attention["attention"] * memory),
        "prefill": _short(attention["prefill"] * served["prefill"]),
        "experts": _products(plain, memory, experts),
        "layer_s": _short(4 * products["kernel_s"] + attention["start_s"] + ELEMENTWISE_STARTS_S),
        "expert_layer_s": _short(plain["start_s"]),
        "source": f"operations of vLLM {card['engine_version']}, served part fitted on the ledger",
    }
    four = card["experts_int4"] or {**plain, "compute": plain["compute"] * served["int4"]}
    figures["experts_int4"] = _products(four, memory, experts)
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
        "latent": LATENT,
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


def is_async(run: Run) -> bool:
    """Return whether the run was scheduled asynchronously: by flag, or by default since 0.14."""
    numbers = [int(x) for x in run.version.split(".")[:2]]
    return "--async-scheduling" in run.flag_values or numbers >= [0, 14]


def gaps(z: Vector, runs: Sequence[Run], base: Mapping[str, Any]) -> Vector:
    """Return log(measured ÷ predicted) of rate and TPOT, shape (runs, 2), NaN where there is none."""
    served = generations(z, base)
    out = []
    for run in runs:
        rate_rps, tpot_s = predict(run, own_flags(run, served[is_async(run)])) or (np.nan, np.nan)
        out.append(
            (np.log(run.rate_rps / rate_rps), np.log(run.tpot_s / tpot_s) if run.tpot_s else np.nan)
        )
    return np.array(out)


def fit(
    runs: Sequence[Run], base: Mapping[str, Any], start: Vector | None = None, evaluations: int = 6
) -> Vector:
    """Return the logarithms of the constants that fit the runs best."""
    from scipy.optimize import least_squares

    centre, width = np.log(PRIOR), np.array(WIDTH)

    def residuals(z: Vector) -> Vector:
        found = gaps(z, runs, base)
        rate = np.nan_to_num(found[:, 0], nan=1.0) / NOISE[0]
        tpot = np.nan_to_num(found[:, 1]) / NOISE[1]
        return np.concatenate([rate, tpot, (z - centre) / width])

    begin = centre if start is None else start
    return least_squares(residuals, begin, loss="soft_l1", diff_step=0.03, max_nfev=evaluations).x
