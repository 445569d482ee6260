"""Bands of the estimates from residuals of runs that were left out of the fit (`left_out.py`).

Each run is predicted with its model family, its accelerator and its engine version left out in turn;
of the logarithms of measured ÷ predicted a class takes its 6th and 94th percentile, all families in it
weighing alike: runs of one family err alike, and a plan may be of another. A class of fewer
than eight runs takes its parent's: (card, dense or MoE, bits, regime) → (dense or MoE, bits,
regime) → (dense or MoE, regime) → all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from ledger import Run

from melange_sky.steps import regime_of
from melange_sky.steps.bands import bits_of, kind_of

LEAST_RUNS = 8
ENDS = 6, 94
WIDEST = 0.4, 2.0

Vector = np.ndarray[Any, Any]


FAMILIES = ("gpt-oss", "GLM-4", "Qwen3-235B", "Qwen3.5", "DeepSeek")


def family_of(run: Run) -> str:
    """Return the model family that is left out as one."""
    name = run.model.split("/")[-1]
    return next((f for f in FAMILIES if name.startswith(f)), name.split("-")[0])


def band_classes(runs: Sequence[Run], residuals: Sequence[Vector]) -> list[dict[str, Any]]:
    """Return the classes with enough runs, the narrowest first, as rows of engine_constants.json."""
    rate = np.array([r[:, 0] for r in residuals])
    rows = []
    for keys in (
        ("accelerators", "kind", "bits", "regime"),
        ("kind", "bits", "regime"),
        ("kind", "regime"),
        ("kind",),
        (),
    ):
        classes = [tuple((k, _facts(run)[k]) for k in keys) for run in runs]
        for one in dict.fromkeys(classes):
            chosen = np.array([known == one for known in classes])
            count = int(chosen.sum())
            if count < LEAST_RUNS:
                continue
            weight = _alike(
                [family_of(run) for run, is_one in zip(runs, chosen, strict=True) if is_one]
            )
            low, high = np.exp(_percentiles(rate[:, chosen], weight, ENDS))
            facts = {k: [v] if k == "accelerators" else v for k, v in one}
            rows.append(
                {
                    **facts,
                    "low": round(float(min(max(low, WIDEST[0]), 0.95)), 3),
                    "high": round(float(max(min(high, WIDEST[1]), 1.05)), 3),
                    "basis": f"{count} published runs, their model family, card and version left out in turn",
                }
            )
    cards = sorted({run.accelerator for run in runs})
    for row in rows:
        row.setdefault("accelerators", cards)
    return rows


def _alike(families: Sequence[str]) -> Vector:
    """Return weights of runs by which all their families weigh alike."""
    count = Counter(families)
    return np.array([1 / count[family] for family in families])


def _percentiles(values: Vector, weight: Vector, ends: Sequence[float]) -> Vector:
    """Return percentiles of weighted values (rows × runs), NaN left out, between their midpoints."""
    known = np.isfinite(values)
    weights = np.broadcast_to(weight, values.shape)[known]
    order = np.argsort(values[known])
    reached = np.cumsum(weights[order]) - weights[order] / 2
    found: Vector = np.interp(np.array(ends) / 100, reached / weights.sum(), values[known][order])
    return found


def _facts(run: Run) -> dict[str, Any]:
    return {
        "accelerators": run.accelerator,
        "kind": kind_of(run.shape),
        "bits": bits_of(run.shape),
        "regime": regime_of(run.input_tokens, run.concurrency),
    }
