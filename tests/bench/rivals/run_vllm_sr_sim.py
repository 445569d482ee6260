"""Run by the interpreter of vllm-sr-sim's own environment: `run_vllm_sr_sim.py STREAM.csv`.

Prints one JSON object: seconds that its fleet took, requests sent and completed. Its three GPU types
stand for the three kinds of replica: four A10G, two A100, two H100, the least loaded one next.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

from fleet_sim.core.fleet import Fleet, FleetConfig, PoolConfig
from fleet_sim.core.request import Request
from fleet_sim.gpu_profiles.profiles import A10G, A100_80GB, H100_80GB


def main(path: str) -> None:
    with Path(path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    arrivals = []
    for number, row in enumerate(rows):
        at, inputs, outputs = (
            float(row["arrival_s"]),
            int(row["input_tokens"]),
            int(row["output_tokens"]),
        )
        arrivals.append((at, Request(req_id=number, arrival_time=at, l_in=inputs, l_out=outputs)))
    pools = [
        PoolConfig(pool_id=name, gpu=gpu, n_gpus=count, max_ctx=16384)
        for name, gpu, count in (("a10g", A10G, 4), ("a100", A100_80GB, 2), ("h100", H100_80GB, 2))
    ]
    fleet = Fleet(FleetConfig(pools=pools, router_type="LeastLoadedRouter"))
    began = time.process_time()
    result = fleet.run(arrivals)
    spent = time.process_time() - began
    print(json.dumps({"seconds": spent, "requests": len(rows), "completed": len(result.completed)}))


if __name__ == "__main__":
    main(sys.argv[1])
