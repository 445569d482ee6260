"""Clients' connections: requests are read as they come, one is served at a time, answers go in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

import httptools

from melange_sky.gateway.calls import BadRequestError, Call, path_of

if TYPE_CHECKING:
    from melange_sky.gateway.settings import Settings

log = logging.getLogger(__name__)

_LINGER_S = 1.0
_NEW_S = 1.0
_MOST_AHEAD = 16
_HEAD_FIELDS = 4
"""A head may be as long as so many of its longest fields."""


class ClientConnection(asyncio.Protocol):
    """One connection. What a client sends before its last request is answered waits for its turn.

    The parser (llhttp) refuses what different readers might read differently; here are the limits.
    """

    def __init__(self, clients: Clients) -> None:
        """Wait for the first request."""
        self._clients = clients
        self._parser = httptools.HttpRequestParser(self)
        self._coming: Call | None = None
        self._url = b""
        self._fields = self._head_bytes = 0
        self._headed = self._broken = self._closing = False
        self._serving: Call | None = None
        self._task: asyncio.Task[None] | None = None
        self._next: deque[Call] = deque()
        self._ahead: list[bytes] = []
        self._resumed: asyncio.Future[None] | None = None
        self.opened_s = self._free_since_s = clients.loop.time()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._clients.open[self] = None

    def data_received(self, data: bytes) -> None:
        """Read on, unless a request waits for its answer: then this waits, too."""
        if self._closing or self._broken:
            return
        if self._serving is not None and self._serving.complete:
            self._ahead.append(data)
            self._transport.pause_reading()
            return
        self._read(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request under way: there is nobody left to answer."""
        self._closing = True
        self._clients.open.pop(self, None)
        self._next.clear()
        self._ahead.clear()
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Take note that the client does not read."""
        self._resumed = self._clients.loop.create_future()
        call = self._serving
        if call is not None:
            call.blocked_since_s = self._clients.loop.time()
            if call.flow is not None:
                call.flow.pause()

    def resume_writing(self) -> None:
        """Take note that the client reads again."""
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)
        self._resumed = None
        call = self._serving
        if call is not None:
            call.blocked_since_s = None
            if call.flow is not None:
                call.flow.resume()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._coming is not None:  # an upgrade was declined: it is read once more without
            return
        self._coming = Call(self, self._transport.write)
        self._url, self._fields, self._headed = b"", 0, False

    def on_url(self, url: bytes) -> None:
        """Take the request's target, or a part of it."""
        self._url += url
        self._bound(len(self._url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes behind a body is dropped."""
        if self._coming is None or self._headed:
            return
        self._fields += 1
        self._bound(len(name) + len(value))
        if self._fields > self._clients.settings.headers:
            raise BadRequestError
        self._coming.headers.setdefault(name.lower(), value)

    def _bound(self, size: int) -> None:
        if size > self._clients.settings.header_bytes:
            raise BadRequestError

    def on_headers_complete(self) -> None:
        """Serve the request, or let it wait for its turn."""
        call = self._coming
        if call is None or self._headed:
            return
        self._headed, self._head_bytes = True, 0
        parser = self._parser
        call.method = parser.get_method().decode()
        call.path = path_of(self._url)
        call.modern = parser.get_http_version() >= "1.1"
        call.keep_alive = parser.should_keep_alive()
        call.body_due = b"content-length" in call.headers or b"transfer-encoding" in call.headers
        self._line_up(call)

    def on_body(self, piece: bytes) -> None:
        """Take a part of a body."""
        if self._coming is not None:
            self._coming.take(piece, self._clients.body_bytes())

    def on_message_complete(self) -> None:
        """Take note that a request is whole."""
        call = self._coming
        if call is None or self._parser.should_upgrade():
            return
        self._coming, self._headed = None, False
        call.finish()
        if call.ended and self._task is None:
            self._go_on()

    # Requests in their order.

    def _read(self, data: bytes) -> None:
        if not self._headed:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._break(error)
        else:
            if self._head_bytes > self._clients.head_bytes and not self._headed:
                self._break(BadRequestError())

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read a request that asks for another protocol as if it did not; nothing may follow it."""
        call = self._coming
        if call is None or call.method == "CONNECT":
            self._break(BadRequestError())
            return
        call.keep_alive = False
        self._parser = httptools.HttpRequestParser(self)
        lines = [b"%b: %b\r\n" % each for each in call.headers.items() if each[0] != b"upgrade"]
        head = b"%b %b HTTP/1.1\r\n" % (call.method.encode(), self._url)
        self._read(b"".join([head, *lines, b"\r\n", rest]))

    def _break(self, error: Exception) -> None:
        """Read no more: where the request ends, and the next begins, is in doubt."""
        log.info("a request that is not HTTP: %s", type(error).__name__)
        self._broken = True
        call = self._coming or Call(self, self._transport.write)
        self._coming = None
        call.keep_alive = False
        call.fail(BadRequestError())
        if not self._headed:
            call.path = None
            if self._serving is None:
                self._serve(call)
            else:
                self._next.append(call)
        elif call is self._serving and call.ended:
            self._close_soon()

    def _line_up(self, call: Call) -> None:
        if self._serving is None:
            self._serve(call)
        elif len(self._next) < _MOST_AHEAD:
            self._next.append(call)
        else:
            raise BadRequestError

    def _serve(self, call: Call) -> None:
        self._serving = call
        if self._resumed is not None:
            call.blocked_since_s = self._clients.loop.time()
        self._task = self._clients.loop.create_task(self._handle(call))

    async def _handle(self, call: Call) -> None:
        try:
            await self._clients.handle(call)
        finally:
            self._task = None
            if call.ended:
                self._answered(call)
            else:  # given up: the client must not take it for whole
                self._transport.abort()

    def _answered(self, call: Call) -> None:
        """Go on to the next request once this one is whole; close where no other is to be read."""
        if not call.keep_alive or (self._broken and not self._next):
            if call.complete:
                self._close()
            else:
                self._close_soon()
        elif call.complete:
            self._go_on()
        else:  # what is left of the body is read and dropped, for a moment
            self._clients.loop.call_later(_LINGER_S, self._close_unless_whole, call)

    def _go_on(self) -> None:
        self._serving = None
        self._free_since_s = self._clients.loop.time()
        if self._next:
            self._serve(self._next.popleft())
        self._read_ahead()

    def _read_ahead(self) -> None:
        if self._ahead and (self._serving is None or not self._serving.complete):
            data = b"".join(self._ahead)
            self._ahead.clear()
            self._transport.resume_reading()
            self._read(data)

    def _close_unless_whole(self, call: Call) -> None:
        if not call.complete:
            self._close()

    def _close_soon(self) -> None:
        """Close once the client has had time to read the answer: what it still sends would cut it off."""
        self._closing = True
        self._clients.loop.call_later(_LINGER_S, self._close)

    def _close(self) -> None:
        self._closing = True
        self._transport.close()

    # What a call calls.

    async def drain(self) -> None:
        """Wait until the client reads, or is gone."""
        if self._resumed is not None:
            await asyncio.wait([self._resumed])

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # What the server calls.

    @property
    def idle(self) -> bool:
        """Whether the connection waits for its next request, and is no new one."""
        return (
            self._serving is None
            and not self._closing
            and self._clients.loop.time() - self.opened_s > _NEW_S
        )

    def close_if_waited(self, since_s: float) -> None:
        """Close if the connection has been without a whole head since before a time."""
        if self._serving is None and self._free_since_s < since_s:
            self._close()

    def shut(self) -> asyncio.Task[None] | None:
        """Close if no request is under way, else return its task."""
        if self._task is None:
            self._close()
        return self._task


class Clients:
    """All clients' connections, and what they have in common; call it to make one."""

    def __init__(
        self,
        handle: Callable[[Call], Awaitable[None]],
        settings: Settings,
        body_bytes: Callable[[], int],
    ) -> None:
        """Start with none; call within a running loop. `handle` answers a call."""
        self.handle, self.settings, self.body_bytes = handle, settings, body_bytes
        self.head_bytes = _HEAD_FIELDS * settings.header_bytes
        self.loop = asyncio.get_running_loop()
        self.open: dict[ClientConnection, None] = {}
        self._look_every_s = min(1.0, settings.header_s / 8)
        self._timer = self.loop.call_later(self._look_every_s, self._look)

    def __call__(self) -> ClientConnection:
        """Return the handler of a new connection."""
        return ClientConnection(self)

    @property
    def open_connections(self) -> int:
        """How many there are."""
        return len(self.open)

    def close_idle(self) -> bool:
        """Close the oldest connection that waits for its next request; return whether there was one."""
        for connection in self.open:
            if connection.idle:
                connection.abort()
                return True
        return False

    def _look(self) -> None:
        since_s = self.loop.time() - self.settings.header_s
        for connection in tuple(self.open):
            connection.close_if_waited(since_s)
        self._timer = self.loop.call_later(self._look_every_s, self._look)

    async def close(self, within_s: float) -> None:
        """Close all connections; requests under way get some time."""
        self._timer.cancel()
        tasks = [task for each in tuple(self.open) if (task := each.shut()) is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=within_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=within_s)
        for connection in tuple(self.open):
            connection.abort()
