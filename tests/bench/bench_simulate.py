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

from table import Beside, Figure, Growth, note

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from melange_sky.models import find_model  # noqa: E402
from melange_sky.planner.replay_loop.replay import engine_of  # noqa: E402
from melange_sky.plans import Allocation, ModelPlan  # noqa: E402
from melange_sky.replay import Traffic, sample_stream  # noqa: E402
from melange_sky.replay.run import fleet_options  # noqa: E402
from melange_sky.routing import Router, routing_state, routing_table  # noqa: E402
from melange_sky.routing.affinity import SESSION_BITS  # noqa: E402
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


FLEETS = (1, 12, 125, 1250)
"""Times eight replicas."""


def by_fleet(plan: ModelPlan, count: int) -> None:
    """Note what a request costs in fleets of 8 to 10,000 replicas under the same load each."""
    each_us = []
    for times in FLEETS:
        spent, stream, _ = timed(plan, count, times)
        each_us.append(spent / len(stream) * 1e6)
    sizes = tuple(8 * times for times in FLEETS)
    note(Growth(what="a request", over="replicas", sizes=sizes, values=tuple(each_us), unit="µs"))
    note(Figure(what="a request at 1,000 replicas", ours=each_us[2], unit="µs", at_most=20))


def by_decision(plan: ModelPlan, sessions: int = 0) -> None:
    """Note what the gateway's choice costs, every replica busy, and what it costs to count one as gone.

    With `sessions`, each request belongs to one of so many, which has its home.
    """
    several = [random.Random(n).randrange(1, 1 << SESSION_BITS) for n in range(sessions)] or [0]
    choices, ends = [], []
    for times in FLEETS:
        router = Router(times_larger(plan, times), random.Random(1), full_load=1e9, names=())
        rng = random.Random(2)
        held = [
            router.route(router.class_of(rng.randrange(1, 2000), None), 2000)
            for _ in range(16 * times)
        ]
        spent = [0.0, 0.0]
        for _ in range(20_000):
            at, kind = rng.randrange(len(held)), router.class_of(rng.randrange(1, 2000), None)
            gone, session = held[at], rng.choice(several)
            began = time.perf_counter()
            router.finish(gone[0], gone[1])
            between = time.perf_counter()
            held[at] = router.route(kind, 2000, session=session)
            spent[0] += time.perf_counter() - between
            spent[1] += between - began
        choices.append(spent[0] / 20_000 * 1e6)
        ends.append(spent[1] / 20_000 * 1e6)
    sizes = tuple(8 * times for times in FLEETS)
    decision = "a routing decision" + (" for a session" if sessions else "")
    for what, values in ((decision, choices), (f"the end of {decision}", ends)):
        note(Growth(what=what, over="replicas", sizes=sizes, values=tuple(values), unit="µs"))
    note(Figure(what=f"{decision} at 10,000 replicas", ours=choices[-1], unit="µs", at_most=5))


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
    for name, variable, script, more, count in RIVALS:
        venv = os.environ.get(variable)
        if not venv:
            told = f"not timed: {variable} names no environment that holds it"
            note(Figure(what="a request", ours=None, rival=Beside(name=name, note=told)))
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
        rival = Beside(name=name, value=each_us)
        note(Figure(what="a request", ours=own_us, unit="µs", rival=rival, at_most=each_us / 10))


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
    """Note CPU seconds and memory, growth with requests and with the fleet, then the rivals."""
    note(Figure(what="first simulation waits for its code", ours=first_code_s(), at_most=3))
    plan = mixed_plan()
    sizes, spent_s = (10_000, 100_000, 1_000_000), []
    for count in (1_000, *sizes):  # the first makes the code
        spent, _, run = timed(plan, count)
        spent_s.append(spent)
    attained = f"attainment {attainment_fraction(run.log, plan.slo):.3f}"
    note(Growth(what="eight replicas", over="requests", sizes=sizes, values=tuple(spent_s[1:])))
    each_us = spent_s[-1] / sizes[-1] * 1e6
    note(Figure(what="a request of 10⁶", ours=each_us, unit="µs", at_most=20, note=attained))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    note(Figure(what="memory for 10⁶ requests", ours=memory, unit="MB", at_most=500))
    by_fleet(plan, 1_000_000)
    by_decision(plan)
    by_decision(plan, sessions=20_000)
    beside_rivals(plan)


if __name__ == "__main__":
    main()
