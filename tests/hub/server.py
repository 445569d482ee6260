"""A Hub on the loopback: real HTTP, with the answers and the faults that a test asks for."""

from __future__ import annotations

import json
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40
LATER = "b" * 40


@dataclass
class Answer:
    """What a file's address answers.

    `drip_s` between single bytes; `endless`: no length, no end; `token`: who does not show it is told
    that the model is gated.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    drip_s: float = 0.0
    endless: bool = False
    ranges: bool = True
    commit: str | None = COMMIT
    token: str | None = None


class HubServer:
    """`answers[path]` by `/org/name/resolve/revision/file`; unknown ones are 404s of the Hub's kind."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self})
        )
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def put(self, repo: str, files: dict[str, bytes], *, commit: str = COMMIT) -> None:
        """Serve files of a model under its branch and under its commit."""
        for revision in ("main", commit):
            for name, body in files.items():
                self.answers[f"/{repo}/resolve/{revision}/{name}"] = Answer(body, commit=commit)

    def fault(self, repo: str, name: str, answer: Answer) -> None:
        """Answer a file of a model, whatever its revision, with a fault."""
        for revision in ("main", COMMIT):
            self.answers[f"/{repo}/resolve/{revision}/{name}"] = answer


def weights(tensors: dict[str, tuple[str, list[int]]]) -> bytes:
    """Return the start of a safetensors file: its header, and a little of what follows."""
    header = json.dumps(
        {
            name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 1]}
            for name, (dtype, shape) in tensors.items()
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 64


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.hub.seen.append((self.command, self.path, dict(self.headers)))
        answer = self.hub.answers.get(self.path) or self._missing()
        if answer.token and answer.token not in self.headers.get("Authorization", ""):
            answer = Answer(status=401, headers={"X-Error-Code": "GatedRepo"})
        data, status = answer.body, answer.status
        span = self.headers.get("Range")
        if span and answer.ranges and status == 200:
            first, last = span.removeprefix("bytes=").split("-")
            data, status = data[int(first) : int(last) + 1], 206
        self.send_response(status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.commit is not None:
            self.send_header("X-Repo-Commit", answer.commit)
        self.send_header("ETag", '"etag"')
        if answer.endless:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            length = len(data) if answer.length is None else answer.length
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if body:
            self._send(answer, data)

    def _send(self, answer: Answer, data: bytes) -> None:
        try:
            if answer.endless:
                while True:
                    self.wfile.write(b" " * 65536)
            elif answer.drip_s:
                for byte in data:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(answer.drip_s)
            else:
                self.wfile.write(data)
                if answer.length is not None and answer.length > len(data):
                    self.close_connection = True
        except OSError:
            self.close_connection = True

    def _missing(self) -> Answer:
        repo = "/".join(self.path.split("/")[1:3])
        known = any(path.startswith(f"/{repo}/") for path in self.hub.answers)
        code = "EntryNotFound" if known else "RepoNotFound"
        return Answer(status=404, headers={"X-Error-Code": code})
