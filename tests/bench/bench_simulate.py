"""How fast the fleet simulation is: chat requests over mixed replicas, 10⁴ to 10⁶ over 8, then 8 to 10,000.

    python tests/bench/bench_simulate.py

Aims: the first simulation on a fresh machine waits at most 3 s for its code; one million requests on 8
and on 1,000 replicas within 20 µs each on one core, below 500 MB; a routing decision in the gateway
within 5 µs at 10,000 replicas; ten times faster per request than vllm-sr-sim and vidur, which are timed
beside it on the same stream where VLLM_SR_SIM_VENV and VIDUR_VENV name virtual environments that hold
them (`pip install vllm-sr-sim`, `pip install vidur`, each in one of its own). Neither simulates the same:
vllm-sr-sim computes each request's time at its start, without steps, on three GPU types of its own;
vidur simulates every step, on eight like replicas.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from melange_sky.models import find_model  # noqa: E402
from melange_sky.planner.replay_loop.replay import engine_of  # noqa: E402
from melange_sky.plans import Allocation, ModelPlan  # noqa: E402
from melange_sky.replay import Traffic, sample_stream  # noqa: E402
from melange_sky.replay.run import fleet_options  # noqa: E402
from melange_sky.routing import Router, routing_state, routing_table  # noqa: E402
from melange_sky.simulator import RequestStream  # noqa: E402
from melange_sky.simulator.fleet import FleetRun, simulate_planned_fleet  # noqa: E402
from melange_sky.slo import attainment_fraction  # noqa: E402
from melange_sky.spec.demand import load_distribution, shipped_distributions  # noqa: E402
from melange_sky.spec.histogram import to_workload  # noqa: E402
from tests.factories import make_capacity, make_engine, make_model_plan, make_option  # noqa: E402

RATE_RPS = 40.0
RIVALS = (
    ("vllm-sr-sim", "VLLM_SR_SIM_VENV", "run_vllm_sr_sim.py", (), 100_000),
    ("vidur", "VIDUR_VENV", "run_vidur.py", ("8",), 1_000),
)
"""Name, variable that names its environment, script, its arguments, and how many requests it is sent."""


def mixed_plan() -> ModelPlan:
    """Eight replicas: four L40S, two A100-80GB, two H100, shares by rough capacity."""
    workload = to_workload(load_distribution(shipped_distributions()["azure-conv-2023"]), RATE_RPS)
    shape = len(workload.input_edges) - 1, len(workload.output_edges) - 1
    allocations = []
    for name, count, rate, share in (
        ("L40S", 4, 6.0, 0.3),
        ("A100-80GB", 2, 11.0, 0.25),
        ("H100", 2, 20.0, 0.45),
    ):
        option = make_option(
            name.lower(), accelerator=name, offer=None, engine=make_engine(max_num_seqs=256)
        )
        capacity = make_capacity([[rate] * shape[1]] * shape[0], option)
        shares = tuple(tuple(share if r > 0 else 0.0 for r in row) for row in workload.rates_rps)
        allocations.append(
            Allocation(
                candidate=capacity,
                instances=count,
                load_fraction=0.5,
                rate_rps=RATE_RPS * share,
                shares=shares,
            )
        )
    return make_model_plan(
        workload=workload,
        allocations=tuple(allocations),
        model_shape=find_model("meta-llama/Llama-3.1-8B-Instruct"),
    )


def times_larger(plan: ModelPlan, times: int) -> ModelPlan:
    """Return the plan with so many times the replicas."""
    larger = [dataclasses.replace(a, instances=a.instances * times) for a in plan.allocations]
    return dataclasses.replace(plan, allocations=tuple(larger))


def timed(plan: ModelPlan, count: int, times: int = 1) -> tuple[float, RequestStream, FleetRun]:
    """Return CPU seconds, what was sent and what came of it; the fleet and its rate so many times as large."""
    larger = times_larger(plan, times)
    table, options = routing_table(larger), fleet_options(larger, engine_of)
    traffic = Traffic(duration_s=count / RATE_RPS)
    one = sample_stream(plan.workload, traffic, np.random.default_rng(1))
    stream = RequestStream.of(one.arrival_s / times, one.input_tokens, one.output_tokens)
    state = routing_state(table, larger, random.Random(1))
    began = time.process_time()
    run = simulate_planned_fleet(options, table, state, stream)
    return time.process_time() - began, stream, run


def by_fleet(plan: ModelPlan, count: int) -> None:
    """Print what a request costs in fleets of 8 to 10,000 replicas under the same load each."""
    for times in (1, 12, 125, 1250):
        spent, stream, run = timed(plan, count, times)
        print(
            f"{8 * times:>6,} replicas: {spent / len(stream) * 1e6:5.2f} µs CPU per request over "
            f"{len(stream):,}, {int(run.log.ok.sum()):,} completed (aim at 1,000: 20)"
        )


def by_decision(plan: ModelPlan) -> None:
    """Print what the gateway's choice costs, every replica busy, and what it costs to count one as gone."""
    for times in (1, 12, 125, 1250):
        router = Router(times_larger(plan, times), random.Random(1), full_load=1e9)
        rng = random.Random(2)
        replicas = 8 * times
        held = [
            router.route(router.class_of(rng.randrange(1, 2000), None), 2000)
            for _ in range(2 * replicas)
        ]
        spent = [0.0, 0.0]
        for _ in range(20_000):
            at, kind = rng.randrange(len(held)), router.class_of(rng.randrange(1, 2000), None)
            gone = held[at]
            began = time.perf_counter()
            router.finish(gone[0], gone[1])
            between = time.perf_counter()
            held[at] = router.route(kind, 2000)
            spent[0] += time.perf_counter() - between
            spent[1] += between - began
        choice, end = (seconds / 20_000 * 1e6 for seconds in spent)
        print(
            f"{replicas:>6,} replicas: {choice:5.2f} µs a decision (aim 5), {end:5.2f} µs its end"
        )


def first_code_s() -> float:
    """Return the seconds that a new process waits for the simulator's machine code; nothing is kept."""
    code = (
        "import time; from melange_sky.simulator import compiled\n"
        "began = time.perf_counter(); compiled.make(); print(time.perf_counter() - began)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return float(done.stdout)


def beside_rivals(plan: ModelPlan) -> None:
    """Time each rival and this simulator on the same stream, one after the other."""
    factors = []
    for name, variable, script, more, count in RIVALS:
        venv = os.environ.get(variable)
        if not venv:
            print(f"{name}: not timed, {variable} names no environment that holds it")
            continue
        ours_s, stream, _ = timed(plan, count)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "stream.csv"
            write_stream(path, stream)
            runner = str(Path(__file__).parent / "rivals" / script)
            done = subprocess.run(
                [str(Path(venv) / "bin/python"), runner, str(path), *more],
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
                cwd=folder,
            )
        if done.returncode:
            print(f"{name}: failed: {done.stderr.strip().splitlines()[-1][:200]}")
            continue
        theirs_s = json.loads(done.stdout.strip().splitlines()[-1])["seconds"]
        each_us, own_us = theirs_s / len(stream) * 1e6, ours_s / len(stream) * 1e6
        factors.append(each_us / own_us)
        print(
            f"{name}: {each_us:,.1f} µs CPU per request over {len(stream):,} requests, this simulator "
            f"{own_us:.1f} µs on the same: {each_us / own_us:,.1f} × as fast"
        )
    if factors:
        print(f"beside the faster of them: {min(factors):.1f} × (aim 10 ×)")


def write_stream(path: Path, stream: RequestStream) -> None:
    """Write a stream for the rivals' scripts."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("arrival_s", "input_tokens", "output_tokens"))
        writer.writerows(
            zip(
                stream.arrival_s.tolist(),
                stream.input_tokens.tolist(),
                stream.output_tokens.tolist(),
                strict=True,
            )
        )


def main() -> None:
    """Print seconds, requests per second and memory per size; growth with the fleet; then the rivals."""
    print(f"first simulation: {first_code_s():.2f} s for its code (aim 3 s)")
    plan = mixed_plan()
    per_request = []
    for count in (1_000, 10_000, 100_000, 1_000_000):
        spent, stream, run = timed(plan, count)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if count > 1_000:  # the first one makes the code
            per_request.append(spent / len(stream))
            print(
                f"{len(stream):>9,} requests: {spent:6.2f} s CPU, {len(stream) / spent:>9,.0f} per second, "
                f"peak memory {memory:,.0f} MB, attainment {attainment_fraction(run.log, plan.slo):.3f}, "
                f"{int(run.log.ok.sum()):,} completed"
            )
    print(f"time per request at 10^6 against 10^4: {per_request[-1] / per_request[0]:.2f}×")
    by_fleet(plan, 1_000_000)
    by_decision(plan)
    beside_rivals(plan)


if __name__ == "__main__":
    main()
