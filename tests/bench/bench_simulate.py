"""How fast the fleet simulation is: chat requests over eight mixed replicas, 10⁴ to 10⁶.

    python tests/bench/bench_simulate.py

Aims: one million requests in at most 40 s on one core, below 500 MB of memory, growth linear.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from melange_sky.models import find_model  # noqa: E402
from melange_sky.plan import Allocation, Plan  # noqa: E402
from melange_sky.planner.verification import engine_of  # noqa: E402
from melange_sky.routing import routing_state, routing_table  # noqa: E402
from melange_sky.simulator.fleet import simulate_planned_fleet  # noqa: E402
from melange_sky.slo import attainment_fraction  # noqa: E402
from melange_sky.spec.demand import load_distribution, shipped_distributions  # noqa: E402
from melange_sky.spec.histogram import to_workload  # noqa: E402
from melange_sky.verify import Traffic, sample_stream  # noqa: E402
from melange_sky.verify.fleet import fleet_options  # noqa: E402
from tests.factories import make_capacity, make_engine, make_option, make_plan  # noqa: E402

RATE_RPS = 40.0


def mixed_plan() -> Plan:
    """Eight replicas: four L40S, two A100-80GB, two H100, shares by rough capacity."""
    workload = to_workload(load_distribution(shipped_distributions()["azure-conv-2023"]), RATE_RPS)
    shape = len(workload.input_edges) - 1, len(workload.output_edges) - 1
    allocations = []
    for name, count, rate, share in (
        ("L40S", 4, 6.0, 0.3), ("A100-80GB", 2, 11.0, 0.25), ("H100", 2, 20.0, 0.45),
    ):  # fmt: skip
        option = make_option(
            name.lower(), accelerator=name, offer=None, engine=make_engine(max_num_seqs=256)
        )
        capacity = make_capacity([[rate] * shape[1]] * shape[0], option)
        shares = tuple(tuple(share if r > 0 else 0.0 for r in row) for row in workload.rates_rps)
        allocations.append(
            Allocation(
                option=capacity, instances=count, load_fraction=0.5, rate_rps=RATE_RPS * share,
                shares=shares,
            )
        )  # fmt: skip
    return make_plan(
        workload=workload, allocations=tuple(allocations),
        model_shape=find_model("meta-llama/Llama-3.1-8B-Instruct"),
    )  # fmt: skip


def main() -> None:
    """Print seconds, requests per second and memory per size."""
    plan = mixed_plan()
    table = routing_table(plan)
    options = fleet_options(plan, engine_of)
    per_request = []
    for count in (1_000, 10_000, 100_000, 1_000_000):
        traffic = Traffic(duration_s=count / RATE_RPS)
        stream = sample_stream(plan.workload, traffic, np.random.default_rng(1))
        state = routing_state(table, plan, random.Random(1))
        began = time.process_time()
        run = simulate_planned_fleet(options, (table, state), stream)
        spent = time.process_time() - began
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if count > 1_000:  # the first one compiles, or loads what was compiled
            per_request.append(spent / len(stream))
            print(
                f"{len(stream):>9,} requests: {spent:6.2f} s CPU, {len(stream) / spent:>9,.0f} per second, "
                f"peak memory {memory:,.0f} MB, attainment {attainment_fraction(run.log, plan.slo):.3f}, "
                f"{int(run.log.ok.sum()):,} completed"
            )
    print(f"time per request at 10^6 against 10^4: {per_request[-1] / per_request[0]:.2f}×")


if __name__ == "__main__":
    main()
