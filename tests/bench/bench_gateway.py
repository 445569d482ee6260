"""The gateway beside nginx, HAProxy, SkyServe's balancer and LiteLLM's proxy, on loopback, in bounded time.

Every proxy stands alone before the same four stub backends (`stub_backend.py`, own process) and is
called by the same client. On Linux the proxy has a core for itself; client and stub share another, on
the direct way as well, so that their own delays are on both sides and cancel. Direct and through take
turns, in rounds. Where it may (root on Linux), the benchmark runs with real-time priority, ahead of the
machine's other work; how long the proxy still waited for its core is told (Linux's schedstat): that part
of the delays is the machine's, not the proxy's. Told per proxy:

* 200 concurrent streams (TTFT 200 ms, ITL 50 ms), starting at random moments (`spread`) or all in the
  same instant (`at once`), in which case their tokens too come in bursts of 200: how much later than
  directly a token arrives (sending to receipt), the first token (request to receipt), and how much
  longer the gap between two tokens of a stream is.
* requests per second per core: requests ÷ CPU seconds that the proxy's processes used, closed loop.
* added latency of a small request at 50 per second.
* memory of the gateway along 100,000 requests.

Run: `make bench`, or `python tests/bench/bench_gateway.py NAME…` for some of melange-sky, nginx, haproxy,
skyserve, litellm, memory. nginx and HAProxy (Debian packages; one worker, which reads no body and knows no
plan) are measured where they are installed, LiteLLM where MELANGE_BENCH_LITELLM names its executable.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
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

from melange_sky.capacities import EngineSettings  # noqa: E402
from melange_sky.planfile import dump_plan  # noqa: E402
from melange_sky.plans import Allocation, Plan  # noqa: E402
from tests.factories import make_capacity, make_option, make_plan, make_workload  # noqa: E402

Outcome = TypeVar("Outcome")
KEY, MODEL = "sk-bench", "m"
STREAMS, TOKENS, EACH, ROUNDS = 200, 40, 2, 3
STREAM_S = 0.05
"""Time between two tokens of a stream: what a core has for one token of each of its streams."""
LIFE_S = 0.2 + 0.05 * (TOKENS - 1)
PATTERNS = {"spread": LIFE_S, "at once": 0.0}
USERS, SECONDS = 32, 5.0
RATE, COUNT = 50.0, 300
REQUESTS = int(os.environ.get("MELANGE_BENCH_REQUESTS", "100000"))


@dataclass
class Added:
    """What a proxy added, in seconds: median, 99th percentile; and the direct way's own 99th."""

    median_s: float
    far_s: float
    direct_far_s: float

    def __str__(self) -> str:
        return (
            f"{1e3 * self.median_s:6.2f} /{1e3 * self.far_s:7.2f} ({1e3 * self.direct_far_s:6.2f})"
        )


@dataclass
class Result:
    """What one target added to the direct way, per pattern of starts; and its rate."""

    name: str
    token: dict[str, Added]
    first: dict[str, Added]
    gap: dict[str, Added]
    small: Added
    per_core_rps: float
    token_cpu_s: float
    waited_fraction: float
    failed: int


def added(through: list[float], direct: list[float]) -> Added:
    """Median and 99th percentile of one less those of the other."""
    if min(len(through), len(direct)) < 2:
        return Added(math.nan, math.nan, math.nan)
    far, direct_far = (statistics.quantiles(values, n=100)[98] for values in (through, direct))
    median_s = statistics.median(through) - statistics.median(direct)
    return Added(median_s, far - direct_far, direct_far)


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
        command,
        env=os.environ | env,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
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


def cores() -> tuple[set[int], set[int]]:
    """Cores for the proxy, and for client and stub; empty where they cannot be told apart."""
    if not hasattr(os, "sched_setaffinity"):
        return set(), set()
    own = sorted(os.sched_getaffinity(0))
    return ({own[0]}, {own[1]}) if len(own) > 1 else (set(), set())


def pin(process: psutil.Process, where: set[int]) -> None:
    """Keep a process, and the children it has and will have, on some cores."""
    for each in [process, *process.children(recursive=True)] if where else ():
        for thread in each.threads():
            os.sched_setaffinity(thread.id, where)


def waited_s(server: psutil.Process) -> float:
    """Seconds that a server's main thread was ready to run and had no core; NaN where not told."""
    try:
        return int(Path(f"/proc/{server.pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return math.nan


async def measure(name: str, port: int, direct: int, server: psutil.Process) -> Result:
    """Measure one target. It and the direct way take turns, so that both see the same machine."""
    stream = chat_request(MODEL, TOKENS, True, KEY)
    small = chat_request(MODEL, 1, False, KEY)
    pin(server, cores()[0])
    await closed_loop(port, small, 4, 1.0, 50)
    runs = {pattern: (Timings(), Timings()) for pattern in PATTERNS}
    used_s = lost_s = 0.0
    for _ in range(ROUNDS):
        for pattern, over_s in PATTERNS.items():
            through, bare = runs[pattern]
            bare += await streams(direct, stream, STREAMS, EACH, over_s)
            before_s, waiting_s = cpu_s(server), waited_s(server)
            through += await streams(port, stream, STREAMS, EACH, over_s)
            used_s += cpu_s(server) - before_s
            lost_s += waited_s(server) - waiting_s
    slow, slow_bare = Timings(), Timings()
    for _ in range(4):
        slow_bare += await paced(direct, small, RATE, COUNT // 4)
        slow += await paced(port, small, RATE, COUNT // 4)
    before_s = cpu_s(server)
    fast = await closed_loop(port, small, USERS, SECONDS, 10**9)
    return Result(
        name=name,
        token={p: added(t.delays_s, d.delays_s) for p, (t, d) in runs.items()},
        first={p: added(t.ttft_s, d.ttft_s) for p, (t, d) in runs.items()},
        gap={p: added(t.gaps_s, d.gaps_s) for p, (t, d) in runs.items()},
        small=added(slow.answer_s, slow_bare.answer_s),
        per_core_rps=(len(fast.answer_s) - fast.failed) / (cpu_s(server) - before_s),
        token_cpu_s=used_s / max(sum(len(t.delays_s) for t, _ in runs.values()), 1),
        waited_fraction=lost_s / used_s,
        failed=sum(t.failed for t, _ in runs.values()) + slow.failed + fast.failed,
    )


def bench_plan() -> Plan:
    """One option of four replicas that never fills up."""
    engine = EngineSettings(
        tensor_parallel=1, data_parallel=1, max_model_len=8192, max_num_seqs=512
    )
    option = make_capacity([[1000.0]], make_option("l4", engine=engine))
    shares = ((1.0,),)
    return make_plan(
        model=MODEL,
        workload=make_workload([[10.0]]),
        candidates=(option,),
        allocations=(
            Allocation(
                candidate=option, instances=4, load_fraction=0.1, rate_rps=10.0, shares=shares
            ),
        ),
    )


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
def nginx(folder: Path, port: int, backends: list[int]) -> Iterator[psutil.Process]:
    """nginx, one worker, to the backend with the fewest connections; nothing is buffered."""
    servers = "".join(f"server 127.0.0.1:{b};" for b in backends)
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in paths)
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        f"{user} worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;"
        f"events {{ worker_connections 8192; }} http {{ access_log off; keepalive_requests 1000000000; {temporary}"
        f"upstream stub {{ least_conn; {servers} keepalive 512; keepalive_requests 1000000000; }}"
        f"server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ proxy_pass http://stub;"
        'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } } }'
    )
    with process(
        [str(program("nginx")), "-c", str(config), "-g", "daemon off;"], port, "/health"
    ) as it:
        yield it


@contextlib.contextmanager
def haproxy(folder: Path, port: int, backends: list[int]) -> Iterator[psutil.Process]:
    """HAProxy, one thread, to the backend with the fewest connections."""
    servers = "".join(f"  server s{b} 127.0.0.1:{b}\n" for b in backends)
    config = folder / "haproxy.cfg"
    config.write_text(
        "global\n  nbthread 1\n  maxconn 8192\ndefaults\n  mode http\n  timeout connect 5s\n"
        "  timeout client 60s\n  timeout server 60s\n  option http-no-delay\n"
        f"frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\n"
        f"backend b\n  balance leastconn\n  http-reuse always\n{servers}"
    )
    with process([str(program("haproxy")), "-db", "-f", str(config)], port, "/health") as it:
        yield it


def program(name: str) -> str | None:
    """Where a program is, None where it is not installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def skyserve(folder: Path, port: int, backends: list[int]) -> Iterator[psutil.Process]:
    """SkyServe's load balancer with its default policy; the stub plays its controller."""
    command = [
        sys.executable,
        "-m",
        "sky.serve.load_balancer",
        "--load-balancer-port",
        str(port),
        "--controller-addr",
        f"http://127.0.0.1:{backends[0]}",
    ]
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
        os.environ["MELANGE_BENCH_LITELLM"],
        "--config",
        str(config),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        "--num_workers",
        "1",
        "--telemetry",
        "False",
    ]
    with process(command, port, "/health/liveliness", LITELLM_LOG="ERROR") as server:
        yield server


def show(results: list[Result]) -> None:
    """Print the table and the ratios."""
    print(
        f"{STREAMS} concurrent streams of {TOKENS} tokens; added to the direct way, ms: "
        "median / 99th percentile (the direct way's own 99th)"
    )
    head = ("token", "first token", "gap between tokens")
    print(f"{'':24s}" + "".join(f"{title:28s}" for title in head))
    for r in results:
        for pattern in PATTERNS:
            columns = "".join(f"{what[pattern]!s:28s}" for what in (r.token, r.first, r.gap))
            print(f"{r.name:14s}{pattern:10s}{columns}")
    print(
        f"{'':24s}{'small request':28s}  req/s/core  CPU µs/token  streams/core  waited/CPU  failed"
    )
    for r in results:
        rate, cpu = r.per_core_rps, 1e6 * r.token_cpu_s
        print(
            f"{r.name:24s}{r.small!s:28s}  {rate:10.0f}  {cpu:12.0f}  {STREAM_S / r.token_cpu_s:12.0f}  "
            f"{r.waited_fraction:10.2f}  {r.failed:6d}"
        )
    for r in results[1:]:
        print(against(r, results[0]))


def against(r: Result, ours: Result) -> str:
    """The ratios of one other to ours."""

    def times(theirs: Added, mine: Added) -> str:
        return f"{theirs.median_s / max(mine.median_s, 1e-6):.1f} ×"

    return (
        f"against {r.name}: {ours.per_core_rps / r.per_core_rps:.1f} × its requests per core; it adds "
        f"{times(r.token['spread'], ours.token['spread'])} the median time per token, "
        f"{times(r.first['spread'], ours.first['spread'])} before the first token, "
        f"{times(r.small, ours.small)} to a small request, and uses "
        f"{r.token_cpu_s / ours.token_cpu_s:.1f} × the CPU per token"
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
    """Run what was asked for, else all that is here to run."""
    known = {
        "melange-sky": gateway,
        "nginx": nginx,
        "haproxy": haproxy,
        "skyserve": skyserve,
        "litellm": litellm,
    }
    asked = sys.argv[1:] or [*known, "memory"]
    if "litellm" in asked and not os.environ.get("MELANGE_BENCH_LITELLM"):
        asked.remove("litellm")
        print("LiteLLM left out: MELANGE_BENCH_LITELLM does not name its executable")
    for name in ("nginx", "haproxy"):
        if name in asked and program(name) is None:
            asked.remove(name)
            print(f"{name} left out: not installed")
    with contextlib.suppress(PermissionError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    pin(psutil.Process(), cores()[1])  # the stub, started from here, stays beside the client
    backends = free_ports(4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stub = [sys.executable, str(HERE / "stub_backend.py"), *map(str, backends)]
        with process(stub, backends[0], "/health"):
            results = []
            for title, start in known.items():
                if title not in asked:
                    continue
                (port,) = free_ports(1)
                with start(folder, port, backends) as server:
                    results.append(run(measure(title, port, backends[0], server)))
            if results:
                show(results)
            if "memory" in asked:
                (port,) = free_ports(1)
                with gateway(folder, port, backends) as server:
                    pin(server, cores()[0])
                    run(memory(port, server))


if __name__ == "__main__":
    main()
