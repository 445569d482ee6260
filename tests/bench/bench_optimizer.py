"""The optimizer beside rival models of the same problem, in one run.

Rivals, written for this comparison and each capped at MELANGE_BENCH_CAP_S (default 60 s; a capped run
counts as its cap, so that a lower cap can only make the ratios told smaller; it is held from outside):

* binary CBC: one 0/1 variable per (slice, option), slice factor 8, PuLP and CBC
  (the model of arXiv 2404.14527, §5.3);
* binary HiGHS: the same model in process with HiGHS;
* per-slice HiGHS: one whole number 0…8 per (bucket, option), no more tricks, HiGHS.

Told: wall seconds (ours: the median of three runs of the whole of `optimize`), ratios, whether ours
was ever dearer; percentiles at 60 x 16 and 60 x 64; one 400 x 300 problem to a proven 0.01 % gap; peak
memory; and how time grows with options and buckets (also drawn on log axes to
build/bench_optimizer.svg); what a sweep gains from its earlier points. MELANGE_BENCH_RATES thins the rates of the grid. Run: `make bench`.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pulp

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from melange_sky.capacities import OptionCapacity  # noqa: E402
from melange_sky.optimizer import Problem, SolveOptions, optimize  # noqa: E402
from melange_sky.optimizer.answers.rate_sweep import PriceStep, at_rate, sweep_rates  # noqa: E402
from melange_sky.planner.prepare import problem_for  # noqa: E402
from melange_sky.planner.request import PlanRequest  # noqa: E402
from melange_sky.pricing import OfferQuery  # noqa: E402
from melange_sky.spec import AcceleratorChoice, Spec, load_spec  # noqa: E402
from tests.optimizer.factories import demand, option  # noqa: E402

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

CAP_S = float(os.environ.get("MELANGE_BENCH_CAP_S", "60"))
SLICES = 8
OPTIONS = (4, 16, 32, 64)
RATES = [float(r) for r in os.environ.get("MELANGE_BENCH_RATES", "1,10,100,1000").split(",")]
FOUR_GPUS = ("L4", "A10G", "A100-80GB", "H100")
SPAWN = multiprocessing.get_context("spawn")
RIVALS = ("binary CBC", "binary HiGHS", "per-slice HiGHS")


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


def real_gpus(rate_rps: float) -> Problem:
    """Four GPUs of the snapshot at their cheapest, with shipped estimates, on the example's traffic.

    On the example's clouds and on the default grid of 60 buckets, not all of which have a rate.
    """
    spec = load_spec(ROOT / "examples" / "chat.yaml")
    assert isinstance(spec, Spec)
    wanted = replace(
        spec,
        resources=replace(
            spec.resources,
            accelerators=tuple(AcceleratorChoice(name=n) for n in FOUR_GPUS),
        ),
    )
    problem = problem_for(wanted, PlanRequest(prices=OfferQuery(offline=True)))
    (only,) = problem.demands
    cheapest: dict[str, OptionCapacity] = {}
    for capacity in only.options:
        name, price = capacity.option.accelerator, capacity.option.price_usd_per_hour
        if capacity.option.accelerator_count == 1 and (
            name not in cheapest or price < cheapest[name].option.price_usd_per_hour
        ):
            cheapest[name] = capacity
    alone = replace(only, options=tuple(cheapest[name] for name in FOUR_GPUS))
    return at_rate(Problem(demands=(alone,)), rate_rps)


def rival(problem: Problem, name: str) -> tuple[float, float | None]:
    """Return (wall seconds, cost) of a rival; the cost is None if none was found.

    It runs in a process of its own, for HiGHS minds its time limit at some of these models only now
    and then: what is not back by the cap is ended from outside.
    """
    here, there = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_answer, args=(problem, name, there), daemon=True)
    process.start()
    there.close()
    assert here.recv() == "ready"
    try:
        answer = here.recv() if here.poll(CAP_S * 1.1 + 1) else (CAP_S, None)
    finally:
        process.kill()
        process.join()
    found: tuple[float, float | None] = answer
    return found


def _answer(problem: Problem, name: str, there: Connection) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # HiGHS's banner
    there.send("ready")
    there.send(_solve(problem, name))


def _solve(problem: Problem, name: str) -> tuple[float, float | None]:
    start = time.perf_counter()
    only = problem.demands[0]
    parts = SLICES if name.startswith("binary") else 1
    lp = pulp.LpProblem("slices", pulp.LpMinimize)
    n = range(len(only.options))
    counts = [lp.add_variable(f"x_{k}", 0, cat=pulp.LpInteger) for k in n]
    loads: list[list[tuple[pulp.LpVariable, float]]] = [[(counts[k], -1.0)] for k in n]
    for b, (i, j) in enumerate(only.workload.buckets()):
        for s in range(parts):
            picks = []
            for k in n:
                rate = only.options[k].rate(i, j)
                if rate is not None:
                    pick = lp.add_variable(f"z_{b}_{s}_{k}", 0, SLICES // parts, pulp.LpInteger)
                    picks.append((pick, 1.0))
                    loads[k].append((pick, only.workload.rates_rps[i][j] / SLICES / rate))
            row = pulp.LpConstraint(
                pulp.LpAffineExpression(picks),
                pulp.LpConstraintEQ,
                f"one_{b}_{s}",
                SLICES // parts,
            )
            lp.addConstraint(row)
    for k in n:
        expression = pulp.LpAffineExpression(loads[k])
        lp.addConstraint(pulp.LpConstraint(expression, pulp.LpConstraintLE, f"load_{k}", 0))
    prices = [(counts[k], only.options[k].option.price_usd_per_hour) for k in n]
    lp.setObjective(pulp.LpAffineExpression(prices))
    if name == "binary CBC":
        path = pulp.PULP_CBC_CMD.pulp_cbc_path
        lp.solve(pulp.COIN_CMD(path=path, msg=False, timeLimit=CAP_S, threads=1))
    else:
        lp.solve(pulp.HiGHS(msg=False, timeLimit=CAP_S, gapRel=0.0, threads=1))
    found = lp.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    cost = sum(round(x.varValue or 0) * price for x, price in prices) if found else None
    return min(time.perf_counter() - start, CAP_S), cost


def ours(problem: Problem, gap: float = 0.0, runs: int = 1) -> tuple[float, float, str]:
    """Return (median wall seconds, cost, status) of the whole of `optimize`, ties and shares too."""
    seconds = []
    while True:
        start = time.perf_counter()
        solution = optimize(problem, SolveOptions(mip_gap=gap))
        seconds.append(time.perf_counter() - start)
        if len(seconds) == runs:
            return statistics.median(seconds), solution.cost_usd_per_hour, solution.report.status


def against_rivals(title: str, problems: dict[str, Problem]) -> None:
    """Print every point and the medians of the ratios."""
    ratios: dict[str, list[float]] = {name: [] for name in RIVALS}
    dearer = 0
    buckets = len(next(iter(problems.values())).demands[0].workload.buckets())
    print(
        f"{title}: {buckets} buckets with a rate, slice factor {SLICES}, cap {CAP_S:g} s; seconds and $/h"
    )
    print("options @ req/s        ours   " + "".join(f"{name:>27}" for name in RIVALS))
    for label, problem in problems.items():
        seconds, cost, _ = ours(problem, runs=3)
        cells = []
        for name in RIVALS:
            rival_s, rival_cost = rival(problem, name)
            ratios[name].append(rival_s / seconds)
            dearer += rival_cost is not None and cost > rival_cost * (1 + 1e-9)
            shown = "none" if rival_cost is None else f"${rival_cost:.3f}"
            capped = "*" if rival_s >= CAP_S else " "
            cells.append(f"{rival_s:7.3f}{capped} {shown:>9} {rival_s / seconds:6.1f}x")
        print(f"{label:13} {seconds:7.3f} ${cost:<8.3f}" + "  ".join(cells), flush=True)
    for name, values in ratios.items():
        middle = statistics.median(values)
        print(f"  faster than {name}: median {middle:.1f}x, least {min(values):.1f}x")
    print(f"  dearer than a rival: {dearer} times; * = capped at {CAP_S:g} s", flush=True)


def percentiles() -> None:
    """Print the 95th percentile of wall time at 60 x 16 and 60 x 64."""
    for n, runs in ((16, 20), (64, 20)):
        rates = np.geomspace(1, 1000, runs)
        times = sorted(ours(lifelike((10, 6), n, float(r), k))[0] for k, r in enumerate(rates))
        at = times[math.ceil(0.95 * runs) - 1]
        print(f"60 x {n}: median {statistics.median(times):.2f} s, 95th percentile {at:.2f} s")


def growth() -> None:
    """Print and draw how the time grows with options (60 buckets) and buckets (16 options)."""
    by_options = [
        (n, ours(lifelike((10, 6), n, 100.0, n), runs=3)[0]) for n in (4, 8, 16, 32, 64, 128)
    ]
    sizes = ((3, 2), (5, 3), (10, 6), (15, 8), (20, 12), (25, 16))
    by_buckets = [(a * b, ours(lifelike((a, b), 16, 100.0, a), runs=3)[0]) for a, b in sizes]
    for name, points in (("options", by_options), ("buckets", by_buckets)):
        print(f"seconds by {name}: " + ", ".join(f"{n}: {s:.3f}" for n, s in points))
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    svg = _svg({"by options (60 buckets)": by_options, "by buckets (16 options)": by_buckets})
    (build / "bench_optimizer.svg").write_text(svg, encoding="utf-8")
    print("drawn to build/bench_optimizer.svg", flush=True)


LEFT, RIGHT, TOP, BOTTOM = 70, 600, 46, 320


def _svg(series: dict[str, list[tuple[int, float]]]) -> str:
    """Draw the series on two log axes of whole decades, with a grid line at 2 and 5 too."""
    every = [point for points in series.values() for point in points]
    low = math.floor(math.log10(min(s for _, s in every)))
    high = math.ceil(math.log10(max(s for _, s in every)))
    wide = math.ceil(math.log10(max(n for n, _ in every)))

    def place(n: float, seconds: float) -> tuple[float, float]:
        x = LEFT + (RIGHT - LEFT) * math.log10(n) / wide
        return x, BOTTOM - (BOTTOM - TOP) * (math.log10(seconds) - low) / (high - low)

    def text(x: float, y: float, words: str, anchor: str, colour: str = "#333") -> str:
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'
        )

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="370" font-family="sans-serif" font-size="12">',
        '<rect width="640" height="370" fill="white"/>',
        text((LEFT + RIGHT) / 2, 24, "Time of one optimisation, 100 req/s", "middle"),
        text((LEFT + RIGHT) / 2, 358, "options, or buckets with a rate", "middle"),
    ]
    for power in range(low, high + 1):
        for step in (1, 2, 5) if power < high else (1,):
            y = place(1, step * 10.0**power)[1]
            shade = "#bbb" if step == 1 else "#eee"
            parts.append(f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="{shade}"/>')
            if step == 1:
                parts.append(text(LEFT - 8, y + 4, f"{10.0**power:g} s", "end"))
    for power in range(wide + 1):
        for step in (1, 2, 5) if power < wide else (1,):
            x = place(step * 10.0**power, 10.0**low)[0]
            shade = "#bbb" if step == 1 else "#eee"
            parts.append(f'<path d="M{x:.1f} {TOP}V{BOTTOM}" stroke="{shade}"/>')
            parts.append(text(x, BOTTOM + 17, f"{step * 10**power}", "middle"))
    for at, ((name, points), colour) in enumerate(
        zip(series.items(), ("#06c", "#c30"), strict=True)
    ):
        spots = [place(n, s) for n, s in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in spots]
        y = TOP + 20 + 18 * at
        parts.append(f'<path d="M{LEFT + 12} {y - 4}h22" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(LEFT + 40, y, name, "start", colour))
    return "\n".join([*parts, "</svg>\n"])


def large() -> None:
    """Print 400 x 300 to a proven 0.01 % gap, and the peak memory of all runs."""
    for rate in (30.0, 1000.0):
        seconds, cost, status = ours(lifelike((25, 16), 300, rate, int(rate)), gap=1e-4)
        print(f"400 x 300 at {rate:g} req/s, gap 0.01 %: {seconds:.2f} s, ${cost:.3f}/h, {status}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB")


def sweeps() -> None:
    """Print how much sooner a sweep is done with each point's fleet carried to the next."""
    for n in (16, 64):
        problem, rates = lifelike((10, 6), n, 1.0, n), tuple(2.0**e for e in range(8))
        prices = (PriceStep(), PriceStep(factor=1.2, accelerator="o000"))
        start = time.perf_counter()
        cold = [
            sweep_rates(problem, SolveOptions(), (r,), None, (p,))[0] for p in prices for r in rates
        ]
        middle = time.perf_counter()
        warm = sweep_rates(problem, SolveOptions(), rates, None, prices)
        end = time.perf_counter()
        assert list(warm) == cold
        print(
            f"sweep of 16 points, 60 x {n}: {end - middle:.2f} s carried on, {middle - start:.2f} s "
            f"each alone: {(middle - start) / (end - middle):.2f}x",
            flush=True,
        )


RATES_1_TO_128 = [float(2**n) for n in range(8)]

if __name__ == "__main__":
    percentiles()
    large()
    growth()
    sweeps()
    against_rivals(
        "four real GPUs (L4, A10G, A100-80GB, H100), snapshot prices, shipped estimates",
        {f"4 @ {rate:g}": real_gpus(rate) for rate in RATES_1_TO_128},
    )
    against_rivals(
        "four random lifelike GPUs",
        {f"4 @ {rate:g}": lifelike((10, 6), 4, rate, 4 + int(rate)) for rate in RATES_1_TO_128},
    )
    against_rivals(
        "random lifelike options",
        {
            f"{n} @ {rate:g}": lifelike((10, 6), n, rate, seed=n + int(rate))
            for n in OPTIONS
            for rate in RATES
        },
    )
