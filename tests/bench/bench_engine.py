"""Speed of the engine model: capacities cold and warm, and simulated requests per second.

* `capacity` of 60 sizes × 8 accelerators: cold (no cache, nothing compiled), then warm. Goals 20 s,
  0.5 s. Cold includes compiling the simulator, in a private folder.
* one replica under a chat load, one core: requests simulated per second of wall time, and how the
  time grows with their number. Goals 25,000 (aim 50,000) and linear.

Run: `make bench`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from table import Figure, Growth, note

from melange_sky.models import load_model
from melange_sky.profiles import ReplicaShape, engine_replica
from melange_sky.simulator import RequestStream, simulate_replica

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [
    sys.executable,
    "-m",
    "melange_sky",
    "capacity",
    "--model",
    "meta-llama/Llama-3.1-8B-Instruct",
    "--accelerators",
    "T4:2,L4,A10G,L40S,A100,A100-80GB,H100,H200",
    "--input",
    "25,100,250,500,1000,2000,4000,8000,12000,16000",
    "--output",
    "25,100,250,500,1000,2000",
    "--tpot-ms",
    "60",
    "--ttft-ms",
    "2000",
    "--format",
    "json",
]


def _capacity() -> None:
    with tempfile.TemporaryDirectory() as home:
        own = os.environ | {"MELANGE_SKY_HOME": home}
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            subprocess.run(COMMAND, cwd=ROOT, env=own, check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
    for what, value, goal_s in (("cold", seconds[0], 20.0), ("warm", seconds[1], 0.5)):
        note(
            Figure(what=f"capacity, 60 sizes x 8 accelerators, {what}", ours=value, at_most=goal_s)
        )


def _requests_per_second() -> None:
    model = load_model("meta-llama/Llama-3.1-8B-Instruct")
    replica = engine_replica(model, ReplicaShape(accelerator="A100-80GB", tensor_parallel=1))
    rng = np.random.default_rng(1)
    sizes, each = (10_000, 100_000, 1_000_000), []
    for count in (1_000, *sizes):  # the first makes the code
        arrivals = np.cumsum(rng.exponential(1 / 3.0, count))
        stream = RequestStream.of(
            arrivals, rng.integers(100, 2000, count), rng.integers(20, 400, count)
        )
        start = time.perf_counter()
        simulate_replica(replica, stream)
        each.append(time.perf_counter() - start)
    note(Growth(what="one replica", over="requests", sizes=sizes, values=tuple(each[1:])))
    note(
        Figure(
            what="one replica, requests simulated",
            ours=sizes[-1] / each[-1],
            unit="/s",
            at_least=25_000,
            more_is_better=True,
        )
    )


if __name__ == "__main__":
    _capacity()
    _requests_per_second()
