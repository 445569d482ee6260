"""Two real vLLM servers of different speed behind the project's gateway: predicted, then measured.

`fast` has six layers and four places, `slow` twenty and one place, each on a core of its own where
there are two: what a short queue and a slower accelerator are to a fleet. Both are probed and fitted
side by side, as they serve: with client and gateway they share the machine then, too. The plan's
capacities follow from the fitted steps; the simulator sends a short trace through the two fitted
replicas and the load generator the same trace through the real gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melange_sky.gateway import Credentials, Gateway, Keys, Listen, Secret, Settings, Sources
from melange_sky.plans import Allocation, ModelPlan, Plan
from melange_sky.profiler import Endpoint, PromptStyle
from melange_sky.profiler.load import LoadOutcome, LoadToSend, run_load
from melange_sky.profiler.prompts import request_bodies
from melange_sky.replay import Replay, replay
from melange_sky.simulator import RequestStream, fit_replica
from melange_sky.slo import SLO, RequestLog, attainment_fraction
from melange_sky.steps import KvPool, ReplicaModel
from tests.factories import (
    make_capacity,
    make_engine,
    make_offer,
    make_option,
    make_plan,
    make_workload,
)
from tests.stack.engine_fit import START, Point, Prober
from tests.stack.vllm_server import make_model, vllm_server

NAMES = ("fast", "slow")
LAYERS = {"fast": 6, "slow": 20}
SEATS = {"fast": 4, "slow": 1}
SHARE = {"fast": 0.65, "slow": 0.35}
SIZES = ((48, 48), (192, 64), (448, 96))
MEAN_SIZE = (192, 64)
REQUESTS = 80
SLOW_LOAD = 0.6
SEEDS = 24
LATE_S = 0.05

# The slow server has one place, so a load is what its queue feels; points stay well below it.
FITTED = {
    "fast": (
        Point(input_tokens=32, output_tokens=48, load=0.6, requests=8),
        Point(input_tokens=768, output_tokens=48, load=0.6, requests=8),
        Point(input_tokens=192, output_tokens=96, load=1.5, requests=10),
    ),
    "slow": (
        Point(input_tokens=32, output_tokens=48, load=0.4, requests=6),
        Point(input_tokens=448, output_tokens=48, load=0.4, requests=6),
        Point(input_tokens=192, output_tokens=96, load=0.4, requests=6),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One server under the trace: how many of its requests met the SLO, and its median TPOT."""

    requests: float
    attainment: float
    tpot_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Predicted and measured, per server."""

    slo: SLO
    predicted: Mapping[str, Seen]
    measured: Mapping[str, Seen]
    errors: Mapping[str, int]

    @property
    def off(self) -> dict[str, float]:
        """Predicted ÷ measured of every figure."""
        pairs = [(n, self.predicted[n], self.measured[n]) for n in NAMES]
        return {
            f"{name} {what}": getattr(p, what) / max(getattr(m, what), 1e-9)
            for name, p, m in pairs
            for what in ("attainment", "tpot_s")
        }

    @property
    def error(self) -> float:
        """The largest |predicted ÷ measured − 1|."""
        return max(abs(ratio - 1) for ratio in self.off.values())

    def __str__(self) -> str:
        rows = [
            f"{name}: attainment {p.attainment:.2f} predicted, {m.attainment:.2f} measured; median TPOT "
            f"{p.tpot_s * 1e3:.2f} ms predicted, {m.tpot_s * 1e3:.2f} ms measured; requests "
            f"{p.requests:.0f} predicted, {m.requests:.0f} measured"
            for name, p, m in ((n, self.predicted[n], self.measured[n]) for n in NAMES)
        ]
        return "\n".join(
            [*rows, f"largest error {self.error:.0%}, TTFT limit {self.slo.ttft_s:.2f} s"]
        )


@contextlib.contextmanager
def two_servers(work: Path) -> Iterator[dict[str, str]]:
    """Start both servers side by side and yield their addresses."""
    cores = sorted(os.sched_getaffinity(0))
    own = {n: frozenset({cores[k]}) if len(cores) > 1 else None for k, n in enumerate(NAMES)}

    def started(name: str) -> tuple[contextlib.ExitStack, str]:
        make_model(work / name, LAYERS[name])
        more = ("--served-model-name", name, "tiny", "--max-num-seqs", str(SEATS[name]))
        stack = contextlib.ExitStack()
        server = vllm_server(work / name, work / f"{name}.log", *more, cores=own[name])
        return stack, stack.enter_context(server)

    with contextlib.ExitStack() as all_of_them, ThreadPoolExecutor(2) as pool:
        jobs = {name: pool.submit(started, name) for name in NAMES}
        for job in jobs.values():
            with contextlib.suppress(Exception):
                all_of_them.push(job.result()[0])
        yield {name: job.result()[1] for name, job in jobs.items()}


def fitted(name: str, url: str) -> ReplicaModel:
    """Probe one server and fit its replica."""
    prober = Prober(url)
    logs = [prober.log(point, seed) for seed, point in enumerate(FITTED[name])]
    pool = KvPool(blocks=START.pool.blocks * 2 // LAYERS[name], block_tokens=16)
    start = dataclasses.replace(START, pool=pool, max_num_seqs=SEATS[name])
    return fit_replica(start, logs)


def alone_s(replica: ReplicaModel) -> float:
    """Return how long the mean request takes on an idle replica."""
    from melange_sky.simulator import simulate_replica

    log = simulate_replica(replica, RequestStream.of([0.0], *MEAN_SIZE))
    return float(log.e2e_s[0])


def plan_of(replicas: Mapping[str, ReplicaModel], rate_rps: float, slo: SLO) -> Plan:
    """Return the plan: one bucket, fixed shares, capacities from the fitted steps."""
    allocations = []
    for name in NAMES:
        capacity = SEATS[name] * 0.8 / alone_s(replicas[name])
        engine = make_engine(max_num_seqs=SEATS[name], max_model_len=2048)
        option = make_option(name, offer=make_offer(), engine=engine)
        allocations.append(
            Allocation(
                candidate=make_capacity([[capacity]], option),
                instances=1,
                load_fraction=rate_rps * SHARE[name] / capacity,
                rate_rps=rate_rps * SHARE[name],
                shares=((SHARE[name],),),
            )
        )
    workload = make_workload(
        [[rate_rps]],
        input_edges=(0, 1024),
        output_edges=(0, 128),
        input_sizes=((float(MEAN_SIZE[0]),),),
        output_sizes=((float(MEAN_SIZE[1]),),),
    )
    return make_plan(
        model="tiny", workload=workload, slo=slo, allocations=tuple(allocations), baselines=()
    )


def short_trace(rate_rps: float) -> RequestStream:
    """Return the trace: Poisson arrivals, three sizes, the same numbers whatever the rate."""
    rng = np.random.default_rng(7)
    arrival_s = np.cumsum(rng.exponential(1.0, REQUESTS)) / rate_rps
    sizes = np.array(SIZES)[rng.integers(0, len(SIZES), REQUESTS)]
    return RequestStream.of(arrival_s - arrival_s[0], sizes[:, 0], sizes[:, 1])


def predict(
    plan: ModelPlan, replicas: Mapping[str, ReplicaModel], trace: RequestStream
) -> dict[str, Seen]:
    """Replay the trace through the fitted replicas; means over the routing's random phases."""
    logs = [
        replay(plan, lambda _p, a: replicas[a.candidate.option.name], trace, Replay(seed=seed)).log
        for seed in range(SEEDS)
    ]
    return {name: _seen(logs, k, plan.slo) for k, name in enumerate(NAMES)}


def _seen(logs: Sequence[RequestLog], option: int, slo: SLO) -> Seen:
    mine = [log.select(log.option == option) for log in logs]
    shares = [attainment_fraction(log, slo) for log in mine]
    tpot_s = np.concatenate([log.tpot_s[log.ok] for log in mine])
    return Seen(
        requests=sum(map(len, mine)) / len(mine),
        attainment=float(np.mean([s for s in shares if s is not None])),
        tpot_s=float(np.nanmedian(tpot_s)),
    )


async def _measure(plan: Plan, urls: Mapping[str, str], trace: RequestStream) -> list[LoadOutcome]:
    gateway = Gateway(
        Sources(load_plan=lambda: plan, discover=lambda: {n: [u] for n, u in urls.items()}),
        Settings(),
        Credentials(clients=Keys([]), replicas=Secret(None)),
        random.Random(5),
    )
    port = await gateway.start(Listen(port=0))
    endpoint = Endpoint(url=f"http://127.0.0.1:{port}", model="tiny", timeout_s=90.0)
    loads = []
    for size in SIZES:
        here = trace.input_tokens == size[0]
        bodies = request_bodies("tiny", size, int(here.sum()), PromptStyle(), seed=3)
        due_s = trace.arrival_s[here] + 0.5
        loads.append(
            LoadToSend(bodies=bodies, due_s=due_s, input_tokens=size[0], output_tokens=size[1])
        )
    try:
        return list(await asyncio.gather(*(run_load(endpoint, load) for load in loads)))
    finally:
        gateway.stop()
        await gateway.wait()


def measure(
    plan: Plan, urls: Mapping[str, str], trace: RequestStream
) -> tuple[dict[str, Seen], dict[str, int]]:
    """Send the trace through the real gateway; once again where the client itself was late."""
    for _ in range(2):
        found = asyncio.run(_measure(plan, urls, trace))
        late_s = max(float(np.percentile(o.lateness_s, 95)) for o in found)
        if late_s <= LATE_S:
            break
        time.sleep(5)
    errors: dict[str, int] = {}
    logs = []
    for outcome in found:
        for text, count in outcome.errors.items():
            errors[text] = errors.get(text, 0) + count
        option = np.array([NAMES.index(m) if m in NAMES else -1 for m in outcome.models])
        logs.append(dataclasses.replace(outcome.log, option=option, options=NAMES))
    whole = _together(logs)
    slo = plan.models[0].slo
    return {name: _seen([whole], k, slo) for k, name in enumerate(NAMES)}, errors


def _together(logs: Sequence[RequestLog]) -> RequestLog:
    names = [f.name for f in dataclasses.fields(RequestLog) if f.name != "options"]
    columns = {n: np.concatenate([getattr(log, n) for log in logs]) for n in names}
    return RequestLog(**columns, options=NAMES)


def run(work: Path) -> Outcome:
    """Start, probe, fit, predict, measure."""
    with two_servers(work) as urls:
        with ThreadPoolExecutor(len(NAMES)) as pool:
            replicas = dict(
                zip(NAMES, pool.map(fitted, NAMES, map(urls.__getitem__, NAMES)), strict=True)
            )
        busy_s = alone_s(replicas["slow"])
        rate_rps = SLOW_LOAD / busy_s / SHARE["slow"]
        # A request's whole time in the queue of the slow server is too long for its clients.
        slo = SLO(ttft_s=busy_s, attainment=0.9)
        plan, trace = plan_of(replicas, rate_rps, slo), short_trace(rate_rps)
        predicted = predict(plan.models[0], replicas, trace)
        measured, errors = measure(plan, urls, trace)
        return Outcome(slo=slo, predicted=predicted, measured=measured, errors=errors)
