"""A request's size is read in Lua as the gateway reads it: the same bodies, the same answers."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from melange_sky.gateway.client_request import ApiPath, Refusal, parse_request
from melange_sky.gateway.seating import seating
from melange_sky.gateway.service import Service
from tests.gateway.bed import FAST, KEY, MODEL, raw, run, split_plan
from tests.gateway.replica import Replica
from tests.gateway.test_fuzz import document
from tests.haproxy.bed import ProxyBed, needs_haproxy, proxy_bed

pytestmark = [pytest.mark.stack, needs_haproxy]

REQUESTS, SEED = 300, int(os.environ.get("SEED", "11"))

TEXTS = [
    "word " * 50,
    'quotes " and \\ and \n\t lines ' * 9,
    "héé 漢字 😀 " * 30,
    "",
    "\\u0041 is no escape \\\\u00e9",
    "\x7f\u2028 \u0000 \u001f",
    "ab\\ncd\\",
]


def text(rng: random.Random) -> str:
    return rng.choice(TEXTS) * rng.choice([1, 1, 2, 10])


def content(rng: random.Random) -> Any:
    parts = [
        {"type": "text", "text": text(rng)},
        {"type": "image_url", "image_url": {"url": "data:" + "x" * 500}},
        {"type": "tool_result", "content": [{"type": "text", "text": text(rng)}]},
        {"type": "tool_result", "content": text(rng)},
        {"type": "tool_use", "input": {}},
    ]
    return rng.choice([text(rng), rng.sample(parts, rng.randrange(4)), None, 7])


def good(rng: random.Random, path: ApiPath) -> dict[str, Any]:
    """A body of the kinds that clients send to a path."""
    ids = [rng.randrange(100_000) for _ in range(rng.randrange(1, 300))]
    prompt = rng.choice([text(rng), ids, [ids, ids[:9]], [text(rng), text(rng)], [], [text(rng)]])
    body: dict[str, Any] = {"model": MODEL}
    roles = ["system", "user", "assistant", "tool"]
    said = [
        {"role": rng.choice(roles), "content": content(rng)} for _ in range(rng.randrange(1, 6))
    ]
    if path is ApiPath.TEXT:
        body |= {"prompt": prompt}
    elif path is ApiPath.EMBEDDINGS:
        body |= {"input": prompt}
    elif path is ApiPath.DETOKENIZE:
        body |= {"tokens": ids}
    elif path is ApiPath.RESPONSES:
        body |= {"input": rng.choice([text(rng), said]), "instructions": text(rng)}
    else:
        body |= {"messages": said}
        if path is ApiPath.MESSAGES:
            body |= {"system": content(rng)}
    if rng.random() < 0.2:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    for key in ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"):
        if rng.random() < 0.3:
            body[key] = rng.choice([1, 2, 3, 40, 60, None])
    return body


async def expected(service: Service, path: ApiPath, body: bytes) -> tuple[Any, ...]:
    """What the gateway says of a body: its size, or how it is refused."""
    try:
        parsed = parse_request(path, body)
        if parsed.model not in (None, MODEL):
            return 404, "model_not_found"
        size = await service.size_of(parsed)
    except Refusal as refusal:
        return refusal.status, refusal.code
    return 200, size.input_tokens, size.max_tokens, parsed.stream


async def told(b: ProxyBed, path: ApiPath, body: bytes, at: int) -> tuple[Any, ...]:
    """What HAProxy says of it."""
    url = f"{b.url}{path.value}"
    async with b.client.post(url, data=body) as r:
        got = await r.read()
    line = (await b.log(at + 1))[at]
    assert line["status"] == r.status
    if r.status != 200:
        return r.status, json.loads(got)["error"]["code"]
    return 200, line["input_tokens_estimated"], line["max_tokens"], line["stream"]


def is_odd_text(body: bytes) -> bool:
    """Whether a body holds control characters, or bytes that are no UTF-8."""
    try:
        return not body.decode().isprintable()
    except UnicodeDecodeError:
        return True


@run
async def test_every_body_is_read_as_the_gateway_reads_it(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    paths = list(ApiPath)
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    for group in replicas.values():
        group[0].no_such = set()
    async with proxy_bed(tmp_path, replicas, split_plan(), force_close=False) as b:
        (plan,) = b.plan.models
        service = Service(seating(plan, [], random.Random(1), FAST), [], FAST)
        sent = 0
        for at in range(REQUESTS):
            path = rng.choice(paths)
            body = document(rng)
            if at % 3:
                escaped = rng.random() < 0.5
                body = json.dumps(good(rng, path), ensure_ascii=escaped).encode()
            if b'"tools": "' in body:  # a text at the place of a list: no client sends that
                body = body.replace(b'"tools": "', b'"other": "')
            if b"0" * 4000 in body:  # a number that Lua writes shorter
                continue
            want = await expected(service, path, body)
            if want == (400, "invalid_json") and is_odd_text(body):
                continue  # for the replica to say
            got = await told(b, path, body, sent)
            sent += 1
            if want[0] == got[0] == 200:  # texts of tools are counted as they are written
                assert abs(want[1] - got[1]) <= 1 and want[2:] == got[2:], (path, body[:300])
            else:
                assert want == got, (path, body[:300])


@run
async def test_a_body_beyond_the_buffer_goes_by_its_length_and_its_start(tmp_path: Path) -> None:
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    async with proxy_bed(tmp_path, replicas, split_plan(left=1.0)) as b:
        head = {"model": MODEL, "max_tokens": 7, "stream": False}
        body = json.dumps(head | {"prompt": "word " * 100_000}).encode()
        status, answer, _ = await b.post(body)
        assert (status, answer["served_by"]) == (200, "b"), "long ones go to the large option"
        (line,) = await b.log()
        assert (line["input_tokens_estimated"], line["max_tokens"]) == (round(len(body) / 4), 7)
        assert len(replicas["big"][0].seen[0]["prompt"]) == 500_000
        last = json.dumps(
            {"prompt": "word " * 100_000} | head
        ).encode()  # one model: no need to see it
        assert (await b.post(last))[0] == 200
        start = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        got = await raw(b, f"{start}Content-Length: 5000000\r\n\r\n".encode())
        assert got.startswith(b"HTTP/1.1 413 ") and b'"body_too_large"' in got
