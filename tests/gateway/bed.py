"""A gateway and replicas in one event loop, on loopback, closed at the end with nothing left over."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from melange_sky.gateway import Credentials, Gateway, Keys, Listen, Secret, Settings, Sources
from melange_sky.plans import Allocation, Plan
from tests.factories import make_capacity, make_option, make_plan, make_workload
from tests.gateway.replica import Replica

KEY, REPLICA_KEY = "client-key-1", "replica-key-2"
MODEL = make_plan().models[0].model
FAST = Settings(
    probe_every_s=0.1,
    probe_s=0.5,
    ejection_s=0.2,
    watch_every_s=0.1,
    first_byte_s=1.0,
    answer_s=2.0,
    idle_s=1.0,
    body_s=0.5,
    header_s=1.5,
    queue_wait_s=0.3,
    drain_s=3.0,
    connect_s=1.0,
)


def split_plan(left: float = 0.5, rate: float = 50.0, instances: int = 1) -> Plan:
    """Short prompts go to `small` (share `left`) and `big`; long ones to `big` alone."""
    small = make_capacity([[rate], [None]], make_option("small"))
    big = make_capacity([[rate], [rate]], make_option("big"))
    return make_plan(
        workload=make_workload([[2.0], [1.0]]),
        candidates=(small, big),
        allocations=tuple(
            Allocation(
                candidate=o, instances=instances, load_fraction=0.1, rate_rps=1.0, shares=shares
            )
            for o, shares in ((small, ((left,), (0.0,))), (big, ((1 - left,), (1.0,))))
        ),
    )


@dataclass
class Bed:
    """What a test holds: the gateway, its URL, a client that knows the key."""

    gateway: Gateway
    url: str
    client: aiohttp.ClientSession
    plan: Plan
    backends: dict[str, list[str]] = field(default_factory=dict)

    async def complete(
        self, words: int = 10, max_tokens: int = 3, **over: Any
    ) -> tuple[int, dict[str, Any]]:
        """One text completion, not streamed: (status, JSON)."""
        body = {"model": MODEL, "prompt": "word " * words, "max_tokens": max_tokens} | over
        async with self.client.post(f"{self.url}/v1/completions", json=body) as response:
            return response.status, await response.json()

    async def stream(self, words: int = 10, max_tokens: int = 3, **over: Any) -> tuple[int, str]:
        """One streamed chat completion: (status, text)."""
        messages = [{"role": "user", "content": "word " * words}]
        body = {
            "model": MODEL,
            "messages": messages,
            "max_tokens": max_tokens,
            "stream": True,
        } | over
        async with self.client.post(f"{self.url}/v1/chat/completions", json=body) as response:
            return response.status, await response.text()

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        async with self.client.get(f"{self.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith((name + "{", name + " ")) and all(w in line for w in wanted)
        )

    async def settled(self, what: Callable[[], bool], within_s: float = 5.0) -> None:
        """Wait until something holds."""
        end = asyncio.get_running_loop().time() + within_s
        while not what():
            assert asyncio.get_running_loop().time() < end, "did not come about"
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def bed(
    replicas: dict[str, list[Replica]],
    plan: Plan | None = None,
    settings: Settings = FAST,
    **over: Any,
) -> AsyncIterator[Bed]:
    """Start replicas (those not started yet) and a gateway over them; check that nothing is left."""
    before = len(asyncio.all_tasks())
    every = [r for group in replicas.values() for r in group]
    for replica in every:
        if not replica.url:
            await replica.start()
    backends = {option: [r.url for r in group] for option, group in replicas.items()}
    held = over.pop("holder", {"plan": plan or split_plan()})
    sources = Sources(
        load_plan=lambda: held["plan"],
        discover=lambda: {k: list(v) for k, v in backends.items()},
        **{key: over.pop(key) for key in ("watch", "tokenizer", "observed") if key in over},
    )
    credentials = Credentials(
        clients=Keys(over.pop("keys", [KEY])), replicas=Secret(over.pop("replica_key", REPLICA_KEY))
    )
    gateway = Gateway(sources, settings, credentials, random.Random(5))
    port = await gateway.start(over.pop("listen", Listen(port=0)))
    # A connection each: a kept one may be closed as idle just when it is used again.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    client = aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}, connector=connector)
    try:
        yield Bed(gateway, f"http://127.0.0.1:{port}", client, held["plan"], backends)
        for service in gateway.fleet.services.values():
            assert all(n == 0 for n in service.router.state.in_flight), "a lease was not given back"
    finally:
        await client.close()
        gateway.stop()
        await gateway.wait()
        for replica in every:
            await replica.stop()
        for _ in range(100):
            if len(asyncio.all_tasks()) <= before:
                break
            await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) <= before, "a task was left behind"


def run(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in a loop of its own, for at most two minutes: longer is a hang on any machine."""

    def call(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            await asyncio.wait_for(test(*args, **kwargs), 120)

        asyncio.run(bounded())

    call.__name__, call.__doc__ = test.__name__, test.__doc__
    call.__wrapped__ = test  # type: ignore[attr-defined] # so that pytest sees fixtures
    return call


async def raw(b: Bed, text: bytes, wait_s: float = 3.0) -> bytes:
    """Send bytes as they are and return what comes until the gateway closes."""
    host, port = b.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text)
    got = b""

    async def until_closed() -> None:
        nonlocal got
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                got += piece

    try:
        await asyncio.wait_for(until_closed(), wait_s)
    finally:
        writer.close()
    return got


async def together(calls: list[Awaitable[Any]]) -> list[Any]:
    """Await many at once."""
    return list(await asyncio.gather(*calls))


def folder_of(path: Path) -> set[str]:
    """Names in a folder."""
    return {p.name for p in path.iterdir()}
