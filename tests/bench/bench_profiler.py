"""What profiling 60 request sizes costs in GPU-minutes, beside Mélange's launcher grid.

On simulated replicas (time is simulated, no GPU): Llama-2-7b on one GPU of each kind, TPOT ≤ 120 ms and
TTFT ≤ 2 s for 95 %, the ten input × six output sizes of the default grid.

* truth: a fine search at each of the 60 sizes;
* this project: sizes chosen while measuring, from analytic estimates that are off by a random factor
  and tilted at random along both sizes (a perfect estimate would be no test), in `RUNS` runs with other
  errors and other arrivals;
* Mélange's launcher: 6 × 6 sizes (25 … 2000) at 6 rates (1 … 32 req/s), 10, 100 or 1000 requests each,
  every point charged from its first arrival to its last answer. Ten requests are its default; they
  cannot tell 95 % from 80 %.

Plan-cost error: of what the default conversation's mix would cost on this GPU alone. Run: `make bench`.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from table import Beside, Figure, note

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from melange_sky.capacity_search import REAL_SEARCH
from tests.profiler import simulated

GPUS = ("L4", "A10G", "A100-80GB", "H100")
RUNS = 6
BOUND = 0.05


def main() -> None:
    for name in GPUS:
        began = time.monotonic()
        replica = simulated.replica_of(name)
        real = simulated.truth(replica)
        errors, minutes, sizes = [], [], []
        for run in range(RUNS):
            rng = np.random.default_rng(run)
            wrong = simulated.tilt(
                float(np.exp(rng.normal(0, 0.7))), rng.normal(0, 0.08), rng.normal(0, 0.08)
            )
            search = replace(REAL_SEARCH, seed=100_000 * run)
            believed = simulated.guesses(replica) * wrong
            found = simulated.profile(replica, believed, BOUND, search)
            errors.append(abs(simulated.cost_error(real, found.rates)))
            minutes.append(found.seconds / 60)
            sizes.append(len(found.measured))
        mean = statistics.mean(minutes)
        sizes_told = f"{statistics.mean(sizes):.0f} sizes, worst {max(errors):.1%}"
        error = statistics.mean(errors)
        what = f"{name}: plan-cost error of a profile"
        note(Figure(what=what, ours=error, unit="", at_most=BOUND, note=sizes_told))
        for requests in (10, 100, 1000):
            grid = Beside(
                name=f"launcher, {requests} requests a point",
                value=simulated.launcher_seconds(replica, requests) / 60,
            )
            what = f"{name}: profiling 60 sizes"
            note(Figure(what=what, ours=mean, unit="GPU-minutes", rival=grid))
        print(f"    [{time.monotonic() - began:.0f} s of computing]", flush=True)


if __name__ == "__main__":
    main()
