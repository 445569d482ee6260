"""The highest rate of a real vLLM server by its own metrics under traffic, beside what `profile run` measures.

`make bench-stack` runs it too; alone: `VLLM_VENV=… python -m tests.stack.learnt_knee`.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from melange_sky.capacity_search import ProbeAborted
from melange_sky.engines import engine_named
from melange_sky.learning import Learnt, learn, windows_of
from melange_sky.profiler import Endpoint, EndpointTarget, ServerPages
from melange_sky.profiler.scraping import Scraping
from melange_sky.profiles.simulated import simulated_cell
from melange_sky.simulator import fit_replica
from melange_sky.slo import SLO
from melange_sky.steps import ReplicaModel, Scales
from tests.stack import profiling
from tests.stack.engine_fit import FITTED, START, Prober
from tests.stack.vllm_server import make_model, vllm_server

LIMITS = SLO(ttft_s=0.5, tpot_s=0.1, attainment=0.9)
SIZE = (512, 32)
ROUND_S, WINDOW_S = 20.0, 10.0
HIGH, LOW = (0.3, 0.5, 0.7, 0.8, 0.7, 0.6, 0.4), (0.05, 0.1, 0.15, 0.1, 0.05, 0.1)
LONG = ("--max-requests", "900", "--tolerance", "0.05")
WRONG = Scales(host=1.5, products=1.3)
"""By what the first guess is made wrong: as an estimate of another machine would be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knee:
    """The highest rate in requests per second: measured before and after, and learnt under two kinds of traffic.

    How far the two measurements are apart is how far the machine itself moved meanwhile. `guessed_rps` and `learnt_rps`
    are what `profile run` would measure of a server with such constants, by the simulator: the closed form
    of `learn` lets nothing queue, and so has 0.63 to 0.84 of it where a server has four slots as this one.
    """

    before_rps: float
    after_rps: float
    guessed_rps: float
    learnt_rps: float
    high: Learnt
    low: Learnt

    @property
    def measured_rps(self) -> float:
        """What lies between the two measurements."""
        return (self.before_rps * self.after_rps) ** 0.5

    def __str__(self) -> str:
        high, low = self.high, self.low
        return (
            f"knee measured {self.before_rps:.1f} req/s before and {self.after_rps:.1f} after, guessed {self.guessed_rps:.1f}, "
            f"learnt {self.learnt_rps:.1f} under up to {max(HIGH):.0%} of it "
            f"({self.learnt_rps / self.measured_rps:.2f} ×, aim within 20 %; ceiling observed: {high.is_ceiling_seen}; "
            f"without a queue {high.rate_rps:.1f} [{high.low_rps:.1f}, {high.high_rps:.1f}]); "
            f"under {max(LOW):.0%}: at least {low.low_rps:.1f}, ceiling observed: {low.is_ceiling_seen}"
        )


def run(url: str, work: Path) -> Knee:
    """Measure, guess wrongly, and learn from traffic."""
    prober = Prober(url)
    guess = WRONG.applied(fit_replica(START, [prober.log(p, k) for k, p in enumerate(FITTED)]))
    before = _measured(url, work / "before", seed=0)
    high, low = (
        _learnt(url, guess, [share * before for share in shares]) for shares in (HIGH, LOW)
    )
    after = _measured(url, work / "after", seed=7)
    return Knee(
        before_rps=before,
        after_rps=after,
        guessed_rps=_held(guess, high.estimated_rps),
        learnt_rps=_held(high.scales.applied(guess), high.rate_rps),
        high=high,
        low=low,
    )


def _measured(url: str, folder: Path, seed: int) -> float:
    """Measure the knee with probes long enough for a queue to grow: short ones hold more than a server keeps up."""
    flags = ["--seed", str(seed), "--output", str(SIZE[1]), *LONG]
    return profiling.rates(profiling.run(url, folder, *flags, inputs=SIZE[:1]))[SIZE]


def _held(replica: ReplicaModel, near_rps: float) -> float:
    """Return the knee of a server with such constants, by the search that measures real ones."""
    found = simulated_cell(replica, SIZE, LIMITS, near_rps).max_rate_rps
    assert found is not None, "a server with such constants meets no SLO"
    return found


def _learnt(url: str, guess: ReplicaModel, rates: Sequence[float]) -> Learnt:
    """Send requests at one rate after another, look at the server's metrics, and learn."""
    engine = engine_named("vllm")
    endpoint = Endpoint(url=url, model="tiny", timeout_s=60.0, pages=ServerPages.of(engine))
    scraping = Scraping(endpoints=[endpoint], engine=engine, every_s=1.0)
    looking = threading.Thread(target=scraping.run, args=(ROUND_S * len(rates) + 2,))
    looking.start()
    for seed, rate in enumerate(rates):
        began = time.monotonic()
        target = EndpointTarget(
            endpoint=endpoint, input_tokens=SIZE[0], output_tokens=SIZE[1], late_s=0.25
        )
        with contextlib.suppress(ProbeAborted):
            target.probe(rate, max(8, round(rate * ROUND_S)), seed)
        time.sleep(max(0.0, ROUND_S - (time.monotonic() - began)))
    looking.join()
    return learn(guess, windows_of(scraping.looks[0], WINDOW_S), LIMITS)


def main() -> None:
    """Run it on a server of its own, and print it."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_model(work / "tiny")
        with vllm_server(work / "tiny", work / "vllm.log") as url:
            print(run(url, work))


if __name__ == "__main__":
    main()
