"""A thousand requests from a grammar of mistakes: each gets a status or a closed connection, none a 500."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re

import pytest

from tests.gateway.bed import KEY, MODEL, Bed, bed, run
from tests.gateway.replica import Replica

PATHS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/tokenize",
    "/v1/models",
    "/v1/models/x",
    "/health",
    "/metrics",
    "/v1/../metrics",
    "/%00",
    "*",
    "http://a/",
]
NUMBERS = [0, 1, -1, 3, 2**31, 2**63, 10**4000, 1.5, 1e308, True, None, "7", [], {}]
TEXTS = ["", "x", "\ud800", "\x00", "é" * 50, "a" * 5000, None, 3, [], {"a": 1}]


def value(rng: random.Random, depth: int = 0) -> object:
    """Any JSON value."""
    kind = rng.randrange(6 if depth < 3 else 4)
    if kind == 4:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 5:
        keys = ["text", "content", "type", "role", "input", "usage"]
        return {rng.choice(keys): value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return rng.choice(NUMBERS if kind < 2 else TEXTS)


def document(rng: random.Random) -> bytes:
    """A body: what clients send, with anything in its place here and there."""
    body: dict[str, object] = {
        "model": MODEL,
        "prompt": "x",
        "input": "x",
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 2,
        "stream": rng.random() < 0.3,
    }
    keys = [*body, "n", "best_of", "stream_options", "max_completion_tokens", "tools", "system"]
    for _ in range(rng.randrange(4)):
        body[rng.choice(keys)] = value(rng)
    text = json.dumps(body).encode()
    if rng.random() < 0.25:
        at = rng.randrange(len(text))
        text = text[:at] + rng.randbytes(rng.randrange(4)) + text[at + rng.randrange(3) :]
    return text


def request(rng: random.Random) -> bytes:
    """A request with some of its parts wrong."""
    body = document(rng)
    method = rng.choice(["POST"] * 8 + ["GET", "HEAD", "PUT", "OPTIONS", "get", "P\x00ST", ""])
    headers = {
        "Host": "x",
        "Authorization": f"Bearer {KEY}",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    odd = {
        "Content-Length": ["-1", "1e3", str(10**12), str(max(0, len(body) - 3)), "x"],
        "Transfer-Encoding": ["chunked", "gzip"],
        "Content-Encoding": ["gzip", "br"],
        "Expect": ["100-continue", "x"],
        "Authorization": ["", "Bearer", "Bearer \xe9", "Basic a"],
        "X-Request-Id": ["a" * 300, "a b", "é"],
        "traceparent": ["x" * 100, "00-0-0-0"],
        "X-A": ["b" * 20_000, "\x01"],
    }
    for name in rng.sample(sorted(odd), rng.choice([0, 0, 0, 1, 2])):
        headers[name] = rng.choice(odd[name])
    head = f"{method} {rng.choice(PATHS)} HTTP/{rng.choice(['1.1'] * 9 + ['1.0', '2.0', 'x'])}\r\n"
    lines = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    whole = (head + lines + "\r\n").encode("latin-1", "replace") + body
    if rng.random() < 0.1:
        whole = whole[: rng.randrange(len(whole))]
    return whole


async def answer(b: Bed, text: bytes) -> bytes:
    """Send a request and return all that comes."""
    host, port = b.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(text)
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@run
async def test_a_thousand_odd_requests(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    rng = random.Random(11)
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    statuses: set[int] = set()
    async with bed(replicas) as b:
        for _ in range(5):
            texts = [request(rng) for _ in range(200)]
            for text, got in zip(
                texts, await asyncio.gather(*(answer(b, t) for t in texts)), strict=True
            ):
                found = re.match(rb"HTTP/[0-9.]+ ([0-9]{3}) ", got)
                status = int(found.group(1)) if found else 0
                assert status != 500 and (status or not got), (text[:300], got[:300])
                assert b"Traceback" not in got
                statuses.add(status)
        assert (await b.complete())[0] == 200
        assert not b.gateway.proxy.under_way
    assert {200, 400, 401, 404, 405} <= statuses
    assert "Traceback" not in caplog.text and "could not be counted" not in caplog.text
