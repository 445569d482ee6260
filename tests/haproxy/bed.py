"""A real HAProxy with an exported plan and replicas on loopback, all ended at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from melange_sky.planner.haproxy_export import export_haproxy
from melange_sky.planner.serving import ServeOptions
from melange_sky.plans import Plan
from tests.gateway.bed import KEY, REPLICA_KEY, Bed, split_plan
from tests.gateway.replica import Replica

needs_haproxy = pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="needs haproxy (apt-get install haproxy)"
)
LOADED, RELOADING = "Loading success", "Reexecuting Master process"
"""What HAProxy's master says once its worker serves, and once it was told to reload."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class ProxyBed(Bed):
    """What a test holds: the proxy's URL and process, a client that knows the key, what was logged."""

    folder: Path = Path()
    options: ServeOptions = field(default_factory=ServeOptions)
    process: asyncio.subprocess.Process | None = None
    lines: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    parsed: int = 0

    def export(self, plan: Plan, backends: dict[str, list[str]] | None = None) -> None:
        """Write a plan into the folder that the proxy runs from."""
        if backends is not None:
            self.backends = backends
        urls = [f"{option}={url}" for option, group in self.backends.items() for url in group]
        options = ServeOptions(
            **{
                name: getattr(self.options, name)
                for name in self.options.__dataclass_fields__
                if name != "backends"
            },
            backends=urls,
        )
        export_haproxy(plan, options, self.folder)

    async def reload(self) -> None:
        """Let the proxy take what was exported, and wait until it has."""
        assert self.process is not None
        loaded, reloading = self.told(LOADED), self.told(RELOADING)
        while self.told(LOADED) == loaded:
            if (
                self.told(RELOADING) == reloading
            ):  # the master drops a signal in its first milliseconds
                self.process.send_signal(signal.SIGUSR2)
            await asyncio.sleep(0.2)

    def told(self, what: str) -> int:
        """How many lines of its output hold a text."""
        return sum(what in line for line in self.lines)

    @property
    def left_out(self) -> set[str]:
        """The servers that were left out, as it says (to its log and to stderr)."""
        what = " fails more than the others"
        return {line.split(what)[0].split(" ")[-1] for line in self.lines if what in line}

    async def log(self, count: int = 1) -> list[dict[str, Any]]:
        """The requests logged, once there are that many."""
        for _ in range(1000):
            for line in self.lines[self.parsed :]:
                self.parsed += 1
                if line.startswith("{"):
                    self.requests.append(json.loads(line))
            if len(self.requests) >= count:
                return self.requests
            await asyncio.sleep(0.005)
        raise AssertionError(f"only {len(self.requests)} lines were logged")

    async def post(
        self, data: Any, path: str = "/v1/completions", **headers: str
    ) -> tuple[int, dict[str, Any], Any]:
        """Send a body as it is: (status, JSON, headers)."""
        given = {"Content-Type": "application/json"} | headers
        async with self.client.post(f"{self.url}{path}", data=data, headers=given) as r:
            return r.status, await r.json(), r.headers


async def _read(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await stream.readline():
        lines.append(line.decode(errors="replace").rstrip("\n"))


@contextlib.asynccontextmanager
async def proxy_bed(
    folder: Path, replicas: dict[str, list[Replica]], plan: Plan | None = None, **options: Any
) -> AsyncIterator[ProxyBed]:
    """Start replicas (those not started yet) and HAProxy with the plan exported for them."""
    every = [r for group in replicas.values() for r in group]
    for replica in every:
        if not replica.url:
            await replica.start()
    environment = {"MELANGE_SKY_API_KEY": KEY, "VLLM_API_KEY": REPLICA_KEY}
    environment |= options.pop("environment", {})
    copies = options.pop("copies", "")
    port = free_port()
    connector = aiohttp.TCPConnector(limit=0, force_close=options.pop("force_close", True))
    client = aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}, connector=connector)
    bed = ProxyBed(
        gateway=None,  # type: ignore[arg-type] # another program is at its place
        url=f"http://127.0.0.1:{port}",
        client=client,
        plan=plan or split_plan(),
        backends={option: [r.url + copies for r in group] for option, group in replicas.items()},
        folder=folder / "out",
        options=ServeOptions(port=port, **options),
    )
    bed.export(bed.plan)
    bed.process = process = await asyncio.create_subprocess_exec(
        *("haproxy", "-W", "-db", "-f", str(bed.folder / "haproxy.cfg")),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    readers = [
        asyncio.create_task(_read(stream, bed.lines)) for stream in (process.stdout, process.stderr)
    ]
    try:
        for _ in range(250):
            if bed.told(LOADED):
                break
            assert process.returncode is None, bed.lines
            await asyncio.sleep(0.02)
        yield bed
    finally:
        await client.close()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()
        for reader in readers:
            reader.cancel()
        for replica in every:
            with contextlib.suppress(Exception):
                await replica.stop()
