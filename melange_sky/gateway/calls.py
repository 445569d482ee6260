"""A client's HTTP request as the gateway sees it, and the way to answer it."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

import httptools

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PHRASES = {int(status): status.phrase for status in HTTPStatus}
_BODILESS = (204, 304)
CLIENT_LEFT = 499


class BadRequestError(Exception):
    """The rest of a request is not valid HTTP."""


class TooLargeBodyError(Exception):
    """A body is larger than is taken."""


class Connection(Protocol):
    """What a call needs of the connection that it came by."""

    async def drain(self) -> None:
        """Wait until the client reads."""

    def abort(self) -> None:
        """Close at once."""


class Flow(Protocol):
    """What is to stop while a client does not read."""

    def pause(self) -> None:
        """Bring no more."""

    def resume(self) -> None:
        """Go on."""


class Call:
    """One request, and its answer: whole by `answer`, or `begin`, `write` and `end`.

    `headers` by lower-case names, the first of each. `complete` once the body has come; `path` is None
    where the request is no HTTP. `blocked_since_s` is when the client last stopped reading, None if it
    reads. The answer closes the connection where `keep_alive` is False.
    """

    __slots__ = (
        "_chunked",
        "_connection",
        "_error",
        "_parts",
        "_send",
        "_waiter",
        "begun",
        "blocked_since_s",
        "body_due",
        "complete",
        "ended",
        "flow",
        "headers",
        "keep_alive",
        "method",
        "modern",
        "path",
        "size",
    )

    def __init__(self, connection: Connection, send: Callable[[bytes], None]) -> None:
        """Start with nothing known; `send` takes the answer's bytes."""
        self._connection, self._send = connection, send
        self.method = ""
        self.path: str | None = None
        self.headers: dict[bytes, bytes] = {}
        self.body_due = False
        self.size = 0
        self.complete = self.begun = self.ended = False
        self.keep_alive = self.modern = True
        self.blocked_since_s: float | None = None
        self.flow: Flow | None = None
        self._parts: list[bytes] = []
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._chunked = False

    def header(self, name: bytes) -> str | None:
        """Return a header's text, by its lower-case name."""
        value = self.headers.get(name)
        return None if value is None else value.decode("utf-8", "surrogateescape")

    @property
    def content_length(self) -> int | None:
        """Return how long the body is said to be, None where that is not said."""
        length = self.headers.get(b"content-length")
        return None if length is None else int(length)

    # What the connection calls as the body comes.

    def take(self, piece: bytes, limit: int) -> None:
        """Take in a part of the body; no more than `limit` bytes are kept."""
        self.size += len(piece)
        if self.size > limit:
            self.fail(TooLargeBodyError())
        elif self._error is None and not self.ended:
            self._parts.append(piece)

    def fail(self, error: Exception) -> None:
        """Note why there will be no body."""
        if self._error is None:
            self._error = error
            self._parts.clear()
        self._wake()

    def finish(self) -> None:
        """Note that the body is whole."""
        self.complete = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the handler calls.

    async def body(self, within_s: float) -> bytes:
        """Return the body. Raises BadRequestError, TooLargeBodyError, or asyncio.TimeoutError."""
        if not self.complete and self._error is None:
            if self.headers.get(b"expect", b"").lower() == b"100-continue":
                self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._waiter], timeout=within_s)
        if self._error is not None:
            raise self._error
        if not self.complete:
            raise asyncio.TimeoutError
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer with a whole body."""
        head = self._head(status, headers, f"Content-Length: {len(body)}\r\n")
        self._send(head + body if self.method != "HEAD" else head)
        self._end()

    def begin(self, status: int, headers: Mapping[str, str], length: int | None = None) -> None:
        """Begin an answer whose body follows; without a `length` in chunks, if the client knows them."""
        if length is not None:
            framing = f"Content-Length: {length}\r\n"
        elif self.modern:
            self._chunked, framing = True, "Transfer-Encoding: chunked\r\n"
        else:
            self.keep_alive, framing = False, ""
        self._send(self._head(status, headers, framing))

    def write(self, data: bytes) -> None:
        """Send a part of the body."""
        if data:
            self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def drain(self) -> None:
        """Wait until the client reads."""
        if self.blocked_since_s is not None:
            await self._connection.drain()

    def end(self) -> None:
        """End the body."""
        if self._chunked:
            self._send(b"0\r\n\r\n")
        self._end()

    def cut(self) -> None:
        """End the answer so that the client sees that it is not whole."""
        self.keep_alive = False
        self._end()

    def abort(self) -> None:
        """Close the connection at once."""
        self._connection.abort()

    def _end(self) -> None:
        self.ended = True
        self._parts.clear()

    def _head(self, status: int, headers: Mapping[str, str], framing: str) -> bytes:
        self.begun = True
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        close = "" if self.keep_alive and self.modern else self._persistence()
        if status in _BODILESS:
            framing = ""
        return (
            f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n{lines}{framing}{close}{_date()}\r\n"
        ).encode("latin-1", "replace")

    def _persistence(self) -> str:
        return "Connection: keep-alive\r\n" if self.keep_alive else "Connection: close\r\n"


class _Date:
    """The header line of the current second."""

    second = -1
    line = ""


def _date() -> str:
    now = int(time.time())
    if now != _Date.second:
        _Date.second, _Date.line = now, f"Date: {formatdate(now, usegmt=True)}\r\n"
    return _Date.line


def path_of(target: bytes) -> str:
    """Return the path of a request's target, decoded and without what follows a question mark.

    >>> [path_of(b"/v1/models/a%2Fb?x"), path_of(b"http://host/health"), path_of(b"*")]
    ['/v1/models/a/b', '/health', '*']
    """
    if not target.startswith(b"/") and target != b"*":
        try:
            target = httptools.parse_url(target).path or b"/"
        except httptools.HttpParserInvalidURLError:
            return ""
    path = target.partition(b"?")[0].decode("latin-1")
    return unquote(path) if "%" in path else path
