"""The gateway as a process under everything at once: what is lost, and what it costs in memory and files.

Eight replicas: three that serve, five that fail, flap, hang, dribble, send garbage, die and come back,
changing all the time. Clients: good ones, poisonous ones whose requests fail everywhere, some that
leave, some that hardly send, some whose requests are no HTTP. `python tests/stack/chaos.py SECONDS RATE`
prints what came of it and fails where a good request was lost that could have been served.

A stream that a replica cuts after its first event cannot be served by another one: it is told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from melange_sky.planfile import dump_plan
from tests.gateway.bed import KEY, MODEL, split_plan
from tests.gateway.replica import Replica
from tests.gateway.test_fuzz import request as odd_request

FAULTS = (
    "error",
    "busy",
    "limit",
    "deny",
    "drop",
    "die",
    "empty",
    "garbage",
    "noise",
    "dribble",
    "redirect",
    "hang",
    "gone",
    "ok",
)
POISONS = ("error", "drop", "busy", "garbage", "reject", "tell")
GOOD, BAD = 3, 5
GOOD_ID = "good"
CLIENT_S = 100.0


@dataclass
class Report:
    """What came of it. `good` counts what good requests got; sizes in MiB, files open at once.

    `broke` are the streams that replicas ended too early, by their own count.
    """

    seconds: float
    good: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    memory_mib: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    broke: int = 0
    metrics_bytes: int = 0
    log: str = ""

    @property
    def requests(self) -> int:
        """All requests sent."""
        return sum(self.good.values()) + sum(self.others.values())

    @property
    def lost(self) -> int:
        """Good requests that were neither served nor cut by a replica in mid-stream."""
        return sum(n for what, n in self.good.items() if what not in ("served", "cut"))

    def __str__(self) -> str:
        early, late = self.memory_mib[len(self.memory_mib) // 4], self.memory_mib[-1]
        return (
            f"{self.requests} requests in {self.seconds:.0f} s; good: {dict(self.good)}; others: "
            f"{dict(self.others)}; {self.broke} streams broken by replicas\nmemory {early:.1f} MiB after a quarter, {late:.1f} at the end; open "
            f"files {self.files[0]} at first, {max(self.files)} at most, {self.files[-1]} at the end; "
            f"metrics {self.metrics_bytes / 1024:.0f} KiB"
        )


class Chaos:
    """One run: its replicas, its clients, its gateway."""

    faults: tuple[str, ...] = FAULTS
    poisons: tuple[str, ...] = POISONS
    ends: int = 0

    def __init__(self, seconds: float, rate_rps: float, seed: int = 1) -> None:
        """Prepare."""
        self.seconds, self.rate_rps, self.rng = seconds, rate_rps, random.Random(seed)
        self.good = [Replica(f"good{n}", itl_s=0.01, ttft_s=0.02) for n in range(GOOD)]
        self.bad = [Replica(f"bad{n}", itl_s=0.01, ttft_s=0.02) for n in range(BAD)]
        self.report = Report(seconds)
        self.url, self.asked = "", 0

    async def run(self) -> Report:
        """Run all of it."""
        for replica in (*self.good, *self.bad):
            await replica.start()
        with tempfile.TemporaryDirectory() as folder:
            gateway = await self._gateway(Path(folder))
            try:
                await self._torment(psutil.Process(gateway.pid))
            finally:
                with contextlib.suppress(ProcessLookupError):
                    gateway.send_signal(signal.SIGTERM)
                assert gateway.stderr is not None
                self.report.log += (await gateway.stderr.read()).decode()
                code = await gateway.wait()
                for replica in (*self.good, *self.bad):
                    with contextlib.suppress(Exception):
                        await replica.stop()
        self.report.broke = sum(r.broke for r in (*self.good, *self.bad))
        if code != self.ends:
            self.report.good[f"the gateway ended with {code}"] += 1
        return self.report

    @property
    def backends(self) -> list[str]:
        """The replicas as OPTION=URL."""
        every = [*self.good, *self.bad]
        return [f"{'small' if n % 2 else 'big'}={r.url}" for n, r in enumerate(every)]

    async def _gateway(self, folder: Path) -> asyncio.subprocess.Process:
        plan = folder / "plan.json"
        plan.write_text(dump_plan(split_plan(left=0.7, rate=100.0)), encoding="utf-8")
        backends = [f"--backend={backend}" for backend in self.backends]
        gateway = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "melange_sky", "gateway", str(plan), *backends),
            *("--port", "0", "--drain", "5"),
            env=os.environ | {"MELANGE_SKY_API_KEY": KEY},
            stderr=asyncio.subprocess.PIPE,
        )
        assert gateway.stderr is not None
        while not self.url:
            line = (await gateway.stderr.readline()).decode()
            assert line, "the gateway did not start"
            if "listening on " in line:
                self.url = line.split("listening on ")[1].split(" ")[0]
        return gateway

    async def _torment(self, process: psutil.Process) -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        headers = {"Authorization": f"Bearer {KEY}"}
        timeout = aiohttp.ClientTimeout(total=CLIENT_S)
        async with aiohttp.ClientSession(
            headers=headers, connector=connector, timeout=timeout
        ) as self.client:
            aside = [
                asyncio.create_task(self._change()),
                asyncio.create_task(self._watch(process)),
            ]
            tasks: set[asyncio.Task[None]] = set()
            end_s = time.monotonic() + self.seconds
            while time.monotonic() < end_s:
                task = asyncio.create_task(self._one())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(self.rng.expovariate(self.rate_rps))
            await asyncio.gather(*tasks)
            await asyncio.sleep(6.0)  # idle connections to replicas go after four
            async with self.client.get(f"{self.url}/metrics") as response:
                self.report.metrics_bytes = len(await response.read())
            for task in aside:
                task.cancel()
            await asyncio.gather(*aside, return_exceptions=True)
        self._sample(process)

    def _sample(self, process: psutil.Process) -> None:
        self.report.memory_mib.append(process.memory_info().rss / 2**20)
        self.report.files.append(process.num_fds())

    async def _watch(self, process: psutil.Process) -> None:
        while True:
            self._sample(process)
            await asyncio.sleep(1.0)

    async def _change(self) -> None:
        """Give the bad replicas other faults, and all of them another poison."""
        while True:
            for replica in self.bad:
                mode = self.rng.choice(self.faults)
                if (replica.mode == "gone") != (mode == "gone"):
                    await (replica.stop() if mode == "gone" else replica.start(replica.port))
                replica.mode = mode
                replica.healthy = mode != "busy" or self.rng.random() < 0.5
            poison = self.rng.choice(self.poisons)
            for replica in (*self.good, *self.bad):
                replica.poison = poison
                replica.seen.clear()
                replica.headers.clear()
                replica.paths.clear()
            await asyncio.sleep(self.rng.uniform(1.0, 6.0))

    async def _one(self) -> None:
        kind = self.rng.random()
        if kind < 0.75:
            self.report.good[await self._ask("x " * self.rng.randrange(1, 300), GOOD_ID)] += 1
        elif kind < 0.9:
            self.report.others["poison " + (await self._ask("poison", "poison"))[:12]] += 1
        elif kind < 0.94:
            self.report.others["left"] += 1
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ask("x", "left"), self.rng.uniform(0.001, 0.05))
        else:
            self.report.others["hostile"] += 1
            await self._hostile()

    async def _ask(self, prompt: str, who: str) -> str:
        """Return what came of one request, known in logs by who asked and its number."""
        self.asked += 1
        known = {"X-Request-Id": f"{who}-{self.asked}"}
        stream = self.rng.random() < 0.6
        body: dict[str, Any] = {"model": MODEL, "max_tokens": self.rng.randrange(1, 20)}
        body |= {"prompt": prompt, "stream": stream}
        text = b""
        try:
            url = f"{self.url}/v1/completions"
            async with self.client.post(url, json=body, headers=known) as response:
                async for piece in response.content.iter_any():
                    text += piece
                if response.status != 200:
                    return f"{response.status} {text[:120]!r}"
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            if self._was_cut(text):
                return "cut"
            return f"{type(error).__name__} after {text[-80:]!r}"
        whole = text.endswith(b"[DONE]\n\n") if stream else "choices" in json.loads(text)
        return "served" if whole else f"half: {text[-80:]!r}"

    def _was_cut(self, text: bytes) -> bool:
        """Whether a stream that broke is one that its replica cut."""
        return b'"stream_broken"' in text

    async def _hostile(self) -> None:
        host, port = self.url.removeprefix("http://").split(":")
        text = odd_request(self.rng)
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                if self.rng.random() < 0.3:  # byte by byte, until nobody wants to hear more
                    for byte in text[:40]:
                        writer.write(bytes([byte]))
                        await asyncio.sleep(0.1)
                else:
                    writer.write(text)
                await asyncio.wait_for(reader.read(), 5.0)
            finally:
                writer.close()


def main() -> None:
    """Run for as long as asked; exit with 1 where a good request was lost."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1800.0
    rate_rps = float(sys.argv[2]) if len(sys.argv) > 2 else 28.0
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # of replicas that write to who has left
    report = asyncio.run(Chaos(seconds, rate_rps).run())
    print(report)
    if "Traceback" in report.log:
        print(report.log[-4000:])
    sys.exit(1 if report.lost or "Traceback" in report.log else 0)


if __name__ == "__main__":
    main()
