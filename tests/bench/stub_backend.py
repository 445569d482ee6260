"""A backend of fixed timing, as light as can be, so that a benchmark measures what stands before it.

Speaks just enough HTTP/1.1: chat completions (streamed: TTFT 200 ms, then a token each 50 ms, on a
fixed schedule; not streamed: at once), /health, and SkyServe's controller call that lists replicas.
Each token's text is ``T<monotonic nanoseconds>;``, the moment it was handed to the kernel.

Run: python stub_backend.py PORT…  (serves until its standard input ends)
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
import time

TTFT_S, ITL_S = 0.2, 0.05
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_TOKENS = re.compile(rb'"max_(?:completion_)?tokens"\s*:\s*(\d+)')
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: "


class Stub(asyncio.Protocol):
    """One connection."""

    ports: tuple[int, ...] = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.loop = asyncio.get_running_loop()
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _LENGTH.search(self.buffer, 0, end)
        size = end + 4 + (int(found.group(1)) if found else 0)
        if len(self.buffer) < size:
            return
        head, body, self.buffer = self.buffer[:end], self.buffer[end + 4 : size], self.buffer[size:]
        self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET"):
            self.whole({})
        elif b"load_balancer_sync" in head.split(b"\r\n", 1)[0]:
            urls = [f"http://127.0.0.1:{port}" for port in self.ports]
            self.whole({"replica_info": {url: {"gpu_type": "L4"} for url in urls}})
        elif _STREAM.search(body):
            found = _TOKENS.search(body)
            self.transport.write(_HEAD + b"text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.token(self.loop.time() + TTFT_S, int(found.group(1)) if found else 16)
        else:
            message = {"role": "assistant", "content": "T0;"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41}
            self.whole(
                {
                    "id": "chatcmpl-1",
                    "object": "chat.completion",
                    "created": 1,
                    "model": "m",
                    "choices": [choice],
                    "usage": usage,
                }
            )

    def whole(self, document: object) -> None:
        text = json.dumps(document).encode()
        self.transport.write(
            _HEAD + b"application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
        )

    def token(self, due_s: float, left: int) -> None:
        self.loop.call_at(due_s, self.send, due_s, left)

    def send(self, due_s: float, left: int) -> None:
        if self.transport.is_closing():
            return
        choice = (
            b'{"index":0,"delta":{"role":"assistant","content":"T%d;"},"finish_reason":null}'
            % time.monotonic_ns()
        )
        event = (
            b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'
        )
        event += b'"choices":[%b]}\n\n' % choice
        if left <= 1:
            event += b"data: [DONE]\n\n"
        chunk = b"%x\r\n%b\r\n" % (len(event), event)
        if left <= 1:
            self.transport.write(chunk + b"0\r\n\r\n")
            return
        self.transport.write(chunk)
        self.token(due_s + ITL_S, left - 1)


async def main(ports: tuple[int, ...]) -> None:
    loop = asyncio.get_running_loop()
    Stub.ports = ports
    ended = asyncio.Event()
    for port in ports:
        await loop.create_server(Stub, "127.0.0.1", port, backlog=1024)
    threading.Thread(
        target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True
    ).start()
    await ended.wait()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main(tuple(map(int, sys.argv[1:]))))
    else:
        uvloop.run(main(tuple(map(int, sys.argv[1:]))))
