"""Requests that no honest client sends, byte by byte: none reaches a replica, none reaches elsewhere."""

from __future__ import annotations

import asyncio
import json
import logging
import re

import pytest

from tests.gateway.bed import KEY, MODEL, Bed, bed, raw, run
from tests.gateway.replica import Replica

AUTH = f"Authorization: Bearer {KEY}\r\n".encode()
BODY = json.dumps({"model": MODEL, "prompt": "x", "max_tokens": 1}).encode()
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + AUTH
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
HIDDEN = b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + AUTH + b"\r\n"


def replicas() -> dict[str, list[Replica]]:
    return {"small": [Replica("a")], "big": [Replica("b")]}


def statuses(answer: bytes) -> list[int]:
    """The status of each answer on a connection."""
    return [int(status) for status in re.findall(rb"HTTP/[01]\.[0-9] ([0-9]{3}) ", answer)]


async def ask(b: Bed, text: bytes) -> list[int]:
    """Send bytes, then a request that closes: the statuses of all answers."""
    return statuses(await raw(b, text, wait_s=6.0))


SMUGGLED: list[bytes] = [
    # a length and chunks at once, in both orders
    b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    # lengths that differ, or that only some would read as numbers
    b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"Content-Length: 1, 2\r\n\r\nab",
    b"Content-Length: +5\r\n\r\nabcde",
    b"Content-Length: -1\r\n\r\n",
    b"Content-Length: 0x5\r\n\r\nabcde",
    b"Content-Length: 5_0\r\n\r\nabcde",
    b"Content-Length: 99999999999999999999999\r\n\r\nabcde",
    # encodings that only some would take for chunked
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    # chunks that are none
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
    # headers that are none
    b"Content-Length : 3\r\n\r\nabc",
    b"X-A: b\r\n folded: c\r\nContent-Length\x00: 3\r\n\r\nabc",
    b"no colon\r\n\r\n",
    b"X-A: a\x00b\r\nContent-Length: 3\r\n\r\nabc",
]


@pytest.mark.parametrize("rest", SMUGGLED, ids=range(len(SMUGGLED)))
@run
async def test_a_request_whose_end_is_in_doubt_is_refused_and_what_follows_is_not_read(
    rest: bytes,
) -> None:
    seen = replicas()
    async with bed(seen) as b:
        got = await ask(b, POST + rest + HIDDEN)
        assert got and got[0] in (400, 413), got
        assert 200 not in got, "a request hidden behind another was served"
        assert seen["small"][0].seen + seen["big"][0].seen == []


@run
async def test_honest_chunks_are_taken_and_sent_on_with_a_length() -> None:
    seen = replicas()
    async with bed(seen) as b:
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(x), x) for x in (BODY[:7], BODY[7:]))
        text = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        assert await ask(b, text + pieces + b"0\r\n\r\n") == [200]
        (headers,) = seen["small"][0].headers + seen["big"][0].headers
        assert headers["Content-Length"] == str(len(BODY))
        assert "Transfer-Encoding" not in headers


@run
async def test_two_requests_on_one_connection_get_two_answers_in_order() -> None:
    async with bed(replicas()) as b:
        first = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
        last = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert await ask(b, first + last) == [200, 404]


@run
async def test_many_requests_at_once_are_answered_in_order_up_to_a_bound() -> None:
    async with bed(replicas()) as b:
        one = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
        last = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert await ask(b, one * 10 + last) == [200] * 10 + [404]
        got = await ask(b, one * 200)  # no client waits with so many
        assert 1 <= len(got) < 40 and set(got) == {200}
        assert b.gateway._server.open_connections == 0


@run
async def test_another_protocol_is_declined_and_the_request_served_as_it_is() -> None:
    """As Java's client asks for HTTP/2 with each first request."""
    seen = replicas()
    async with bed(seen) as b:
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"
        text = POST + upgrade + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
        assert await ask(b, text + HIDDEN) == [200]
        (body,) = seen["small"][0].seen + seen["big"][0].seen
        assert body == json.loads(BODY)


@run
async def test_a_refused_body_is_read_to_its_end_and_the_connection_goes_on() -> None:
    async with bed(replicas()) as b:
        host, port = b.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(POST.replace(KEY.encode(), b"wrong") + b"Content-Length: 9\r\n\r\nabc")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"Content-Length: ([0-9]+)", head)[1])  # type: ignore[index]
        assert statuses(head) == [401]
        await reader.readexactly(length)
        writer.write(b"defghi" + GET + b"Connection: close\r\n\r\n")
        assert statuses(await reader.read()) == [200]
        writer.close()


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        (b"CONNECT 127.0.0.1:1 HTTP/1.1", {400, 404, 405}),
        (b"GET http://127.0.0.1:1/ HTTP/1.1", {400, 404}),
        (b"GET http://example.com/v1/models HTTP/1.1", {400, 401}),
        (b"POST http://127.0.0.1:1/v1/embeddings HTTP/1.1", {400, 401}),
        (b"OPTIONS * HTTP/1.1", {400, 404, 405}),
        (b"OPTIONS /v1/completions HTTP/1.1", {405}),
        (b"HEAD /v1/completions HTTP/1.1", {405}),
        (b"TRACE /health HTTP/1.1", {400, 405}),
        (b"GET /v1/../metrics HTTP/1.1", {401, 404}),
        (b"GET /v1/%2e%2e/metrics HTTP/1.1", {401, 404}),
        (b"GET //metrics HTTP/1.1", {401, 404}),
        (b"GET /health/../metrics HTTP/1.1", {401, 404}),
        (b"GET /metrics?x=/health HTTP/1.1", {401}),
        (b"GET /health;/metrics HTTP/1.1", {404}),
        (b"GET /%6detrics HTTP/1.1", {401, 404}),
        (b"GET /etc/passwd HTTP/1.1", {404}),
        (b"GET /../../etc/passwd HTTP/1.1", {404}),
        (b"GET \\metrics HTTP/1.1", {400, 404}),
        (b"GET /health HTTP/9.9", {400}),
        (b"GET /metrics", {400, 401}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {400}),
    ],
)
@run
async def test_no_way_around_paths_methods_and_keys(line: bytes, allowed: set[int]) -> None:
    seen = replicas()
    async with bed(seen) as b:
        answer = await raw(b, line + b"\r\nHost: x\r\nConnection: close\r\n\r\n", wait_s=6.0)
        assert b"melange_gateway_" not in answer, "metrics without a key"
        assert set(statuses(answer)) <= allowed and statuses(answer), answer[:200]
        if b" 405 " in answer[:20] and line[:4] != b"HEAD":
            assert b"\r\nAllow: " in answer
        assert seen["small"][0].seen + seen["big"][0].seen == []


@run
async def test_head_has_the_headers_of_get_and_no_body() -> None:
    async with bed(replicas()) as b:
        answer = await raw(b, b"HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ") and b"Content-Length: " in head
        assert body == b""


@run
async def test_endless_headers_are_cut() -> None:
    async with bed(replicas()) as b:
        for text in (
            GET + b"A: " + b"a" * 40_000 + b"\r\n\r\n",
            GET + b"A: a\r\n" * 500 + b"\r\n",
            GET[:-2] + b"a" * 3_000_000,
            b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        ):
            answer = await raw(b, text, wait_s=6.0)
            assert statuses(answer) in ([400], []), answer[:80]
        assert (await b.complete())[0] == 200


@run
async def test_keys_and_content_stay_out_of_logs_and_metrics(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    seen = {"small": [Replica("a", "error")], "big": [Replica("b")]}
    async with bed(seen) as b:
        await b.complete(prompt="a-private-prompt")
        await b.complete(prompt="a-private-prompt", model="no\nsuch-model")
        for bad in (POST + b"Bad header\r\n\r\n", POST.replace(b"n: B", b"n : B") + b"\r\n"):
            answer = await raw(b, bad)
            assert statuses(answer) == [400] and b'"invalid_http"' in answer
            assert KEY.encode() not in answer
        await asyncio.sleep(0.2)
        async with b.client.get(f"{b.url}/metrics") as response:
            metrics = await response.text()
    for text in (caplog.text, metrics):
        for secret in (KEY, "replica-key-2", "a-private-prompt", "such-model"):
            assert secret not in text
