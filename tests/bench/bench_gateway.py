"""The gateway beside SkyServe's load balancer and LiteLLM's proxy, on loopback, in bounded time.

Every proxy stands alone before the same four stub backends (`stub_backend.py`, own process) and is
called by the same client. Told per proxy:

* 200 concurrent streams (TTFT 200 ms, ITL 50 ms): how much later than directly from the backend a
  token arrives (median and 99th percentile of sending-to-receipt), and the first token.
* requests per second per core: requests ÷ CPU seconds that the proxy's processes used, closed loop.
* added latency of a small request at 50 per second.
* memory of the gateway before and after 100,000 requests.

LiteLLM is measured where MELANGE_BENCH_LITELLM names its executable. Run: `make bench`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from loadclient import Timings, chat_request, closed_loop, paced, streams  # noqa: E402

from melange_sky.capacity import EngineSettings  # noqa: E402
from melange_sky.plan import Allocation, Plan  # noqa: E402
from melange_sky.planfile import dump_plan  # noqa: E402
from tests.factories import make_capacity, make_option, make_plan, make_workload  # noqa: E402

Outcome = TypeVar("Outcome")
KEY, MODEL = "sk-bench", "m"
STREAMS, TOKENS, EACH, ROUNDS = 200, 40, 2, 2
LIFE_S = 0.2 + 0.05 * (TOKENS - 1)
USERS, SECONDS = 32, 5.0
RATE, COUNT = 50.0, 300
REQUESTS = int(os.environ.get("MELANGE_BENCH_REQUESTS", "100000"))


@dataclass
class Result:
    """What one target added to the direct way (median and 99th percentile, seconds), and its rate."""

    name: str
    token_s: tuple[float, float]
    ttft_s: tuple[float, float]
    small_s: tuple[float, float]
    per_core_rps: float
    token_cpu_s: float
    failed: int


def added(through: list[float], direct: list[float]) -> tuple[float, float]:
    """Median and 99th percentile of one less those of the other."""
    if min(len(through), len(direct)) < 2:
        return float("nan"), float("nan")
    far = [statistics.quantiles(values, n=100)[98] for values in (through, direct)]
    return statistics.median(through) - statistics.median(direct), far[0] - far[1]


def free_ports(count: int) -> list[int]:
    """Ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def process(command: list[str], port: int, path: str, **env: str) -> Iterator[psutil.Process]:
    """Run a server until the block ends; wait until it answers."""
    child = subprocess.Popen(
        command, env=os.environ | env, cwd=ROOT, stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline_s = time.monotonic() + 90
        while not answers(port, path):
            if child.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{command[0]} did not start")
            time.sleep(0.2)
        yield psutil.Process(child.pid)
    finally:
        family = (
            [child, *psutil.Process(child.pid).children(recursive=True)]
            if child.poll() is None
            else []
        )
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        child.wait(15)


def answers(port: int, path: str) -> bool:
    """Whether a server answers 200 on a path."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {KEY}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def cpu_s(server: psutil.Process) -> float:
    """CPU seconds of a server and its children so far."""
    family = [server, *server.children(recursive=True)]
    return sum(sum(p.cpu_times()[:2]) for p in family)


async def measure(name: str, port: int, direct: int, server: psutil.Process) -> Result:
    """Measure one target. It and the direct way take turns, so that both see the same machine."""
    stream = chat_request(MODEL, TOKENS, True, KEY)
    small = chat_request(MODEL, 1, False, KEY)
    await closed_loop(port, small, 4, 1.0, 50)
    through, bare = Timings(), Timings()
    used_s = 0.0
    for _ in range(ROUNDS):
        bare += await streams(direct, stream, STREAMS, EACH, LIFE_S)
        before_s = cpu_s(server)
        through += await streams(port, stream, STREAMS, EACH, LIFE_S)
        used_s += cpu_s(server) - before_s
    slow, slow_bare = Timings(), Timings()
    for _ in range(4):
        slow_bare += await paced(direct, small, RATE, COUNT // 4)
        slow += await paced(port, small, RATE, COUNT // 4)
    before_s = cpu_s(server)
    fast = await closed_loop(port, small, USERS, SECONDS, 10**9)
    return Result(
        name=name,
        token_s=added(through.delays_s, bare.delays_s),
        ttft_s=added(through.ttft_s, bare.ttft_s),
        small_s=added(slow.answer_s, slow_bare.answer_s),
        per_core_rps=(len(fast.answer_s) - fast.failed) / (cpu_s(server) - before_s),
        token_cpu_s=used_s / max(len(through.delays_s), 1),
        failed=through.failed + slow.failed + fast.failed,
    )


def bench_plan() -> Plan:
    """One option of four replicas that never fills up."""
    engine = EngineSettings(
        tensor_parallel=1, data_parallel=1, max_model_len=8192, max_num_seqs=512
    )
    option = make_capacity([[1000.0]], make_option("l4", engine=engine))
    shares = ((1.0,),)
    return make_plan(
        model=MODEL, workload=make_workload([[10.0]]), candidates=(option,),
        allocations=(
            Allocation(option=option, instances=4, load_fraction=0.1, rate_rps=10.0, shares=shares),
        ),
    )  # fmt: skip


@contextlib.contextmanager
def gateway(folder: Path, port: int, backends: list[int]) -> Iterator[psutil.Process]:
    """melange-sky gateway."""
    plan = folder / "plan.json"
    plan.write_text(dump_plan(bench_plan()), encoding="utf-8")
    urls = [f"--backend=l4=http://127.0.0.1:{b}" for b in backends]
    command = [sys.executable, "-m", "melange_sky", "gateway", str(plan), *urls, f"--port={port}"]
    with process(command, port, "/health", MELANGE_SKY_API_KEY=KEY) as server:
        yield server


@contextlib.contextmanager
def skyserve(folder: Path, port: int, backends: list[int]) -> Iterator[psutil.Process]:
    """SkyServe's load balancer with its default policy; the stub plays its controller."""
    command = [
        sys.executable, "-m", "sky.serve.load_balancer", "--load-balancer-port", str(port),
        "--controller-addr", f"http://127.0.0.1:{backends[0]}",
    ]  # fmt: skip
    with process(command, port, "/health", HOME=str(folder)) as server:
        yield server


@contextlib.contextmanager
def litellm(folder: Path, port: int, backends: list[int]) -> Iterator[psutil.Process]:
    """LiteLLM's proxy, one worker, shuffling over the backends."""
    rows = "".join(
        f"  - model_name: {MODEL}\n    litellm_params: {{model: openai/{MODEL}, api_key: x, "
        f"api_base: 'http://127.0.0.1:{b}/v1'}}\n"
        for b in backends
    )
    config = folder / "litellm.yaml"
    config.write_text(f"model_list:\n{rows}general_settings: {{master_key: {KEY}}}\n")
    command = [
        os.environ["MELANGE_BENCH_LITELLM"], "--config", str(config), "--port", str(port),
        "--host", "127.0.0.1", "--num_workers", "1", "--telemetry", "False",
    ]  # fmt: skip
    with process(command, port, "/health/liveliness", LITELLM_LOG="ERROR") as server:
        yield server


def show(results: list[Result]) -> None:
    """Print the table and the ratios."""
    ours = results[0]
    print(
        f"{STREAMS} concurrent streams of {TOKENS} tokens; added to the direct way: median / 99th, ms"
    )
    print(
        "                  token            first token      small request    req/s/core  µs/token  failed"
    )
    for r in results:
        columns = "  ".join(
            "{:6.2f} / {:6.2f}".format(*(1e3 * value for value in pair))
            for pair in (r.token_s, r.ttft_s, r.small_s)
        )
        print(
            f"{r.name:16s}  {columns}  {r.per_core_rps:10.0f}  {1e6 * r.token_cpu_s:8.0f}  {r.failed:6d}"
        )
    for r in results[1:]:
        token, first, small = (
            theirs[0] / max(mine[0], 1e-6)
            for theirs, mine in (
                (r.token_s, ours.token_s), (r.ttft_s, ours.ttft_s), (r.small_s, ours.small_s)
            )
        )  # fmt: skip
        print(
            f"against {r.name}: {ours.per_core_rps / r.per_core_rps:.1f} × its requests per core; it "
            f"adds {token:.1f} × the median time per token, {first:.1f} × before the first token, "
            f"{small:.1f} × to a small request"
        )


async def memory(port: int, server: psutil.Process) -> None:
    """Print the resident size along many requests."""
    small = chat_request(MODEL, 1, False, KEY)
    sizes = []
    done = failed = 0
    for _ in range(10):
        got = await closed_loop(port, small, USERS, 60.0, REQUESTS // 10)
        done, failed = done + len(got.answer_s), failed + got.failed
        sizes.append(server.memory_info().rss / 2**20)
    print(
        f"memory: {sizes[0]:.1f} MiB after {done // 10}, {sizes[-1]:.1f} MiB after {done} requests "
        f"({failed} failed)"
    )


def run(coroutine: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Run in the fastest loop there is: the client must not be what is measured."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)  # type: ignore[no-any-return]


def main() -> None:
    """Run all that is here to run."""
    rivals = {"skyserve": skyserve}
    if os.environ.get("MELANGE_BENCH_LITELLM"):
        rivals["litellm"] = litellm
    else:
        print("LiteLLM left out: MELANGE_BENCH_LITELLM does not name its executable")
    backends = free_ports(4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stub = [sys.executable, str(HERE / "stub_backend.py"), *map(str, backends)]
        with process(stub, backends[0], "/health"):
            results = []
            for title, start in {"melange-sky": gateway, **rivals}.items():
                (port,) = free_ports(1)
                with start(folder, port, backends) as server:
                    results.append(run(measure(title, port, backends[0], server)))
            show(results)
            (port,) = free_ports(1)
            with gateway(folder, port, backends) as server:
                run(memory(port, server))


if __name__ == "__main__":
    main()
