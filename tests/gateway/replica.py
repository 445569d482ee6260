"""A small real HTTP server that answers like vLLM, with timing and faults that a test chooses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

from aiohttp import web


class Replica:
    """Serves on a free loopback port. Faults: see `mode`.

    `mode`: "ok"; "error" (500); "busy" (503) and "limit" (429), with Retry-After; "deny" (401);
    "reject" (422 with a body of its own); "tell" (an error event after two chunks, then the end); "hang" (no answer); "die" (cut after two
    stream chunks); "drop" (close without an answer); "redirect"; "empty" (a stream without bytes);
    "garbage" (a good status and a page of HTML); "noise" (bytes that are no HTTP); "dribble" (the answer a byte at a time, 50 a second).
    A request that says "poison" gets `poison` in place of `mode`. `whole`: headers and body of every
    answer that is not streamed. `page`: its metrics after `page_s`, None for none. `broke`: streams that
    it ended too early, after their first event and before their last; those under way at its end count.
    """

    def __init__(
        self, name: str, mode: str = "ok", ttft_s: float = 0.0, itl_s: float = 0.0
    ) -> None:
        self.name, self.mode, self.ttft_s, self.itl_s = name, mode, ttft_s, itl_s
        self.healthy = True
        self.poison = mode
        self.whole: tuple[dict[str, str], bytes] | None = None
        self.pad = ""
        self.page: bytes | None = None
        self.page_s = 0.0
        self.looks = 0
        self.seen: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.no_such: set[str] = {"/v1/embeddings"}
        self.headers: list[dict[str, str]] = []
        self.ended: Counter[str] = Counter()
        self.running = self.streaming = self.broke = 0
        self.url = ""

    async def start(self, port: int = 0) -> Replica:
        self._runner = web.ServerRunner(
            web.Server(self._handle, handler_cancellation=True, access_log=None),
            shutdown_timeout=0.1,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def stop(self) -> None:
        self.broke += self.streaming
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/health":
            if self.mode == "hang":
                await asyncio.sleep(60)
            return web.Response(status=200 if self.healthy else 503)
        if request.path == "/metrics":
            self.looks += 1
            await asyncio.sleep(self.page_s)
            return web.Response(status=404 if self.page is None else 200, body=self.page)
        body = json.loads(await request.read())
        self.paths.append(request.path)
        self.seen.append(body)
        self.headers.append(dict(request.headers))
        self.running += 1
        how = "cut"
        try:
            response = await self._answer(request, body)
            how = "done"
            return response
        except ConnectionError:
            return web.Response(status=499)
        finally:
            self.ended[how] += 1
            self.running -= 1

    async def _answer(self, request: web.BaseRequest, body: dict[str, Any]) -> web.StreamResponse:
        if request.path in self.no_such:
            return web.json_response({"detail": "Not Found"}, status=404)
        mode = self.poison if "poison" in json.dumps(body) else self.mode
        faults = {"error": 500, "busy": 503, "limit": 429, "deny": 401, "redirect": 307}
        if mode == "reject":
            text = b'{"error" : {"message": "odd  \\u00e9"}}'
            return web.Response(status=422, body=text, content_type="application/json")
        if mode in faults:
            headers = {"Location": "http://127.0.0.1:1/"} if mode == "redirect" else {}
            if mode in ("busy", "limit"):
                headers = {"Retry-After": "17"}
            return web.json_response({"error": {}}, status=faults[mode], headers=headers)
        return await self._served(request, body, mode)

    async def _served(
        self, request: web.BaseRequest, body: dict[str, Any], mode: str
    ) -> web.StreamResponse:
        if mode == "drop":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if mode == "noise":
            assert request.transport is not None
            request.transport.write(b"\x00\xff\xfe nothing that is HTTP \r\n\r\n")  # type: ignore[attr-defined]
            request.transport.abort()
            return web.Response()
        if mode == "hang":
            await asyncio.sleep(60)
        await asyncio.sleep(self.ttft_s)
        lengths = ("max_tokens", "max_completion_tokens", "max_output_tokens")
        tokens = next((n for name in lengths if isinstance(n := body.get(name), int) and n), 8)
        tokens = min(tokens, 10_000)
        sequences = len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1
        usage = {"prompt_tokens": 40, "completion_tokens": tokens * sequences}
        if request.path in OTHERS:
            return await OTHERS[request.path](request, body, tokens)
        if mode == "garbage":
            return web.Response(text="<html>502 Bad Gateway</html>", content_type="text/html")
        if mode == "dribble":
            return await self._dribble(request, bool(body.get("stream")))
        if not body.get("stream"):
            if self.whole is not None:
                return web.Response(headers=self.whole[0], body=self.whole[1])
            await asyncio.sleep(self.itl_s * tokens)
            return web.json_response(
                {"choices": [{"text": "t " * tokens}], "usage": usage, "served_by": self.name}
            )
        return await self._stream(request, body, tokens, usage, mode)

    async def _dribble(self, request: web.BaseRequest, stream: bool) -> web.StreamResponse:
        kind = "text/event-stream" if stream else "application/json"
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        text = b'data: {"choices": [{"text": "' if stream else b'{"choices": [{"text": "'
        for byte in text + b"x" * 2000:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.02)
        return response

    @contextlib.contextmanager
    def _begun(self) -> Iterator[None]:
        self.streaming += 1
        try:
            yield
        finally:
            self.streaming -= 1

    async def _stream(
        self,
        request: web.BaseRequest,
        body: dict[str, Any],
        tokens: int,
        usage: dict[str, int],
        mode: str,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if mode == "empty":
            return response
        with self._begun():
            for n in range(tokens):
                if n:
                    await asyncio.sleep(self.itl_s)
                event = {"choices": [{"text": f"t{n} {self.pad}"}], "served_by": self.name}
                await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                if mode == "tell" and n == 1:
                    await response.write(
                        b'data: {"error": {"message": "out of memory", "code": 500}}\n\ndata: [DONE]\n\n'
                    )
                    return response
                if mode == "die" and n == 1:
                    assert request.transport is not None
                    await asyncio.sleep(0.02)
                    request.transport.abort()
                    self.broke += 1
                    return response
            if (body.get("stream_options") or {}).get("include_usage"):
                last = json.dumps({"choices": [], "usage": usage}).encode()
                await response.write(b"data: " + last + b"\n\n")
            await response.write(b"data: [DONE]\n\n")
        return response


async def _responses(
    request: web.BaseRequest, body: dict[str, Any], tokens: int
) -> web.StreamResponse:
    """OpenAI's responses: counts by other names, named events, no [DONE]."""
    usage = {"input_tokens": 40, "output_tokens": tokens, "total_tokens": 40 + tokens}
    whole = {"id": f"resp_{uuid.uuid4().hex}", "object": "response", "output": [], "usage": usage}
    if not body.get("stream"):
        return web.json_response(whole)
    deltas = [{"type": "response.output_text.delta", "delta": f"t{n}"} for n in range(tokens)]
    return await _events(request, [*deltas, {"type": "response.completed", "response": whole}])


async def _messages(
    request: web.BaseRequest, body: dict[str, Any], tokens: int
) -> web.StreamResponse:
    """Anthropic's messages: the prompt's count comes first, the output's last."""
    usage = {"input_tokens": 40, "output_tokens": tokens}
    if not body.get("stream"):
        return web.json_response({"type": "message", "content": [], "usage": usage})
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 40}}}
    deltas = [
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": f"t{n}"}}
        for n in range(tokens)
    ]
    last = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": tokens}}
    return await _events(request, [start, *deltas, last, {"type": "message_stop"}])


async def _tokens(
    request: web.BaseRequest, body: dict[str, Any], tokens: int
) -> web.StreamResponse:
    return web.json_response({"count": 2, "tokens": [1, 2]})


async def _events(request: web.BaseRequest, events: list[dict[str, Any]]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    return response


OTHERS = {
    "/v1/responses": _responses,
    "/v1/messages": _messages,
    "/v1/messages/count_tokens": _tokens,
    "/tokenize": _tokens,
    "/detokenize": _tokens,
}
