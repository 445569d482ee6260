"""A server of known timing: first token after `ttft`, one every `itl`, `slots` requests at a time.

Runs as its own process (`python known_server.py --ttft 0.05 …`), prints its port, ends when its
standard input closes. `GET /log` gives the times at which it really wrote, on the machine's monotonic
clock, which is also the client's. `--fault` makes it fail in one of the ways that real ones do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time

from aiohttp import web


class Server:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.slots = asyncio.Semaphore(options.slots)
        self.log: list[dict[str, float]] = []
        self.served = self.running = 0
        self.prompts: list[object] = []

    def application(self) -> web.Application:
        app = web.Application(client_max_size=2**24)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_get("/version", self.version)
        app.router.add_get("/server_info", self.server_info)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/log", self.read_log)
        app.router.add_get("/health", self.version)
        return app

    def denied(self, request: web.Request) -> bool:
        key = self.options.key
        return bool(key) and request.headers.get("Authorization") != f"Bearer {key}"

    async def models(self, request: web.Request) -> web.Response:
        if self.denied(request):
            return web.json_response({"error": {"message": "Unauthorized"}}, status=401)
        if self.options.fault == "not-json":
            return web.Response(text="<html>It works!</html>")
        return web.json_response({"data": [{"id": self.options.model, "max_model_len": 4096}]})

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "9.9.9"})

    async def server_info(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "8.8.8", "model_path": self.options.model})

    async def metrics(self, _: web.Request) -> web.Response:
        text = (
            "# HELP vllm:num_requests_running x\n"
            f'vllm:num_requests_running{{engine="0"}} {float(self.running)}\n'
            'vllm:num_requests_waiting{engine="0"} 0.0\nvllm:kv_cache_usage_perc{engine="0"} 0.25\n'
            f'vllm:num_preemptions_total{{engine="0"}} {self.served // 10}\n'
            f'sglang:num_running_reqs{{engine_type="unified"}} {float(self.running)}\n'
            'sglang:num_queue_reqs{engine_type="unified"} 0.0\n'
            'sglang:token_usage{engine_type="unified"} 0.5\n'
            'sglang:num_retracted_requests_total{engine_type="unified"} 0.0\n'
        )
        return web.Response(text=text)

    async def read_log(self, _: web.Request) -> web.Response:
        return web.json_response({"log": self.log, "prompts": self.prompts})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        entry = {"received": time.perf_counter()}
        self.prompts.append(asked["prompt"])
        fault = self.options.fault if len(self.prompts) > self.options.after else None
        if fault == "500":
            return web.json_response({"error": {"message": "engine\ndied"}}, status=500)
        if fault == "hang":
            await asyncio.sleep(3600)
        self.log.append(entry)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        self.running += 1
        try:
            async with self.slots:
                await self.stream(request, response, asked, entry, fault)
        finally:
            self.running -= 1
        return response

    async def stream(self, request, response, asked, entry, fault) -> None:
        tokens, size = asked["max_tokens"], len(asked["prompt"])
        if isinstance(asked["prompt"], str):
            size = len(asked["prompt"].split())
        await response.prepare(request)
        start = time.perf_counter()
        chunk = b'data: {"choices": [{"index": 0, "text": "x"}]}\n\n'
        sent = 0
        while sent < tokens:
            # Absolute times, so that delays do not add up; a late server merges tokens in a chunk.
            due = start + self.options.ttft + sent * self.options.itl
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            now = time.perf_counter()
            ready = min(
                tokens,
                1 + max(0, int((now - start - self.options.ttft) / max(self.options.itl, 1e-9))),
            )
            ready = max(ready, sent + 1)
            entry.setdefault("first", now)
            entry["last"] = now
            await response.write(chunk)
            sent = ready
            if fault == "malformed":
                await response.write(b"data: {broken\n\n")
                return
            if fault == "die":
                os._exit(3)
            if fault == "early" and sent * 2 >= tokens:
                await response.write_eof()
                return
            if fault == "reset" and sent * 2 >= tokens:
                request.transport.abort()
                return
        if fault == "short":
            tokens //= 2
        if fault == "miscount":
            size += 1
        usage = {"prompt_tokens": size, "completion_tokens": tokens}
        await response.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        self.served += 1


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ttft", type=float, default=0.01)
    parser.add_argument("--itl", type=float, default=0.001)
    parser.add_argument("--slots", type=int, default=10_000)
    parser.add_argument("--key", default="")
    parser.add_argument("--fault", default=None)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="known")
    parser.add_argument("--stay", action="store_true", help="stay when standard input closes")
    parser.add_argument("--after", type=int, default=0, help="requests before the fault")
    server = Server(parser.parse_args())
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", server.options.port)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    if server.options.stay:
        await asyncio.sleep(600)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()
    os._exit(0)  # requests that hang on purpose must not keep it alive


if __name__ == "__main__":
    asyncio.run(main())
