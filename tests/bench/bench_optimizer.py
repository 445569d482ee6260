"""The optimizer beside other solvers of the same problem, in one run.

Beside it, each in a process of its own and held to MELANGE_BENCH_CAP_S (default 5 s) from outside, so that a
lower cap can only make the ratios told smaller (`rivals/fleet_models.py`): HiGHS, CP-SAT and SCIP on the
fractional model that this project solves, then the released sliced model of Mélange in CBC and in HiGHS.

Told: wall seconds (ours: the median of three runs of the whole of `optimize`, ties, re-checks and shares
too), whether ours was ever dearer, percentiles at 60 x 16 and 60 x 64, one 400 x 300 problem to a proven
0.01 % gap, peak memory, how time grows with options and buckets, and what a sweep gains from its earlier
points. Run: `make bench`, or this file alone with a longer cap.
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
from rivals.fleet_models import RIVALS
from table import Beside, Figure, Growth, note

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
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

CAP_S = float(os.environ.get("MELANGE_BENCH_CAP_S", "5"))
LIMIT_S = 135.0
"""Just before `make bench` cuts off: no point is begun that might not end by then, and that is said."""
END_S = time.monotonic() + LIMIT_S
FOUR_GPUS = ("L4", "A10G", "A100-80GB", "H100")
TEN_GPUS = (*FOUR_GPUS, "T4", "A100", "A6000", "L40S", "H200", "B200")
SPAWN = multiprocessing.get_context("spawn")


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
    return _cheapest_offers(FOUR_GPUS, 1, len(FOUR_GPUS), rate_rps)


def real_options(count: int, rate_rps: float) -> Problem:
    """The cheapest so many of ten accelerators, each alone and by two, four and eight, as `real_gpus` has them."""
    return _cheapest_offers(TEN_GPUS, 8, count, rate_rps)


def _cheapest_offers(names: Sequence[str], most: int, count: int, rate_rps: float) -> Problem:
    spec = load_spec(ROOT / "examples" / "chat.yaml")
    assert isinstance(spec, Spec)
    wanted = replace(
        spec,
        resources=replace(
            spec.resources,
            accelerators=tuple(AcceleratorChoice(name=n) for n in names),
        ),
    )
    problem = problem_for(wanted, PlanRequest(prices=OfferQuery(offline=True)))
    (only,) = problem.demands
    cheapest: dict[tuple[str, int], OptionCapacity] = {}
    by_price = sorted(only.options, key=lambda c: c.option.price_usd_per_hour)
    for capacity in by_price:
        name, gpus = capacity.option.accelerator, capacity.option.accelerator_count
        if gpus <= most:
            cheapest.setdefault((name, gpus), capacity)
    alone = replace(only, options=tuple(cheapest.values())[:count])
    return at_rate(Problem(demands=(alone,)), rate_rps)


def rival(problem: Problem, name: str) -> tuple[float, float | None]:
    """Return (wall seconds, cost) of a rival; the cost is None if none was found.

    Some solvers mind a time limit only now and then: what is not back soon after the cap is ended from
    outside. Starting the process and loading the solver are not counted.
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
    RIVALS[name](lifelike((1, 1), 1, 1.0, 1), 1.0)  # loads the solver
    there.send("ready")
    start = time.perf_counter()
    cost = RIVALS[name](problem, CAP_S)
    there.send((min(time.perf_counter() - start, CAP_S), cost))


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
    """Tell every point, then what each rival takes in the middle of them."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in RIVALS}
    dearer = 0
    print(f"{title}; rivals held to {CAP_S:g} s (*); seconds and $/h")
    print(f"{'options @ req/s':15}{'ours':>16}  " + "".join(f"{name:>19}" for name in RIVALS))
    for label, problem in problems.items():
        if END_S - time.monotonic() < len(RIVALS) * (CAP_S * 1.1 + 1):
            print(f"{label:15} and on left out: {LIMIT_S:.0f} s are nearly over")
            break
        seconds, cost, _ = ours(problem, runs=3)
        cells = []
        for name in RIVALS:
            rival_s, rival_cost = rival(problem, name)
            times[name].append((seconds, rival_s))
            dearer += rival_cost is not None and cost > rival_cost * (1 + 1e-6)
            told = "none" if rival_cost is None else f"${rival_cost:.3f}"
            cells.append(f"{rival_s:7.3f}{'*' if rival_s >= CAP_S else ' '} {told:>10}")
        print(f"{label:15}{seconds:7.3f} ${cost:<8.3f}" + "".join(cells), flush=True)
    for name, pairs in times.items():
        if not pairs:
            continue
        mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        least = min(b / a for a, b in pairs)
        capped = sum(b >= CAP_S for _, b in pairs)
        words = f"least {least:.1f} × ours; at the cap {capped} of {len(pairs)} times"
        note(
            Figure(
                what=f"{title}: median",
                ours=mine,
                rival=Beside(name=name, value=theirs),
                note=words,
            )
        )
    note(Figure(what=f"{title}: dearer than a rival", ours=dearer, unit="times", at_most=0))


def percentiles() -> None:
    """Tell the 95th percentile of wall time at 60 x 16 and 60 x 64."""
    for n, goal_s, runs in ((16, 0.5, 20), (64, 3.0, 20)):
        rates = np.geomspace(1, 1000, runs)
        times = sorted(ours(lifelike((10, 6), n, float(r), k))[0] for k, r in enumerate(rates))
        at = times[math.ceil(0.95 * runs) - 1]
        middle = f"median {statistics.median(times):.2f} s"
        note(Figure(what=f"60 x {n}: 95th percentile", ours=at, at_most=goal_s, note=middle))


def growth() -> None:
    """Tell how the time grows with options (60 buckets) and buckets (16 options)."""
    options = (4, 8, 16, 32, 64, 128)
    sizes = ((3, 2), (5, 3), (10, 6), (15, 8), (20, 12), (25, 16))
    by_options = tuple(ours(lifelike((10, 6), n, 100.0, n), runs=3)[0] for n in options)
    by_buckets = tuple(ours(lifelike(size, 16, 100.0, size[0]), runs=3)[0] for size in sizes)
    note(Growth(what="optimum, 60 buckets", over="options", sizes=options, values=by_options))
    buckets = tuple(a * b for a, b in sizes)
    note(Growth(what="optimum, 16 options", over="buckets", sizes=buckets, values=by_buckets))


def large() -> None:
    """Tell 400 x 300 to a proven 0.01 % gap, and the peak memory so far."""
    for rate in (30.0, 1000.0):
        seconds, cost, status = ours(lifelike((25, 16), 300, rate, int(rate)), gap=1e-4)
        what = f"400 x 300 at {rate:g} req/s, gap 0.01 %"
        note(Figure(what=what, ours=seconds, at_most=10, note=f"${cost:.3f}/h, {status}"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    note(Figure(what="peak memory of the optimizer", ours=peak, unit="MiB"))


def sweeps() -> None:
    """Tell how much sooner a sweep is done with each point's fleet carried to the next."""
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
        alone = Beside(name="each point alone", value=middle - start)
        note(Figure(what=f"sweep of 16 points, 60 x {n}", ours=end - middle, rival=alone))


if __name__ == "__main__":
    percentiles()
    large()
    growth()
    against_rivals(
        "four real GPUs, snapshot prices, shipped estimates",
        {f"4 @ {rate:g}": real_gpus(rate) for rate in (4.0, 32.0, 128.0)},
    )
    against_rivals(
        "random lifelike options",
        {
            f"{n} @ {rate:g}": lifelike((10, 6), n, rate, seed=n + int(rate))
            for n in (16, 64)
            for rate in (10.0, 1000.0)
        },
    )
    sweeps()
