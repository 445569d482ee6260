"""Bands of the estimates from residuals of runs that were left out of the fit.

Each run is predicted with its model family, its accelerator and its engine version left out in turn;
of the logarithms of measured ÷ predicted a class takes its 6th and 94th percentile. A class of fewer
than eight runs takes its parent's: (card, dense or MoE, bits, regime) → (dense or MoE, bits,
regime) → (dense or MoE, regime) → all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ledger import Run

from melange_sky.steps import regime_of
from melange_sky.steps.bands import bits_of, kind_of

LEAST_RUNS = 8
ENDS = 6, 94
WIDEST = 0.4, 2.0

Vector = np.ndarray[Any, Any]


def family_of(run: Run) -> str:
    """Return the model family that is left out as one."""
    name = run.model.split("/")[-1]
    for family in ("gpt-oss", "GLM-4", "Qwen3-235B", "Qwen3.5", "DeepSeek"):
        if name.startswith(family):
            return family
    return name.split("-")[0]


def version_of(run: Run) -> str:
    """Return the first two numbers of the engine's version."""
    return ".".join(run.version.split(".")[:2])


LEFT_OUT: dict[str, Callable[[Run], str]] = {
    "family": family_of,
    "accelerator": lambda run: run.accelerator,
    "version": version_of,
}


def left_out_gaps(
    runs: Sequence[Run],
    fit: Callable[[Vector], Any],
    gaps: Callable[[Any, Sequence[Run]], Vector],
) -> dict[str, Vector]:
    """Return, per way of leaving out, log(measured ÷ predicted) of rate and TPOT, shape (runs, 2).

    `fit` takes which runs are kept.
    """
    found = {}
    for name, key in LEFT_OUT.items():
        residuals = np.full((len(runs), 2), np.nan)
        for value in sorted({key(run) for run in runs}):
            chosen = [at for at, run in enumerate(runs) if key(run) == value]
            fitted = fit(np.array([key(run) != value for run in runs]))
            residuals[chosen] = gaps(fitted, [runs[at] for at in chosen])
        found[name] = residuals
    return found


def summary(gaps: Vector) -> dict[str, float]:
    """Return median and 90th percentile of |predicted ÷ measured − 1| of rate and TPOT."""
    out = {}
    for at, name in enumerate(("rate", "tpot")):
        errors = np.abs(np.expm1(-gaps[:, at]))
        if name == "tpot":
            errors = errors[~np.isnan(errors)]
        errors = np.nan_to_num(errors, nan=np.inf)  # a run that we say does not fit
        out[f"{name}_median"] = round(float(np.median(errors)), 3)
        out[f"{name}_p90"] = round(float(np.percentile(errors, 90)), 3)
    return out


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
            low, high = np.exp(np.nanpercentile(rate[:, chosen], ENDS))
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


def _facts(run: Run) -> dict[str, Any]:
    return {
        "accelerators": run.accelerator,
        "kind": kind_of(run.shape),
        "bits": bits_of(run.shape),
        "regime": regime_of(run.input_tokens, run.concurrency),
    }
