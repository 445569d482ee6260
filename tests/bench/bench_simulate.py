"""How fast the fleet simulation is: chat requests over eight mixed replicas, 10⁴ to 10⁶.

    python tests/bench/bench_simulate.py

Aims: one million requests in at most 40 s on one core, below 500 MB of memory, growth linear; ten
times faster per request than vllm-sr-sim and vidur, which are timed beside it on the same stream where
VLLM_SR_SIM_VENV and VIDUR_VENV name virtual environments that hold them (`pip install vllm-sr-sim`,
`pip install vidur`, each in one of its own). Neither simulates the same: vllm-sr-sim computes each
request's time at its start, without steps, on three GPU types of its own; vidur simulates every step,
on eight like replicas.
"""

from __future__ import annotations

import csv
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
from melange_sky.routing import routing_state, routing_table  # noqa: E402
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


def timed(plan: ModelPlan, count: int) -> tuple[float, RequestStream, FleetRun]:
    """Return CPU seconds, what was sent and what came of it."""
    table, options = routing_table(plan), fleet_options(plan, engine_of)
    traffic = Traffic(duration_s=count / RATE_RPS)
    stream = sample_stream(plan.workload, traffic, np.random.default_rng(1))
    state = routing_state(table, plan, random.Random(1))
    began = time.process_time()
    run = simulate_planned_fleet(options, table, state, stream)
    return time.process_time() - began, stream, run


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
    """Print seconds, requests per second and memory per size; then the rivals."""
    plan = mixed_plan()
    per_request = []
    for count in (1_000, 10_000, 100_000, 1_000_000):
        spent, stream, run = timed(plan, count)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if count > 1_000:  # the first one compiles, or loads what was compiled
            per_request.append(spent / len(stream))
            print(
                f"{len(stream):>9,} requests: {spent:6.2f} s CPU, {len(stream) / spent:>9,.0f} per second, "
                f"peak memory {memory:,.0f} MB, attainment {attainment_fraction(run.log, plan.slo):.3f}, "
                f"{int(run.log.ok.sum()):,} completed"
            )
    print(f"time per request at 10^6 against 10^4: {per_request[-1] / per_request[0]:.2f}×")
    beside_rivals(plan)


if __name__ == "__main__":
    main()
