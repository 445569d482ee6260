"""Judge the constants of today's vLLM by runs that they were not fitted on.

Every model family, accelerator and engine version is left out in turn, the constants are fitted anew on
the other runs, and foretell those left out. Models of latent attention are in no fit, and judged as well.
One lab stands behind all runs: with it left out too, the priors alone foretell.

The bands are judged alike: a run by the bands that the other groups' left-out residuals give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import served
from bands import band_classes, family_of
from ledger import Run, counted, read_ledger
from ledger_report import class_of, regime

from melange_sky.profiles.constants import parse_generation
from melange_sky.steps.bands import ErrorBand, kind_of

Vector = np.ndarray[Any, Any]

LEAST_RUNS, STATED, CHANCE = 8, 0.85, 0.05
"""A class of so many runs has to hold so large a share; what is less likely than chance is told."""


def version_of(run: Run) -> str:
    """Return the first two numbers of the engine's version."""
    return ".".join(run.version.split(".")[:2])


LEFT_OUT: dict[str, Callable[[Run], str]] = {
    "family": family_of,
    "accelerator": lambda run: run.accelerator,
    "version": version_of,
}


def runs_of_today() -> list[Run]:
    """Return the ledger's runs of today's vLLM that the constants are judged by."""
    runs = [run for run in counted(read_ledger()) if run.engine == "vllm" and run.pp == 1]
    return [run for run in runs if run.load != "batch"]


def is_fitted(run: Run) -> bool:
    """Return whether the constants speak of the run's kernels."""
    return kind_of(run.shape) != "latent"


def foretold(
    around: served.Slopes, runs: Sequence[Run], base: Mapping[str, Any], key: Callable[[Run], str]
) -> Vector:
    """Return log(measured ÷ foretold) of rate and TPOT, shape (runs, 2), each group unseen by its fit.

    `around` is the fit of all `runs` that can be fitted, in their order.
    """
    fitted = [run for run in runs if is_fitted(run)]
    found = np.full((len(runs), 2), np.nan)
    for group in sorted({key(run) for run in runs}):
        kept = np.array([key(run) != group for run in fitted], dtype=bool)
        z = around.at if kept.all() else served.refit(around, kept, fitted, base)
        chosen = [at for at, run in enumerate(runs) if key(run) == group]
        found[chosen] = served.gaps(z, [runs[at] for at in chosen], base)
    return found


def foretold_all(
    around: served.Slopes, runs: Sequence[Run], base: Mapping[str, Any]
) -> dict[str, Vector]:
    """Return `foretold` by each of the keys."""
    return {name: foretold(around, runs, base, key) for name, key in LEFT_OUT.items()}


def summary(gaps: Vector) -> dict[str, float]:
    """Return median and 90th percentile of |predicted ÷ measured − 1| of rate and TPOT."""
    out = {}
    for at, name in enumerate(("rate", "tpot")):
        errors = np.abs(np.expm1(-gaps[:, at]))
        if name == "tpot":
            errors = errors[~np.isnan(errors)]
        errors = np.nan_to_num(errors, nan=np.inf)  # a run that we say does not fit
        if len(errors):
            out[f"{name}_median"] = round(float(np.median(errors)), 3)
            out[f"{name}_p90"] = round(float(np.percentile(errors, 90)), 3)
    return out


def bands_unseen(
    runs: Sequence[Run],
    gaps: Mapping[str, Vector],
    base: Mapping[str, Any],
    key: Callable[[Run], str],
) -> list[ErrorBand]:
    """Return the band of every run from the residuals of the other groups alone."""
    found: list[ErrorBand | None] = [None] * len(runs)
    for group in {key(run) for run in runs}:
        others = np.array([key(run) != group for run in runs], dtype=bool)
        kept = [run for run, other in zip(runs, others, strict=True) if other]
        rows = band_classes(kept, [residuals[others] for residuals in gaps.values()])
        generation = parse_generation("left-out", {**base, "bands": rows})
        for at in np.flatnonzero(~others):
            run = runs[at]
            found[at] = generation.error_band(run.accelerator, run.shape, run.tp, regime(run))
    return [band for band in found if band is not None]


def held(gaps: Vector, bands: Sequence[ErrorBand]) -> Vector:
    """Return which measured rates lie in their bands, shape (runs,)."""
    ratio = np.exp(gaps[:, 0])
    low, high = np.array([(band.low, band.high) for band in bands]).T
    inside: Vector = (low <= ratio) & (ratio <= high)
    return inside


def lines(name: str, runs: Sequence[Run], gaps: Vector, bands: Sequence[ErrorBand]) -> list[str]:
    """Return what the runs left out by one key show, and the classes whose bands hold too few."""
    inside, figures = held(gaps, bands), summary(gaps)
    width = np.median([band.high / band.low for band in bands])
    rate = f"{figures['rate_median']:.1%}, {figures['rate_p90']:.0%}"
    tpot = f"{figures['tpot_median']:.1%}, {figures['tpot_p90']:.0%}"
    told = [
        f"{name:12} {len(runs):4} runs  rate {rate}  TPOT {tpot}  in band {inside.mean():.0%}, high ÷ low {width:.2f}"
    ]
    classes = [class_of(run) for run in runs]
    for one in sorted(set(classes)):
        those = inside[[known == one for known in classes]]
        if len(those) >= LEAST_RUNS and _chance(int(those.sum()), len(those)) < CHANCE:
            told.append(f"    too few in band: {one}: {those.sum()} of {len(those)}")
    return told


def groups(runs: Sequence[Run], gaps: Vector, key: Callable[[Run], str]) -> list[str]:
    """Return one line per group that was left out."""
    told = []
    for group in sorted({key(run) for run in runs}):
        those = gaps[[key(run) == group for run in runs]]
        bias = math.exp(-float(np.nanmedian(those[:, 0])))
        told.append(
            f"    {group:12} {len(those):4} runs, foretold ÷ measured {bias:.2f}, {summary(those)}"
        )
    return told


def _chance(inside: int, runs: int) -> float:
    """How likely no more than so many are inside where each is with the stated probability."""
    return sum(
        math.comb(runs, k) * STATED**k * (1 - STATED) ** (runs - k) for k in range(inside + 1)
    )


def report(base: Mapping[str, Any], prior: Sequence[float]) -> list[str]:
    """Return what left-out runs show under such priors: a line per key, and one per group of it."""
    runs = runs_of_today()
    around = served.fit([run for run in runs if is_fitted(run)], base, prior)
    unseen, told = foretold_all(around, runs, base), []
    for name, key in LEFT_OUT.items():
        bands = bands_unseen(runs, unseen, base, key)
        told += [*lines(name, runs, unseen[name], bands), *groups(runs, unseen[name], key)]
    alone = summary(served.gaps(np.log(prior), runs, base))
    return [*told, f"lab (these priors alone) {alone}"]
