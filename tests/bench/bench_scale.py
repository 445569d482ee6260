"""Plans as people have them: SLOs and models without a shipped table, many models, large fleets.

Beside what we take: the same with every capacity simulated, the example, or the reader alone; and how time
grows. Every command starts as a user's does, in a process and a home of its own, and is cut off from
outside. Run: `make bench`, or this file alone.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from table import Beside, Figure, Growth, note

ROOT = Path(__file__).resolve().parents[2]
CUT_OFF_S = 90.0
LIMIT_S = 135.0
"""Just before `make bench` cuts off: what would not end by then is left out, and that is said."""
END_S = time.monotonic() + LIMIT_S
RUNS = 3
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
SPLIT = "Qwen/Qwen2.5-32B-Instruct"
BIG = ["L40S", "A100-80GB", "H100"]
GPUS = ["L4", "A10G", "L40S", "A100-80GB", "H100"]
RESOURCES = {"accelerators": GPUS, "infra": ["aws", "gcp", "azure/eastus"]}
EVERYTHING = (
    "import sys; from pathlib import Path; from melange_sky.planner.plan_spec import plan_spec; "
    "from melange_sky.planner.request import PlanRequest; from melange_sky.pricing import OfferQuery; "
    "print(plan_spec(Path(sys.argv[1]), PlanRequest(prices=OfferQuery(offline=True))).cost_usd_per_hour)"
)
"""A plan with every capacity simulated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One command: seconds of wall time, None where it was cut off, and what it printed."""

    wall_s: float | None
    output: str = ""


def run(arguments: Sequence[str]) -> Run:
    """Run Python once in a home of its own."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**ENVIRONMENT, "MELANGE_SKY_HOME": home, "MELANGE_SKY_OFFLINE": "1"}
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            output, _ = process.communicate(timeout=CUT_OFF_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return Run(wall_s=None)
        wall_s = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments[:4])} ended with {process.returncode}")
    return Run(wall_s=wall_s, output=output)


def best(arguments: Sequence[str], runs: int = RUNS) -> Run:
    """Return the fastest of some runs."""
    return min((run(arguments) for _ in range(runs)), key=lambda one: one.wall_s or math.inf)


def plan(spec: Path, out: Path, runs: int = RUNS) -> Run:
    """Plan a spec as a user does, with nothing kept from before."""
    return best(
        ["-m", "melange_sky", "plan", str(spec), "--offline", "--force", "-o", str(out)], runs
    )


def spec(folder: Path, name: str, **over: Any) -> Path:
    """Write the shipped example with something changed."""
    document = {
        "name": name,
        "model": LLAMA,
        "slo": {"tpot_ms": 60, "ttft_ms": 2000, "attainment": 0.95},
        "workload": {"rate_rps": 16, "distribution": "azure-conv-2023"},
        "resources": RESOURCES,
        "headroom": 0.1,
        **over,
    }
    path = folder / f"{name}.yaml"
    kept = {key: value for key, value in document.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
    return path


def many(folder: Path, count: int, **resources: Any) -> Path:
    """Write a spec of so many models at 2 to 63 req/s, of two distributions in turn."""
    models = [
        {
            "name": f"m{n}",
            "model": LLAMA,
            "slo": {"tpot_ms": 60, "ttft_ms": 2000, "attainment": 0.95},
            "workload": {
                "rate_rps": 2 + n * 61 / 49 % 62,
                "distribution": ("short-chat", "azure-conv-2023")[n % 2],
            },
        }
        for n in range(count)
    ]
    name = f"many{count}{'-tied' if resources else ''}"
    over = {"resources": {**RESOURCES, **resources}, "models": models}
    return spec(folder, name, model=None, slo=None, workload=None, **over)


def row(what: str, ours: Run, rival: Beside | None = None, **targets: Any) -> None:
    """Note a row of the table."""
    cut = f"cut off after {CUT_OFF_S:.0f} s" if ours.wall_s is None else ""
    words = "; ".join(filter(None, (cut, targets.pop("note", ""))))
    note(Figure(what=what, ours=ours.wall_s, rival=rival, note=words, **targets))


def growth(what: str, over: str, sizes: Sequence[int], runs: Sequence[Run]) -> None:
    """Note how the time grows."""
    values = tuple(one.wall_s for one in runs)
    note(Growth(what=what, over=over, sizes=tuple(sizes), values=values))


def fresh(folder: Path) -> Run:
    """Plan what no shipped table answers, beside the same with everything simulated."""
    shipped = plan(spec(folder, "shipped"), folder / "out")
    row("the shipped example, nothing kept", shipped)
    for name, over in (
        ("SLO", {"slo": {"tpot_ms": 47, "ttft_ms": 2000, "attainment": 0.95}}),
        ("model", {"model": "Qwen/Qwen2.5-7B-Instruct"}),
        (
            "model of several GPUs",
            {"model": SPLIT, "resources": {**RESOURCES, "accelerators": BIG}},
        ),
    ):
        path = spec(folder, f"fresh-{name.lower().replace(' ', '-')}", **over)
        ours, whole = plan(path, folder / "out"), run(["-c", EVERYTHING, str(path)])
        cost = json.loads((folder / "out" / "plan.json").read_text())["cost_usd_per_hour"]
        same = whole.wall_s is not None and abs(float(whole.output.split()[-1]) - cost) < 1e-6
        answer = "same cost" if same else "cost not compared" if whole.wall_s is None else "DIFFERS"
        everything = Beside(name="every cell simulated", value=whole.wall_s, note="cut off")
        row(f"a fresh {name}", ours, everything, at_most=3.0, note=answer)
    return shipped


def large(folder: Path, shipped: Run) -> None:
    """Plan large rates beside the example."""
    sizes, runs = (16, 1000, 10_000), [shipped]
    for rate in sizes[1:]:
        workload = {"rate_rps": rate, "distribution": "azure-conv-2023"}
        runs.append(plan(spec(folder, f"rate{rate}", workload=workload), folder / "out"))
        example = Beside(name="the example", value=shipped.wall_s)
        row(f"{rate:,} req/s", runs[-1], example, at_most=6 * (shipped.wall_s or math.nan))
    growth("plan of one model", "req/s", sizes, runs)


def models(folder: Path) -> None:
    """Plan many models that nothing ties."""
    sizes, runs = [1, 10, 50, 200], []
    for count in sizes:
        if runs and END_S - time.monotonic() < (runs[-1].wall_s or 0) * 6:
            print(f"{count} models left out: {LIMIT_S:.0f} s are nearly over")
            break
        runs.append(plan(many(folder, count), folder / f"many{count}", 1))
        document = json.loads((folder / f"many{count}" / "plan.json").read_text())
        size_mb = (folder / f"many{count}" / "plan.json").stat().st_size / 1e6
        told = f"{document['status']}, plan.json {size_mb:.2f} MB"
        row(f"{count} models that nothing ties", runs[-1], note=told)
    growth("plan of models that nothing ties", "models", sizes[: len(runs)], runs)


def tied(folder: Path) -> None:
    """Plan models under shared limits."""
    for count in (10, 50):
        limits = {"L40S": count, "H100": count // 2}
        planned = plan(many(folder, count, limits=limits), folder / "tied", 1)
        document = json.loads((folder / "tied" / "plan.json").read_text())
        idle = sum(not a["rate_rps"] for m in document["models"] for a in m["allocations"])
        told = f"gap {document['mip_gap']:.2%} (target ≤ 2 %), {idle} idle instances"
        row(
            f"{count} models, L40S ≤ {count}, H100 ≤ {count // 2}", planned, at_most=10.0, note=told
        )


def trace(folder: Path) -> None:
    """Read a trace of a million rows beside the reader alone."""
    path = folder / "trace.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        file.writelines(
            f"2026-01-05 {n // 72000:02d}:{n // 1200 % 60:02d}:{n % 1200 / 20:06.3f},"
            f"{n * 37 % 4000 + 1},{n * 13 % 400 + 1}\n"
            for n in range(10**6)
        )
    ours = best(["-m", "melange_sky", "workload", str(path), "--format", "json"], 2)
    reader = best(["-c", "import sys, polars; polars.read_csv(sys.argv[1])", str(path)], 2)
    row(
        "a trace of 10⁶ rows",
        ours,
        limit=Beside(name="Polars alone", value=reader.wall_s),
        of_limit=2.0,
    )


def main() -> None:
    """Note every row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shipped = fresh(folder)
        large(folder, shipped)
        trace(folder)
        tied(folder)
        models(folder)


if __name__ == "__main__":
    main()
