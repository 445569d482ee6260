"""The optimizer beside the binary-slice model, on random but lifelike fleets, in one run.

Rivals, written for this comparison and each capped at MELANGE_BENCH_CAP_S (default 60 s; a capped run
counts as its cap):

* binary slices, CBC: one 0/1 variable per (slice, option), slice factor 8, PuLP and CBC
  (the model of arXiv 2404.14527, §5.3);
* binary slices, HiGHS: the same model in process with HiGHS.

Told: wall seconds, ratios, whether ours was ever dearer; percentiles at 60 x 16 and 60 x 64; one
400 x 300 problem to a proven 0.01 % gap; peak memory; and how time grows with options and buckets
(also drawn on log axes to build/bench_optimizer.svg). Run: `make bench`.
"""

from __future__ import annotations

import math
import os
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pulp

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from melange_sky.optimizer import Problem, SolveOptions, optimize  # noqa: E402
from tests.optimizer.factories import demand, option  # noqa: E402

CAP_S = float(os.environ.get("MELANGE_BENCH_CAP_S", "60"))
SLICES = 8
OPTIONS = (4, 16, 32, 64)
RATES = (1.0, 30.0, 1000.0)


def lifelike(buckets: tuple[int, int], options: int, rate_rps: float, seed: int) -> Problem:
    """Options of varied bandwidth, FLOPS and memory; prices follow strength with noise."""
    rng = np.random.default_rng(seed)
    inputs = np.geomspace(25, 16000, buckets[0])[:, None]
    outputs = np.geomspace(25, 2000, buckets[1])[None, :]
    weights = rng.dirichlet(np.full(buckets[0] * buckets[1], 0.5)).reshape(buckets)
    rows = []
    for k in range(options):
        bandwidth, memory = rng.uniform(0.3, 5), rng.uniform(16, 140)
        flops = bandwidth * rng.uniform(60, 300)
        capacity = 1 / (
            inputs / (flops * 60) + outputs / (bandwidth * 1500) * (1 + inputs / (memory * 400))
        )
        capacity = capacity * rng.lognormal(0, 0.05, capacity.shape)
        fits = (inputs + outputs < memory * 250) | (memory > 70) | (k == 0)
        cells = [
            [float(c) if f else None for c, f in zip(line, ok, strict=True)]
            for line, ok in zip(capacity, np.broadcast_to(fits, capacity.shape), strict=True)
        ]
        price = 0.4 * bandwidth**0.9 * (memory / 40) ** 0.3 * rng.lognormal(0, 0.25)
        rows.append(option(f"o{k:03d}", round(float(price), 3), cells))
    return Problem(demands=(demand((weights * rate_rps).tolist(), *rows),))


def binary_slices(problem: Problem, solver: str) -> tuple[float, float | None]:
    """Return (wall seconds, cost) of the binary-slice model; the cost is None if none was found."""
    start = time.perf_counter()
    only = problem.demands[0]
    lp = pulp.LpProblem("slices", pulp.LpMinimize)
    n = range(len(only.options))
    counts = [lp.add_variable(f"x_{k}", 0, cat=pulp.LpInteger) for k in n]
    loads: list[list[tuple[pulp.LpVariable, float]]] = [[(counts[k], -1.0)] for k in n]
    for b, (i, j) in enumerate(only.workload.buckets()):
        for s in range(SLICES):
            picks = []
            for k in n:
                rate = only.options[k].rate(i, j)
                if rate is not None:
                    pick = lp.add_variable(f"z_{b}_{s}_{k}", 0, 1, pulp.LpInteger)
                    picks.append((pick, 1.0))
                    loads[k].append((pick, only.workload.rates_rps[i][j] / SLICES / rate))
            expression = pulp.LpAffineExpression(picks)
            lp.addConstraint(pulp.LpConstraint(expression, pulp.LpConstraintEQ, f"one_{b}_{s}", 1))
    for k in n:
        expression = pulp.LpAffineExpression(loads[k])
        lp.addConstraint(pulp.LpConstraint(expression, pulp.LpConstraintLE, f"load_{k}", 0))
    prices = [(counts[k], only.options[k].option.price_usd_per_hour) for k in n]
    lp.setObjective(pulp.LpAffineExpression(prices))
    if solver == "cbc":
        path = pulp.PULP_CBC_CMD.pulp_cbc_path
        lp.solve(pulp.COIN_CMD(path=path, msg=False, timeLimit=CAP_S, threads=1))
    else:
        lp.solve(pulp.HiGHS(msg=False, timeLimit=CAP_S, gapRel=0.0, threads=1))
    found = lp.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    cost = sum(round(x.varValue or 0) * price for x, price in prices) if found else None
    return min(time.perf_counter() - start, CAP_S), cost


def ours(problem: Problem, gap: float = 0.0) -> tuple[float, float, str]:
    """Return (wall seconds, cost, status) of the whole of `optimize`, ties and shares included."""
    start = time.perf_counter()
    solution = optimize(problem, SolveOptions(mip_gap=gap))
    return time.perf_counter() - start, solution.cost_usd_per_hour, solution.report.status


def against_rivals() -> None:
    """Print every point and the medians of the ratios."""
    ratios: dict[str, list[float]] = {"cbc": [], "highs": []}
    dearer = 0
    print(f"60 buckets, slice factor {SLICES}, cap {CAP_S:g} s; seconds and $/h")
    print("options   rate      ours         binary CBC         binary HiGHS")
    for n in OPTIONS:
        for rate in RATES:
            problem = lifelike((10, 6), n, rate, seed=n + int(rate))
            seconds, cost, _ = ours(problem)
            cells = []
            for solver in ("cbc", "highs"):
                rival_s, rival_cost = binary_slices(problem, solver)
                ratios[solver].append(rival_s / seconds)
                dearer += rival_cost is not None and cost > rival_cost * (1 + 1e-9)
                shown = "none" if rival_cost is None else f"${rival_cost:.3f}"
                cells.append(f"{rival_s:6.2f} {shown:>9} ({rival_s / seconds:5.0f}x)")
            print(
                f"{n:7d} {rate:6g} {seconds:6.2f} ${cost:<8.3f} {cells[0]}  {cells[1]}", flush=True
            )
    for solver, values in ratios.items():
        print(
            f"against {solver}: median {statistics.median(values):.0f}x, least {min(values):.1f}x faster"
        )
    print(f"dearer than a rival: {dearer} times")


def percentiles() -> None:
    """Print the 95th percentile of wall time at 60 x 16 and 60 x 64."""
    for n, runs in ((16, 20), (64, 20)):
        rates = np.geomspace(1, 1000, runs)
        times = sorted(ours(lifelike((10, 6), n, float(r), k))[0] for k, r in enumerate(rates))
        at = times[math.ceil(0.95 * runs) - 1]
        print(f"60 x {n}: median {statistics.median(times):.2f} s, 95th percentile {at:.2f} s")


def growth() -> None:
    """Print and draw how the time grows with options (60 buckets) and buckets (16 options)."""
    by_options = [(n, ours(lifelike((10, 6), n, 100.0, n))[0]) for n in (4, 8, 16, 32, 64, 128)]
    sizes = ((3, 2), (5, 3), (10, 6), (15, 8), (20, 12), (25, 16))
    by_buckets = [(a * b, ours(lifelike((a, b), 16, 100.0, a))[0]) for a, b in sizes]
    for name, points in (("options", by_options), ("buckets", by_buckets)):
        print(f"seconds by {name}: " + ", ".join(f"{n}: {s:.2f}" for n, s in points))
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    svg = _svg({"options (60 buckets)": by_options, "buckets (16 options)": by_buckets})
    (build / "bench_optimizer.svg").write_text(svg, encoding="utf-8")
    print("drawn to build/bench_optimizer.svg")


def _svg(series: dict[str, list[tuple[int, float]]]) -> str:
    def place(n: float, seconds: float) -> tuple[float, float]:
        return 60 + 170 * math.log10(n), 260 - 60 * (math.log10(seconds) + 3)

    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="620" height="300" font-size="11">']
    for power in range(-3, 2):
        y = place(1, 10**power)[1]
        parts.append(f'<text x="8" y="{y}">{10.0**power:g} s</text>')
        parts.append(f'<path d="M55 {y}H600" stroke="#ddd"/>')
    parts += [f'<text x="{place(n, 1)[0]}" y="285">{n}</text>' for n in (1, 10, 100, 1000)]
    for (name, points), colour in zip(series.items(), ("#06c", "#c30"), strict=True):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(n, s) for n, s in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        x, y = place(*points[-1])
        parts.append(f'<text x="{x - 60:.0f}" y="{y - 6:.0f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def large() -> None:
    """Print 400 x 300 to a proven 0.01 % gap, and the peak memory of all runs."""
    for rate in (30.0, 1000.0):
        seconds, cost, status = ours(lifelike((25, 16), 300, rate, int(rate)), gap=1e-4)
        print(f"400 x 300 at {rate:g} req/s, gap 0.01 %: {seconds:.2f} s, ${cost:.3f}/h, {status}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    percentiles()
    large()
    growth()
    against_rivals()
