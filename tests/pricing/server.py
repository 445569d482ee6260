"""A loopback HTTP server that says exactly what a test wants, down to the bytes and the pauses."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Answer = Callable[["Exchange"], None]


@dataclass
class Exchange:
    """One request as received, and the socket to answer on."""

    connection: socket.socket
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    stopping: threading.Event

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def pause(self, seconds: float) -> None:
        """Wait, but not past the end of the test."""
        self.stopping.wait(seconds)


@dataclass
class Loopback:
    """Answers each path with its own function, else 404; remembers what was asked."""

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Exchange] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _listener: socket.socket = field(default_factory=socket.socket)
    url: str = ""

    def paths(self) -> list[str]:
        return [exchange.path for exchange in self.asked]

    def catalog(self, cloud: str, answer: Answer) -> None:
        self.answers[f"/v8/{cloud}/vms.csv"] = answer

    def serve(self) -> None:
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.closing(connection):
            exchange = _receive(connection, self._stopping)
            if exchange is None:
                return
            self.asked.append(exchange)
            answer = self.answers.get(exchange.path.partition("?")[0]) or self.answers.get("*")
            (answer or status(404))(exchange)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)


def _receive(connection: socket.socket, stopping: threading.Event) -> Exchange | None:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        k.strip().casefold(): v.strip() for k, _, v in (line.partition(":") for line in lines)
    }
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    method, path, _ = first.split(" ", 2)
    return Exchange(connection, method, path, headers, body, stopping)


@contextlib.contextmanager
def loopback() -> Iterator[Loopback]:
    server = Loopback()
    server.serve()
    try:
        yield server
    finally:
        server.stop()


def raw(data: bytes) -> Answer:
    """Send these bytes and hang up."""
    return lambda exchange: exchange.send(data)


def head(code: int, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {code} X", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def status(code: int, **headers: str) -> Answer:
    return raw(head(code, Content_Length="0", **headers))


def body(data: str | bytes, **headers: str) -> Answer:
    """A good answer, whose ETag is honoured."""
    content = data.encode() if isinstance(data, str) else data

    def answer(exchange: Exchange) -> None:
        etag = headers.get("ETag")
        if etag is not None and exchange.headers.get("if-none-match") == etag:
            exchange.send(head(304, **headers))
        else:
            exchange.send(head(200, Content_Length=str(len(content)), **headers) + content)

    return answer


def in_turn(*answers: Answer) -> Answer:
    """The first request gets the first answer, and so on; the last one stays."""
    left = list(answers)
    lock = threading.Lock()

    def answer(exchange: Exchange) -> None:
        with lock:
            now = left.pop(0) if len(left) > 1 else left[0]
        now(exchange)

    return answer
