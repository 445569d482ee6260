"""The gateway beside nginx, HAProxy, SkyServe's balancer and LiteLLM's proxy, on loopback, within 150 s.

Every proxy stands alone before the same four stub backends (`stub_backend.py`, own process) and is
called by the same client; no one waits for anything that the others do not. On Linux the proxy has a
core for itself; client and stub share another, on the direct way as well, so that their own delays are on
both sides and cancel. Where it may (root on Linux), the benchmark runs with real-time priority, ahead of
the machine's other work. CPU is what the kernel counted for the proxy's threads alone (schedstat, to the
nanosecond; by clock ticks, proxies that work in short bursts come out too good). Told per proxy:

* requests per second per core: requests ÷ CPU seconds, 32 users in a closed loop;
* CPU per streamed token of 200 streams (TTFT 200 ms, ITL 50 ms) that start at random moments (a proxy then
  idles between two tokens and finds its caches cold), or all in the same instant, and the mean of both, by
  which the goal was set; what a token waits for (median) where they start at random;
* the first token where all 200 start in the same instant, connections included;
* added latency of a small request at 50 per second.

nginx stands there twice: as it comes (a new connection to the backend for each request; 15,000 requests
per second per core where the goals for the gateway were set), and told to keep its connections.

Run: `make bench`, or `python tests/bench/bench_gateway.py NAME…` for some of melange-sky, nginx,
nginx-kept, haproxy, skyserve, litellm, memory. nginx and HAProxy (Debian packages; one worker, which reads
no body and knows no plan) are measured where they are installed, LiteLLM where MELANGE_BENCH_LITELLM names
its executable.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
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
from stub_backend import TTFT_S  # noqa: E402
from table import Beside, Figure, note  # noqa: E402

from melange_sky.capacities import EngineSettings  # noqa: E402
from melange_sky.planfile import dump_plan  # noqa: E402
from melange_sky.plans import Allocation, Plan  # noqa: E402
from tests.factories import make_capacity, make_option, make_plan, make_workload  # noqa: E402

Outcome = TypeVar("Outcome")
KEY, MODEL = "sk-bench", "m"
STREAMS, TOKENS, ROUNDS = 200, 40, 2
LIFE_S = 0.2 + 0.05 * (TOKENS - 1)
USERS, SECONDS = 32, 3.0
RATE, COUNT = 50.0, 60
REQUESTS = int(os.environ.get("MELANGE_BENCH_REQUESTS", "40000"))
LIMIT_S = 140.0
"""Just before `make bench` cuts off; what takes longer than is left is left out, with a word."""
NEEDS_S, LITELLM_NEEDS_S = 26.0, 40.0
"""What a target takes at most; LiteLLM is slow to start."""
GOALS = {"per_core_rps": 8000 / 15000, "token_cpu_s": 35 / 19, "first_s": 2.0}
"""Of nginx as it comes: what was set for the gateway, where nginx gave 15,000/s and took 19 us a token."""


@dataclass
class Result:
    """What one target needs and adds to the direct way; medians. `kernel`: the part of a small request in the kernel."""

    name: str
    per_core_rps: float
    kernel: float
    spread_cpu_s: float
    burst_cpu_s: float
    token_s: float
    first_s: float
    small_s: float
    failed: int

    @property
    def token_cpu_s(self) -> float:
        """CPU of a token: the mean of streams that start at random and at once."""
        return (self.spread_cpu_s + self.burst_cpu_s) / 2


def median(values: list[float]) -> float:
    """The median, NaN of nothing."""
    return statistics.median(values) if values else math.nan


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
    files = [f for p in family for f in Path(f"/proc/{p.pid}/task").glob("*/schedstat")]
    if files:
        return sum(int(file.read_text().split()[0]) for file in files) / 1e9
    return sum(clocks(server))  # another system


def clocks(server: psutil.Process) -> tuple[float, float]:
    """Seconds of a server and its children so far: of its own, in the kernel."""
    every = [p.cpu_times() for p in (server, *server.children(recursive=True))]
    return sum(t.user for t in every), sum(t.system for t in every)


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


async def measure(name: str, port: int, direct: int, server: psutil.Process) -> Result:
    """Measure one target. It and the direct way take turns, so that both see the same machine."""
    stream = chat_request(MODEL, TOKENS, True, KEY)
    small = chat_request(MODEL, 1, False, KEY)
    pin(server, cores()[0])
    await closed_loop(port, small, 4, 1.0, 50)
    before_s, before = cpu_s(server), clocks(server)
    fast = await closed_loop(port, small, USERS, SECONDS, 10**9)
    fast_cpu_s = cpu_s(server) - before_s
    own_s, kernel_s = (b - a for a, b in zip(before, clocks(server), strict=True))
    spread_bare = await streams(direct, stream, STREAMS, 1, LIFE_S)
    before_s = cpu_s(server)
    spread = await streams(port, stream, STREAMS, 1, LIFE_S)
    spread_cpu_s = cpu_s(server) - before_s
    burst = Timings()
    before_s = cpu_s(server)
    for _ in range(ROUNDS):
        burst += await streams(port, stream, STREAMS, 1, 0.0)
    burst_cpu_s = cpu_s(server) - before_s
    slow_bare = await paced(direct, small, RATE, COUNT)
    slow = await paced(port, small, RATE, COUNT)
    return Result(
        name=name,
        per_core_rps=(len(fast.answer_s) - fast.failed) / fast_cpu_s,
        kernel=kernel_s / max(own_s + kernel_s, 1e-9),
        spread_cpu_s=spread_cpu_s / max(len(spread.delays_s), 1),
        burst_cpu_s=burst_cpu_s / max(len(burst.delays_s), 1),
        token_s=median(spread.delays_s) - median(spread_bare.delays_s),
        first_s=median(burst.ttft_s) - TTFT_S,
        small_s=median(slow.answer_s) - median(slow_bare.answer_s),
        failed=sum(t.failed for t in (fast, spread, burst, slow)),
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
def nginx(
    folder: Path, port: int, backends: list[int], kept: bool = False
) -> Iterator[psutil.Process]:
    """nginx, one worker, to the backend with the fewest connections; nothing is buffered."""
    keeps = "keepalive 512; keepalive_requests 1000000000;" if kept else ""
    speaks = 'proxy_http_version 1.1; proxy_set_header Connection "";' if kept else ""
    servers = "".join(f"server 127.0.0.1:{b};" for b in backends)
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in paths)
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        f"{user} worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;"
        f"events {{ worker_connections 8192; }} http {{ access_log off; keepalive_requests 1000000000; {temporary}"
        f"upstream stub {{ least_conn; {servers} {keeps} }}"
        f"server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ proxy_pass http://stub;"
        f"{speaks} proxy_buffering off; }} }} }}"
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
    """Print the table, and note our figures beside the others' for the table of `make bench`."""
    head = (
        "req/s/core",
        "in the kernel",
        "CPU us/token: spread",
        "at once",
        "token +ms",
        "first of burst ms",
        "small +ms",
        "failed",
    )
    print(f"{'':14s}" + "".join(f"{title:>{len(title) + 3}s}" for title in head))
    for r in results:
        cells = (
            f"{r.per_core_rps:,.0f}",
            f"{r.kernel:.0%}",
            f"{1e6 * r.spread_cpu_s:.1f}",
            f"{1e6 * r.burst_cpu_s:.1f}",
            *(f"{1e3 * s:.2f}" for s in (r.token_s, r.first_s, r.small_s)),
            str(r.failed),
        )
        widths = [len(title) + 3 for title in head]
        row = "".join(f"{cell:>{w}s}" for cell, w in zip(cells, widths, strict=True))
        print(f"{r.name:14s}{row}")
    known = {r.name: r for r in results}
    ours = known.pop("melange-sky", None)
    for name in ("skyserve", "litellm", "haproxy", "nginx-kept", "nginx") if ours else ():
        compare(ours, known.get(name), name)


FIGURES = {
    "per_core_rps": ("requests per second per core", "/s", 1.0),
    "token_cpu_s": ("CPU per streamed token", "us", 1e6),
    "first_s": ("first token of 200 at once", "ms", 1e3),
}


def compare(ours: Result, other: Result | None, name: str) -> None:
    """Note our figures beside those of one other; nginx as it comes is what the goals were set by."""
    for key, (what, unit, scale) in FIGURES.items():
        value = None if other is None else scale * getattr(other, key)
        beside = Beside(name=name, value=value, note="not had")
        rival = name in ("skyserve", "litellm")
        note(
            Figure(
                what=f"gateway, {what}",
                ours=scale * getattr(ours, key),
                unit=unit,
                rival=beside if rival else None,
                limit=None if rival else beside,
                of_limit=round(GOALS[key], 2) if name == "nginx" else None,
                more_is_better=key == "per_core_rps",
            )
        )


async def memory(port: int, server: psutil.Process) -> None:
    """Note how the resident size grows along many requests."""
    small = chat_request(MODEL, 1, False, KEY)
    sizes = []
    done = failed = 0
    for _ in range(10):
        got = await closed_loop(port, small, USERS, 60.0, REQUESTS // 10)
        done, failed = done + len(got.answer_s), failed + got.failed
        sizes.append(server.memory_info().rss / 2**20)
    note(
        Figure(
            what=f"gateway, memory grown over {done:,} requests",
            ours=sizes[-1] - sizes[0],
            unit="MiB",
            note=f"{sizes[0]:.0f} MiB at first; {failed} failed",
        )
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
        "nginx-kept": functools.partial(nginx, kept=True),
        "haproxy": haproxy,
        "skyserve": skyserve,
        "litellm": litellm,
    }
    asked = sys.argv[1:] or [*known, "memory"]
    if "litellm" in asked and not os.environ.get("MELANGE_BENCH_LITELLM"):
        asked.remove("litellm")
        print("LiteLLM left out: MELANGE_BENCH_LITELLM does not name its executable")
    for name in ("nginx", "nginx-kept", "haproxy"):
        if name in asked and program(name.removesuffix("-kept")) is None:
            asked.remove(name)
            print(f"{name} left out: not installed")
    end_s = time.monotonic() + LIMIT_S
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
                left_s = end_s - time.monotonic()
                if left_s < (LITELLM_NEEDS_S if title == "litellm" else NEEDS_S):
                    print(f"{title} left out: {left_s:.0f} s are left of {LIMIT_S:.0f}")
                    continue
                (port,) = free_ports(1)
                with start(folder, port, backends) as server:
                    results.append(run(measure(title, port, backends[0], server)))
            if results:
                show(results)
            if "memory" in asked and end_s - time.monotonic() > NEEDS_S:
                (port,) = free_ports(1)
                with gateway(folder, port, backends) as server:
                    pin(server, cores()[0])
                    run(memory(port, server))


if __name__ == "__main__":
    main()
