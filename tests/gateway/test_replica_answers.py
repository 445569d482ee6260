"""Answers of replicas byte by byte: every valid form is read to its end, none is taken for whole that is not."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.gateway.bed import MODEL, bed, run, split_plan
from tests.gateway.replica import Replica

ONLY_SMALL = split_plan(left=1.0)
TEXT = b'{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}'
SIZED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(TEXT)
EVENT = b'data: {"choices": [{"text": "t"}]}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


class Raw(Replica):
    """Answers requests with bytes as they are, a piece each 10 ms, and then closes or keeps quiet."""

    def __init__(self, pieces: list[bytes], closes: bool) -> None:
        super().__init__("raw")
        self.pieces, self.closes, self.connections, self.asked = pieces, closes, 0, 0

    async def start(self, port: int = 0) -> Raw:
        self._raw = await asyncio.start_server(self._client, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self._raw.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        self._raw.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._answered(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        await reader.readexactly(int(lines.get("Content-Length", 0)))
        if head.startswith("GET"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return True
        self.asked += 1
        for piece in self.pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)
        return not self.closes


def chunks(text: bytes, size: int) -> bytes:
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE: dict[str, tuple[list[bytes], bool]] = {
    "a length": ([SIZED + b"\r\n" + TEXT], False),
    "byte by byte": ([bytes([byte]) for byte in SIZED[:40]] + [SIZED[40:] + b"\r\n" + TEXT], False),
    "chunks": ([CHUNKED + chunks(TEXT, 7)], False),
    "chunks and trailers": ([CHUNKED + chunks(TEXT, 7)[:-2] + b"X-A: b\r\n\r\n"], False),
    "until it closes": ([SIZED.split(b"Content-Length")[0] + b"\r\n", TEXT[:9], TEXT[9:]], True),
    "HTTP/1.0": ([SIZED.replace(b"1.1", b"1.0") + b"\r\n" + TEXT], True),
    "early hints": (
        [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", SIZED + b"\r\n" + TEXT],
        False,
    ),
    "to be closed": ([SIZED + b"Connection: close\r\n\r\n" + TEXT], False),
    "a second answer": ([SIZED + b"\r\n" + TEXT + SIZED + b"\r\n" + TEXT], False),
    "bytes behind it": ([SIZED + b"\r\n" + TEXT, b"unasked"], False),
}
BROKEN: dict[str, tuple[list[bytes], str]] = {
    "ends early": ([SIZED + b"\r\n" + TEXT[:-1]], "broken"),
    "ends in a chunk": ([CHUNKED + chunks(TEXT, 7)[:-9]], "broken"),
    "ends in its head": ([SIZED], "broken"),
    "an endless head": ([b"HTTP/1.1 200 OK\r\n"] + [b"A: " + b"a" * 9000 + b"\r\n"] * 9, "broken"),
    "another protocol": ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"], "broken"),
    "two lengths": ([SIZED + b"Content-Length: 3\r\n\r\n" + TEXT], "broken"),
    "nothing": ([], "disconnected"),
}


@pytest.mark.parametrize("form", WHOLE)
@run
async def test_every_valid_form_of_an_answer_is_read_and_counted(form: str) -> None:
    replica = Raw(*WHOLE[form])
    async with bed({"small": [replica]}, ONLY_SMALL) as b:
        for asked in (1, 2, 3):
            assert await b.complete() == (200, json.loads(TEXT))
            assert replica.asked == asked
            await asyncio.sleep(0.03)  # what comes unasked comes before the next request
        assert await b.metric("melange_gateway_tokens_total", kind="output") == 12
        assert await b.metric("melange_gateway_attempt_failures_total") == 0


@pytest.mark.parametrize("form", BROKEN)
@run
async def test_an_answer_that_is_not_whole_is_asked_for_elsewhere(form: str) -> None:
    pieces, kind = BROKEN[form]
    replica, other = Raw(pieces, closes=True), Replica("good")
    async with bed({"small": [replica, other]}, ONLY_SMALL) as b:
        for _ in range(4):
            status, answer = await b.complete()
            assert (status, answer["served_by"]) == (200, "good")
        assert replica.asked > 0
        failures = await b.metric("melange_gateway_attempt_failures_total")
        assert failures == await b.metric("melange_gateway_attempt_failures_total", kind=kind) > 0


@run
async def test_a_stream_ends_clean_only_where_the_replica_ended_it() -> None:
    framed = STREAM + b"Transfer-Encoding: chunked\r\n\r\n"
    whole, cut = chunks(EVENT * 3, 30), chunks(EVENT * 3, 30)[:-5]
    body = {"model": MODEL, "prompt": "x", "max_tokens": 3, "stream": True}
    for pieces, clean in (
        ([framed, whole], True),
        ([framed + whole], True),
        ([STREAM + b"\r\n", EVENT, EVENT, EVENT], True),  # until it closes
        ([framed, cut], False),
        ([framed, whole[:72], b"zz\r\n"], False),
    ):
        async with bed({"small": [Raw(pieces, closes=True)]}, ONLY_SMALL) as b:
            async with b.client.post(f"{b.url}/v1/completions", json=body) as response:
                assert response.status == 200
                got = b""
                try:
                    async for piece in response.content.iter_any():
                        got += piece
                    ended = True
                except Exception:  # noqa: BLE001 -- the client's word for a cut stream
                    ended = False
            assert (ended, b"stream_broken" not in got) == (clean, clean)
            assert got.startswith(EVENT) and (got == EVENT * 3 or not clean)


@run
async def test_connections_are_used_again_and_closed_before_the_engines_would() -> None:
    replica = Raw(*WHOLE["a length"])
    async with bed({"small": [replica]}, ONLY_SMALL) as b:
        probes = replica.connections
        for _ in range(20):
            assert (await b.complete())[0] == 200
        assert replica.connections <= probes + 1
