"""What profiling 60 request sizes costs in GPU-minutes, beside Mélange's launcher grid.

On simulated replicas (time is simulated, no GPU): Llama-2-7b on one GPU of each kind, TPOT ≤ 120 ms and
TTFT ≤ 2 s for 95 %, the ten input × six output sizes of the default grid.

* truth: a fine search at each of the 60 sizes;
* this project: lines chosen from an estimate that is wrong by up to a factor of two and tilted (a
  perfect one would be no test), the profiler's own search at their crossings, interpolation between;
* Mélange's launcher: 6 × 6 sizes (25 … 2000) at 6 rates (1 … 32 req/s), 10, 100 or 1000 requests each.

Plan-cost error: of what the default conversation's mix would cost on this GPU alone. Run: `make bench`.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from melange_sky.capacity_search import REAL_SEARCH, SearchOptions, find_max_rate
from melange_sky.engine import Load, Misfit, ReplicaModel, capacity_estimate
from melange_sky.profiler.sizes import choose_lines, interpolate
from melange_sky.profiles import ReplicaShape, engine_replica, load_model
from melange_sky.simulator import SimulatedTarget
from melange_sky.slo import SLO, RequestLog

GPUS = ("L4", "A10G", "A100-80GB", "H100")
INPUTS = [25, 100, 250, 500, 1000, 1250, 1500, 1750, 2000, 2500]
OUTPUTS = [25, 100, 250, 500, 1000, 1500]
LAUNCHER = (25, 100, 250, 500, 1000, 2000)
RATES = (1, 2, 4, 8, 16, 32)
LIMITS = SLO(tpot_s=0.12, ttft_s=2.0, attainment=0.95)


@dataclass
class Timed:
    """A target that adds up how long its probes lasted, in simulated seconds."""

    inner: SimulatedTarget
    seconds: float = 0.0
    probes: int = field(default=0)

    def probe(self, rate_rps: float, requests: int, seed: int) -> RequestLog:
        log = self.inner.probe(rate_rps, requests, seed)
        self.seconds += float(np.nanmax(log.last_token_s))
        self.probes += 1
        return log


def target(replica: ReplicaModel, size_in: int, size_out: int) -> Timed:
    return Timed(SimulatedTarget(replica=replica, input_tokens=size_in, output_tokens=size_out))


def estimate(replica: ReplicaModel) -> np.ndarray:
    grid = np.meshgrid(np.array(INPUTS, float), np.array(OUTPUTS, float), indexing="ij")
    load = Load(input_tokens=grid[0].ravel(), output_tokens=grid[1].ravel())
    rates = capacity_estimate(replica, load, LIMITS).rate_rps.reshape(grid[0].shape)
    wrong = 2.0 * (grid[0] / INPUTS[-1]) ** 0.1 * (grid[1] / OUTPUTS[-1]) ** -0.1
    return np.where(rates > 0, rates * wrong, np.nan)


def truth(replica: ReplicaModel) -> np.ndarray:
    fine = SearchOptions(tolerance=0.03, confirm_requests=1500, max_requests=3000)
    rates = np.full((len(INPUTS), len(OUTPUTS)), np.nan)
    for i, size_in in enumerate(INPUTS):
        for j, size_out in enumerate(OUTPUTS):
            found = find_max_rate(target(replica, size_in, size_out), LIMITS, fine)
            rates[i, j] = found.max_rate_rps or np.nan
    return rates


def weights() -> np.ndarray:
    """Log-normal sizes about a conversation's means (1155 in, 211 out), on the grid."""
    x, y = np.log(np.array(INPUTS) / 800), np.log(np.array(OUTPUTS) / 150)
    mix = np.exp(-(x[:, None] ** 2) / 2) * np.exp(-(y[None, :] ** 2) / 2)
    return mix / mix.sum()


def ours(replica: ReplicaModel, mix: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Return the rates of the whole grid, simulated seconds spent, and sizes measured."""
    guess = estimate(replica)
    known = np.where(np.isfinite(guess), guess, np.nanmin(guess))
    lines = choose_lines(INPUTS, OUTPUTS, known, mix, 0.03)
    log_cost = np.full(guess.shape, np.nan)
    seconds, scale = 0.0, 1.0
    for size_in, size_out in lines.sizes:
        at = INPUTS.index(size_in), OUTPUTS.index(size_out)
        timed = target(replica, size_in, size_out)
        options = replace(REAL_SEARCH, start_rps=min(float(known[at]) * scale, 1000.0))
        found = find_max_rate(timed, LIMITS, options)
        seconds += timed.seconds
        if found.max_rate_rps:
            log_cost[at] = -np.log(found.max_rate_rps)
            scale = found.max_rate_rps / float(known[at])  # the next guess is off by as much
    chosen = (
        tuple(INPUTS.index(i) for i in lines.inputs),
        tuple(OUTPUTS.index(o) for o in lines.outputs),
    )
    rates = np.exp(-interpolate(log_cost, (np.log(INPUTS), np.log(OUTPUTS)), chosen))
    return rates, seconds, len(lines.sizes)


def launcher(replica: ReplicaModel, requests: int) -> float:
    """Return the simulated seconds of the launcher's grid."""
    seconds = 0.0
    for size_in in LAUNCHER:
        for size_out in LAUNCHER:
            timed = target(replica, size_in, size_out)
            for seed, rate in enumerate(RATES):
                timed.probe(rate, requests, seed)
            seconds += timed.seconds
    return seconds


def main() -> None:
    model, mix = load_model("meta-llama/Llama-2-7b-hf"), weights()
    print(
        f"{'GPU':<10} {'sizes':>5} {'minutes':>8} {'cost error':>10}   launcher minutes at 10, 100, 1000 requests a point"
    )
    for name in GPUS:
        began = time.monotonic()
        replica = engine_replica(model, ReplicaShape(accelerator=name, tensor_parallel=1))
        if isinstance(replica, Misfit):
            print(f"{name:<10} the model does not fit")
            continue
        real = truth(replica)
        rates, seconds, sizes = ours(replica, mix)
        served = np.isfinite(real) & np.isfinite(rates)
        cost = (mix[served] / real[served]).sum()
        error = abs((mix[served] / rates[served]).sum() / cost - 1)
        grid = [launcher(replica, n) / 60 for n in (10, 100, 1000)]
        print(
            f"{name:<10} {sizes:>5} {seconds / 60:>8.1f} {error:>10.1%}   "
            + ", ".join(
                f"{minutes:.1f} (ours {seconds / 60 / minutes:.2f} of it)" for minutes in grid
            )
            + f"   [{served.sum()} of 60 sizes comparable, {time.monotonic() - began:.0f} s of computing]",
            flush=True,
        )


if __name__ == "__main__":
    main()
