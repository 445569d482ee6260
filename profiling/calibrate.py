"""Fit the engine model's constants on measured data and write them with their residuals.

    python profiling/calibrate.py fit --data ../shared/data          # all generations, some minutes
    python profiling/calibrate.py fit --data ../shared/data --only vllm-0.5
    python profiling/calibrate.py check FILE.csv                     # any set in the two formats
    python profiling/calibrate.py ledger [MY.csv]                    # every published run at hand
    python profiling/calibrate.py leave-out --data ../shared/data    # what runs not fitted on show
    python profiling/calibrate.py leave-out --only vllm              # of today's, four minutes

Three constants per accelerator and generation (bandwidth, compute, attention; each a fraction of the
data sheet) and five overheads per generation are fitted by least squares on the logarithm of
measured ÷ predicted, with Gaussian priors on the logarithms that keep each constant physical. Needs
scipy, which the project itself does not.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import left_out
import numpy as np
import served
import step_check
from bands import band_classes
from ledger import counted, profile_runs, read_ledger
from ledger_report import class_of, judge, row_texts, table
from measured_sets import (
    MELANGE_PRICES,
    Row,
    below_knee,
    read_argonne,
    read_melange,
    read_pilot,
    read_rows,
)

from melange_sky.models import ModelShape, find_model
from melange_sky.names.accelerators import find_accelerator
from melange_sky.profiles import engine_generation
from melange_sky.profiles.constants import parse_generation
from melange_sky.slo import SLO
from melange_sky.steps import (
    Generation,
    ReplicaModel,
    RequestSizes,
    capacity_estimate,
    replica_model,
)
from melange_sky.steps.estimate import rate_at
from melange_sky.steps.stacked import held_sequences

HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "engine_constants.json"
OVERHEADS = ("step_s", "layer_s", "sequence_s", "allreduce_nvlink_s", "allreduce_pcie_s")
EFFICIENCIES = ("bandwidth", "compute", "attention")
NOISE = {"vllm-0.5": 0.06, "tgis": 0.12}
"""Assumed relative noise of a row, against which the priors weigh."""


NOTES = {
    "note": "vLLM 0.14 and later (asynchronous scheduling by default). Kernels from measured operations of "
    "vLLM 0.24 (A100: 0.14; kernels.json), the rest fitted on the ledger. No modern run exists for A10G, L4, "
    "A10, T4 and MI300X: measure them first.",
    "note_sync": "vLLM 0.10 to 0.13 (scheduling before each step). As vllm, with the host part that "
    "asynchronous scheduling hides.",
    "band": {"low": 0.55, "high": 1.7, "basis": "no published run of this kind"},
    "band_default": {
        "low": 0.45,
        "high": 1.9,
        "basis": "no published run on this accelerator: twice the spread of leaving accelerators out",
    },
}


def vector(entry: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the logarithms of an entry's constants: overheads, then three per accelerator."""
    numbers = [entry["overheads"][name] for name in OVERHEADS]
    numbers += [figures[n] for figures in entry["accelerators"].values() for n in EFFICIENCIES]
    return np.log(np.array(numbers))


def with_vector(entry: dict[str, Any], z: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return the entry with the constants of `vector` put in."""
    entry, numbers = copy.deepcopy(entry), iter(np.exp(z).tolist())
    for name in OVERHEADS:
        entry["overheads"][name] = next(numbers)
    for figures in entry["accelerators"].values():
        for name in EFFICIENCIES:
            figures[name] = next(numbers)
    return entry


def generation_of(name: str, entry: dict[str, Any]) -> Generation:
    """Return the entry as the engine takes it, its default the median of its accelerators."""
    entry["default"] = {
        n: float(np.median([f[n] for f in entry["accelerators"].values()])) for n in EFFICIENCIES
    }
    return parse_generation(name, entry)


def ratios(rows: Sequence[Row], generation: Generation) -> np.ndarray[Any, Any]:
    """Return log(measured ÷ predicted) of rate and of seconds per token, shape (rows, 2)."""
    out = []
    for row in rows:
        found = row.predict(generation)
        pair = (np.nan, np.nan) if found is None else found
        out.append((np.log(row.rate_rps / pair[0]), np.log(row.token_s / pair[1])))
    return np.array(out)


def summary(gaps: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return median, 90th percentile and worst of |predicted ÷ measured − 1|, and the band."""
    report: dict[str, Any] = {"rows": len(gaps)}
    for column, name in enumerate(("throughput", "tpot")):
        error = np.abs(np.expm1(-gaps[:, column]))
        error = error[np.isfinite(error)]
        report[name] = {
            "median": round(float(np.median(error)), 4),
            "p90": round(float(np.percentile(error, 90)), 4),
            "worst": round(float(error.max()), 4),
        }
    low, high = np.nanpercentile(np.exp(gaps[:, 0]), [5, 95])
    report["measured_over_predicted_p5_p95"] = [round(float(low), 3), round(float(high), 3)]
    return report


def fit_rows(
    name: str, entry: dict[str, Any], rows: Sequence[Row], evaluations: int
) -> dict[str, Any]:
    """Fit one generation on measured rows by robust least squares around its priors."""
    from scipy.optimize import least_squares

    centre, width = vector(entry["prior"]), prior_width(entry)
    start = entry["prior"]

    def residuals(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        gaps = ratios(rows, generation_of(name, with_vector(start, z)))
        gaps = gaps[:, :1] if name == "vllm-0.5" else gaps  # there both figures are one latency
        data = np.nan_to_num(gaps.reshape(-1), nan=3.0) / NOISE[name]
        return np.concatenate([data, (z - centre) / width])

    found = least_squares(residuals, centre, loss="soft_l1", diff_step=1e-2, max_nfev=evaluations)
    return with_vector(start, found.x)


def fit_apart(
    name: str, entry: dict[str, Any], rows: Sequence[Row], accelerator: str
) -> dict[str, float]:
    """Fit the three constants of one more accelerator, the generation's overheads held as they are."""
    from scipy.optimize import least_squares

    mine = [r for r in rows if r.accelerator == accelerator]
    centre = np.log(np.array([entry["default"][n] for n in EFFICIENCIES]))

    def residuals(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        trial = copy.deepcopy(entry)
        trial["accelerators"][accelerator] = dict(
            zip(EFFICIENCIES, np.exp(z).tolist(), strict=True)
        )
        gaps = ratios(mine, parse_generation(name, trial))[:, 0]
        return np.concatenate([np.nan_to_num(gaps, nan=3.0) / 0.15, z - centre])

    found = least_squares(residuals, centre, loss="soft_l1", diff_step=2e-2, max_nfev=15).x
    return {n: float(f"{v:.4g}") for n, v in zip(EFFICIENCIES, np.exp(found), strict=True)}


def prior_width(entry: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the priors' widths on the logarithms, in the order of `vector`."""
    widths = entry["prior_width"]
    per_accelerator = [widths[n] for n in EFFICIENCIES] * len(entry["prior"]["accelerators"])
    return np.array([widths["overheads"]] * len(OVERHEADS) + per_accelerator)


# --- vllm-0.2 on the Mélange table: which accelerator gives the most tokens per dollar -------------


def melange_margins(
    table: list[tuple[int, int, str, float]], generation: Generation
) -> np.ndarray[Any, Any]:
    """Return, per size, log tokens per dollar of the table's winner over the best other one."""
    sizes = np.array([row[:2] for row in table], dtype=np.float64)
    load = RequestSizes(input_tokens=sizes[:, 0], output_tokens=sizes[:, 1])
    values = []
    for name, price in MELANGE_PRICES.items():
        replica = melange_replica(name, generation)
        batch = np.minimum(held_sequences(replica, load), float(replica.max_num_seqs))
        value = np.log(rate_at(replica, load, batch) / price)
        outside = sizes.sum(axis=1) > replica.pool.tokens
        outside |= (sizes[:, 0] >= 12000) & (name in ("L4", "A10G"))  # not compared there
        values.append(np.where(outside, -9.0, value))
    return _margin(np.array(values), [list(MELANGE_PRICES).index(row[2]) for row in table])


def _margin(values: np.ndarray[Any, Any], winners: list[int]) -> np.ndarray[Any, Any]:
    columns = np.arange(values.shape[1])
    best = values[winners, columns]
    rest = values.copy()
    rest[winners, columns] = -np.inf
    return best - rest.max(axis=0)


def melange_replica(name: str, generation: Generation) -> ReplicaModel:
    """Return Llama-2-7b on one GPU, its context raised to the table's sizes."""
    replica = replica_model(melange_model(), find_accelerator(name), 1, generation)
    assert isinstance(replica, ReplicaModel)
    return replica


def melange_model() -> ModelShape:
    """Return Llama-2-7b as the table was made: far past its context of 4096."""
    return find_model("meta-llama/Llama-2-7b-hf")


def melange_slo_margins(generation: Generation) -> np.ndarray[Any, Any]:
    """Margins of the two TPOT facts: A100-80GB wins 25…500 at 40 ms, A10G wins 25…100 from 100 ms."""
    out = []
    facts = ((0.04, "A100-80GB", 4), (0.1, "A10G", 2), (0.12, "A10G", 2), (0.16, "A10G", 2))
    for limit_s, winner, count in facts:
        sizes = np.array([25.0, 100.0, 250.0, 500.0][:count])
        load = RequestSizes(
            input_tokens=np.repeat(sizes, count), output_tokens=np.tile(sizes, count)
        )
        slo = SLO(tpot_s=limit_s, attainment=0.5)
        values = [
            np.log(
                np.maximum(
                    capacity_estimate(melange_replica(n, generation), load, slo).rate_rps, 1e-9
                )
                / p
            )
            for n, p in MELANGE_PRICES.items()
        ]
        out.append(_margin(np.array(values), [list(MELANGE_PRICES).index(winner)] * count**2))
    return np.concatenate(out)


def fit_melange(
    entry: dict[str, Any], table: list[tuple[int, int, str, float]], evaluations: int
) -> dict[str, Any]:
    """Fit vllm-0.2: hinges on who wins, a pull towards the margins read off, and the priors."""
    from scipy.optimize import minimize

    percent = np.array([row[3] for row in table])
    goal, weight = np.log1p(np.minimum(percent, 60.0) / 100), np.where(percent > 15, 1.0, 0.6)
    start = entry["prior"]
    centre, width = vector(start), prior_width(entry)
    ceiling = np.log(
        np.array([np.inf] * len(OVERHEADS) + [0.95, 0.9, 0.95] * len(start["accelerators"]))
    )

    def loss(z: np.ndarray[Any, Any]) -> float:
        generation = generation_of("vllm-0.2", with_vector(start, z))
        margins = melange_margins(table, generation)
        lost = np.maximum(0.0, np.minimum(0.04, goal) + 0.01 - margins)
        value = 40 * np.sum(weight * lost) + 0.6 * np.sum(np.clip(margins - goal, -0.5, 0.5) ** 2)
        value += 20 * np.sum(np.maximum(0.0, 0.04 - melange_slo_margins(generation)))
        value += 0.25 * np.sum(((z - centre) / width) ** 2)
        return float(value + 2000 * np.sum(np.maximum(0.0, z - ceiling) ** 2))

    z = centre
    for _ in range(4):
        z = minimize(
            loss, z, method="Nelder-Mead", options={"maxfev": evaluations, "adaptive": True}
        ).x
    return with_vector(start, z)


def melange_summary(
    table: list[tuple[int, int, str, float]], generation: Generation
) -> dict[str, Any]:
    """Return how many sizes agree and which do not, by the analytic estimate."""
    margins = melange_margins(table, generation)
    missed = [row for row, margin in zip(table, margins, strict=True) if margin <= 0]
    return {
        "sizes": len(table),
        "agree": int((margins > 0).sum()),
        "missed": [f"{i}/{o} {best} by {percent:g} %" for i, o, best, percent in missed],
        "slo_facts_hold": bool((melange_slo_margins(generation) > 0).all()),
    }


# --- commands --------------------------------------------------------------------------------------


def fit(data: Path, only: str | None, evaluations: int) -> None:
    """Fit generations and write them, with residuals, into engine_constants.json."""
    document = json.loads(OUTPUT.read_text(encoding="utf-8"))
    sets = {
        "vllm-0.5": read_argonne(data / "measured_argonne_vllm_llama2_7b.csv"),
        "tgis": below_knee(read_pilot(data / "measured_llmpilot_llama2_7b.csv")),
    }
    for name, rows in sets.items():
        if only in (None, name):
            entry = document["generations"][name]
            fitted = [r for r in rows if r.accelerator in entry["prior"]["accelerators"]]
            take(entry, name, fit_rows(name, entry, fitted, evaluations))
            if name == "vllm-0.5":
                entry["accelerators"]["MI300X"] = fit_apart(name, entry, rows, "MI300X")
            entry["residuals"] = residual_report(rows, parse_generation(name, entry))
            print(name, json.dumps(entry["residuals"], indent=1))
    if only in (None, "vllm"):
        fit_served(document["generations"])
    if only in (None, "vllm-0.2"):
        table = read_melange(data / "melange_best_accelerator.csv")
        entry = document["generations"]["vllm-0.2"]
        take(entry, "vllm-0.2", fit_melange(entry, table, evaluations * 60))
        entry["residuals"] = melange_summary(table, parse_generation("vllm-0.2", entry))
        print("vllm-0.2", json.dumps(entry["residuals"], indent=1))
    OUTPUT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def fit_served(generations: dict[str, Any]) -> None:
    """Fit today's generations on the ledger, with bands from runs left out in turn."""
    base = {**generations["vllm"], **NOTES}
    runs = left_out.runs_of_today()
    around = served.fit([r for r in runs if left_out.is_fitted(r)], base)
    unseen = left_out.foretold_all(around, runs, base)
    found = served.entries(around.at, base)
    bands = band_classes(runs, list(unseen.values()))
    constants = dict(zip(served.NAMES, np.exp(around.at).tolist(), strict=True))
    residuals = {
        "fitted": left_out.summary(around.gaps),
        "left_out": {name: left_out.summary(gaps) for name, gaps in unseen.items()},
        "runs": len(runs),
    }
    for entry in found.values():
        entry["bands"] = bands
        entry["residuals"] = residuals
        entry["served"] = {name: float(f"{value:.4g}") for name, value in constants.items()}
    generations |= found
    print(
        "vllm", json.dumps({"served": constants, "residuals": residuals, "bands": bands}, indent=1)
    )


def take(entry: dict[str, Any], name: str, fitted: dict[str, Any]) -> None:
    """Put fitted constants (4 digits) into an entry; accelerators that were not fitted stay."""
    generation_of(name, fitted)
    entry["overheads"] = {k: float(f"{v:.4g}") for k, v in fitted["overheads"].items()}
    for accelerator, figures in fitted["accelerators"].items():
        entry["accelerators"][accelerator] = {k: float(f"{figures[k]:.4g}") for k in EFFICIENCIES}
    entry["default"] = {k: float(f"{v:.4g}") for k, v in fitted["default"].items()}


def residual_report(rows: Sequence[Row], generation: Generation) -> dict[str, Any]:
    """Return residuals over NVIDIA and over AMD accelerators, and per accelerator."""
    amd = [r for r in rows if r.accelerator.startswith("MI")]
    nvidia = [r for r in rows if not r.accelerator.startswith("MI")]
    report: dict[str, Any] = {"nvidia": summary(ratios(nvidia, generation))}
    for accelerator in sorted({r.accelerator for r in rows}):
        mine = [r for r in rows if r.accelerator == accelerator]
        report[accelerator] = summary(ratios(mine, generation))
    return report if amd else {k: v for k, v in report.items() if not k.startswith("MI")}


def leave_out(data: Path, only: str | None, evaluations: int) -> None:
    """Fit with each accelerator left out in turn and report the error on it (it takes the default)."""
    document = json.loads(OUTPUT.read_text(encoding="utf-8"))
    if only in (None, "vllm"):
        base = {**document["generations"]["vllm"], **NOTES}
        for name, prior in (("as shipped", served.PRIOR), ("from outside", served.OUTSIDE)):
            print(f"priors {name}:", *left_out.report(base, prior), sep="\n")
    sets = {
        "vllm-0.5": read_argonne(data / "measured_argonne_vllm_llama2_7b.csv"),
        "tgis": below_knee(read_pilot(data / "measured_llmpilot_llama2_7b.csv")),
    }
    for name, rows in sets.items():
        if only not in (None, name):
            continue
        entry = document["generations"][name]
        report = {}
        for left in entry["prior"]["accelerators"]:
            reduced = copy.deepcopy(entry)
            del reduced["prior"]["accelerators"][left]
            kept = [r for r in rows if r.accelerator in reduced["prior"]["accelerators"]]
            fitted = fit_rows(name, reduced, kept, evaluations)
            report[left] = summary(
                ratios([r for r in rows if r.accelerator == left], generation_of(name, fitted))
            )
        entry["leave_one_accelerator_out"] = report
        print(name, json.dumps(report, indent=1))
    OUTPUT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def check(path: Path, engine: str | None) -> None:
    """Print the error on any set in the two formats, over all and per (model, accelerator, tp)."""
    rows = below_knee(read_rows(path))
    generation = engine_generation(engine or rows[0].generation)
    print("all", json.dumps(summary(ratios(rows, generation))))
    for key in sorted({(r.model, r.accelerator, r.tensor_parallel) for r in rows}):
        mine = [r for r in rows if (r.model, r.accelerator, r.tensor_parallel) == key]
        print(*key, json.dumps(summary(ratios(mine, generation))))


def steps(path: Path) -> None:
    """Print how far the kernel law is from steps summed from measured operations."""
    document = json.loads(OUTPUT.read_text(encoding="utf-8"))
    base = {**document["generations"]["vllm"], **NOTES}
    print("\n".join(step_check.report(path, base)))


def ledger(file: Path | None, rows: bool) -> None:
    """Print error and coverage over the ledger's runs (and those of a file), by class and source."""
    own = profile_runs(file) if file and file.is_dir() else []
    runs = counted([*read_ledger([file] if file and not own else []), *own])
    judged = judge(runs)
    if rows:
        print("\n".join(row_texts(judged)), end="\n\n")
    print("\n".join(table(judged, class_of)), end="\n\n")
    print("\n".join(table(judged, lambda run: f"{run.source[:36]} {run.version}")))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=["fit", "leave-out", "check", "ledger", "steps"])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--only")
    parser.add_argument("--engine")
    parser.add_argument("--rows", action="store_true", help="ledger: every run beside ours")
    parser.add_argument("--evaluations", type=int, default=25)
    given = parser.parse_args()
    if given.command == "fit":
        fit(given.data, given.only, given.evaluations)
    elif given.command == "leave-out":
        leave_out(given.data, given.only, given.evaluations)
    elif given.command == "steps":
        steps(given.file or given.data / "vllm_step_times_from_measured_ops.csv")
    elif given.command == "ledger":
        ledger(given.file, given.rows)
    elif given.file is None:
        parser.error("check needs a FILE.csv")
    else:
        check(given.file, given.engine)


if __name__ == "__main__":
    main()
