"""A light HTTP client that times answers: it must cost less than what it measures."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from dataclasses import dataclass, field

_TOKEN = re.compile(rb"T(\d+);")


@dataclass
class Timings:
    """What came of a run. Seconds; `delays_s` from a token's sending to its receipt."""

    gaps_s: list[float] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)
    delays_s: list[float] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)
    failed: int = 0

    def __iadd__(self, other: Timings) -> Timings:
        self.gaps_s += other.gaps_s
        self.ttft_s += other.ttft_s
        self.delays_s += other.delays_s
        self.answer_s += other.answer_s
        self.failed += other.failed
        return self


class Connection(asyncio.Protocol):
    """One connection with one request at a time."""

    def __init__(self, timings: Timings) -> None:
        self.timings = timings
        self.done: asyncio.Future[bool] | None = None
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    async def ask(self, request: bytes) -> bool:
        """Send a request and wait for the end of its answer; False where it failed."""
        self.done = asyncio.get_running_loop().create_future()
        self.started_s, self.first, self.tail = time.monotonic(), True, b""
        self.transport.write(request)
        return await self.done

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        for found in _TOKEN.finditer(data):
            sent_ns = int(found.group(1))
            if sent_ns:
                self.timings.delays_s.append((now_ns - sent_ns) / 1e9)
                if self.first:
                    self.timings.ttft_s.append(now_ns / 1e9 - self.started_s)
                else:
                    self.timings.gaps_s.append((now_ns - self.last_ns) / 1e9)
                self.last_ns = now_ns
            self.first = False
        self.tail = (self.tail + data)[-4096:]
        if self.done is None or self.done.done():
            return
        if self.tail.endswith(b"0\r\n\r\n") or self._whole():
            self.timings.answer_s.append(now_ns / 1e9 - self.started_s)
            self.done.set_result(b" 200 " in self.tail[:20] or self.first is False)

    def _whole(self) -> bool:
        head, gap, body = self.tail.partition(b"\r\n\r\n")
        found = re.search(rb"content-length:\s*(\d+)", head, re.IGNORECASE)
        return bool(gap and found and len(body) >= int(found.group(1)))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(False)


def chat_request(model: str, tokens: int, stream: bool, key: str) -> bytes:
    """Return the bytes of a chat request."""
    message = {"role": "user", "content": "word " * 30}
    body = json.dumps(
        {"model": model, "messages": [message], "max_tokens": tokens, "stream": stream}
    )
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def _connect(port: int, timings: Timings) -> Connection:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(lambda: Connection(timings), "127.0.0.1", port)
    return protocol


async def closed_loop(port: int, request: bytes, users: int, seconds: float, most: int) -> Timings:
    """Keep `users` requests under way for some time, at most `most` requests in all."""
    timings = Timings()
    end_s = time.monotonic() + seconds
    left = most

    async def user() -> None:
        nonlocal left
        connection = await _connect(port, timings)
        while time.monotonic() < end_s and left > 0:
            left -= 1
            connection = await _once(connection, port, request)
        connection.transport.close()

    await asyncio.gather(*(user() for _ in range(users)))
    return timings


async def streams(port: int, request: bytes, users: int, each: int, over_s: float) -> Timings:
    """Run `each` streams in a row on each of `users` connections, starting at random within `over_s`."""
    timings, rng = Timings(), random.Random(users)

    async def user() -> None:
        await asyncio.sleep(rng.random() * over_s)
        connection = await _connect(port, timings)
        for _ in range(each):
            connection = await _once(connection, port, request)
        connection.transport.close()

    await asyncio.gather(*(user() for _ in range(users)))
    return timings


async def _once(connection: Connection, port: int, request: bytes) -> Connection:
    """Ask once; return the connection to go on with."""
    if await connection.ask(request):
        return connection
    connection.timings.failed += 1
    connection.transport.close()
    return await _connect(port, connection.timings)


async def paced(port: int, request: bytes, rate_rps: float, count: int) -> Timings:
    """Send `count` requests at a steady rate over kept connections."""
    timings = Timings()
    idle = [await _connect(port, timings) for _ in range(16)]

    async def one() -> None:
        connection = idle.pop() if idle else await _connect(port, timings)
        if await connection.ask(request):
            idle.append(connection)
        else:
            timings.failed += 1
            connection.transport.close()

    start_s = time.monotonic()
    tasks = []
    for n in range(count):
        await asyncio.sleep(max(0.0, start_s + n / rate_rps - time.monotonic()))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.transport.close()
    return timings
