"""Connections to replicas: kept between requests, read by pieces or passed on as bytes come."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from melange_sky.gateway.own_limits import own_limit

if TYPE_CHECKING:
    import ssl

    from melange_sky.gateway.backend import Attempt, Origin

REUSE_S = 4.0
"""Idle connections are dropped before uvicorn's 5 s (the engines' server) would close them under a request."""
_MOST_HEAD_BYTES = 64 * 1024
_MOST_UNREAD_BYTES = 1 << 20


class ConnectError(Exception):
    """No connection to a replica came about; `unresolved`: its name is not known."""

    def __init__(self, unresolved: bool) -> None:
        self.unresolved = unresolved
        super().__init__("unresolved" if unresolved else "refused")


class BrokenAnswerError(Exception):
    """A replica's answer is no HTTP, or ended before its end; `begun`: something of it had come."""

    def __init__(self, begun: bool) -> None:
        self.begun = begun
        super().__init__("broken" if begun else "disconnected")


class Sink(Protocol):
    """Where a body goes as it comes."""

    def take(self, data: bytes) -> None:
        """Take a piece of it."""

    def finish(self, error: BrokenAnswerError | None) -> None:
        """Take note of its end."""


class ReplicaConnection(asyncio.Protocol):
    """One connection, with one request at a time: `ask`, `head`, then `piece` by piece or `pass_to`.

    `status` and `headers` (lower-case names) are those of the answer once `head` has returned. All
    that wait raise BrokenAnswerError where no more will come.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait to be asked."""
        self.loop = loop
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.free_since_s = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._asked = self._begun = self._headed = self._interim = self._whole = False
        self._keeps = self._lost = self._paused = False
        self._head_bytes = self._unread_bytes = 0
        self._pieces: list[bytes] = []
        self._error: BrokenAnswerError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Sink | None = None

    # What a request calls.

    def ask(self, head: bytes, body: bytes) -> None:
        """Send a request."""
        self._asked, self._begun, self._headed, self._whole = True, False, False, False
        self._head_bytes = self._unread_bytes = 0
        self._transport.write(head + body)

    async def head(self) -> None:
        """Wait for the answer's status and headers."""
        while not self._headed:
            await self._more()

    def header(self, name: bytes, default: str) -> str:
        """Return a header's text, by its lower-case name."""
        value = self.headers.get(name)
        return default if value is None else value.decode("latin-1")

    async def piece(self) -> bytes:
        """Return what has come of the body, at least a byte; nothing at its end."""
        while not self._pieces and not self._whole:
            await self._more()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._unread_bytes = 0
        self.resume()
        return data

    @property
    def at_end(self) -> bool:
        """Whether all of the body has been taken."""
        return self._whole and not self._pieces

    def pass_to(self, sink: Sink | None) -> None:
        """Give what has come, and what comes, to a sink from now on."""
        self._sink = sink
        if sink is None:
            return
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            sink.take(piece)
        if self._error is not None or self._whole:
            sink.finish(self._error)

    def pause(self) -> None:
        """Read no more for now."""
        if not self._paused and not self._lost:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self._lost:
            self._paused = False
            self._transport.resume_reading()

    @property
    def free(self) -> bool:
        """Whether another request may be sent."""
        return (
            self._whole
            and self._keeps
            and not self._lost
            and not self._transport.is_closing()
            and self._transport.get_write_buffer_size() == 0
        )

    def release(self, now_s: float) -> None:
        """Take note that nobody waits for an answer any more."""
        self._asked, self._sink, self.free_since_s = False, None, now_s
        self._pieces.clear()
        self.headers = {}
        self.resume()

    def close(self) -> None:
        """Close at once: of a request that has not been answered, it ends the replica's work."""
        self._sink = None
        self._transport.abort()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read an answer; what comes unasked closes the connection."""
        if not self._asked or self._error is not None:
            self._transport.abort()
            return
        self._begun = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._break()
        if not self._headed:
            self._bound_head(len(data))

    def _bound_head(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > _MOST_HEAD_BYTES:
            self._break()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer; where only the connection's end tells its length, that is no failure."""
        self._lost = True
        if not self._asked or self._whole:
            return
        sized = b"content-length" in self.headers or b"transfer-encoding" in self.headers
        if self._headed and not sized and exc is None:
            self._finish()
        else:
            self._break()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Begin an answer."""
        if self._whole:  # a second one to a single request
            self._keeps = False
            return
        self.status, self.headers, self._interim = 0, {}, False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        if not self._headed:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Tell that the head is there, unless it only announces another."""
        if self._whole:
            return
        self.status = self._parser.get_status_code()
        if 100 <= self.status < 200:
            self._interim = True
            return
        self._keeps = self._parser.should_keep_alive()
        self._headed = True
        self._wake()

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        if self._whole:
            return
        sink = self._sink
        if sink is not None:
            sink.take(piece)
            return
        self._pieces.append(piece)
        self._unread_bytes += len(piece)
        if self._unread_bytes > _MOST_UNREAD_BYTES:
            self.pause()
        self._wake()

    def on_message_complete(self) -> None:
        """Take note that the answer is whole."""
        if self._interim:
            self._interim = False
        elif not self._whole:
            self._finish()

    def _finish(self) -> None:
        self._whole = True
        self._wake()
        if self._sink is not None:
            self._sink.finish(None)

    def _break(self) -> None:
        if self._error is None and not self._whole:
            self._error = BrokenAnswerError(self._begun)
            self._wake()
            if self._sink is not None:
                self._sink.finish(self._error)
        self._transport.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _more(self) -> None:
        """Wait until something has come."""
        self._raise_broken()
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        self._raise_broken()

    def _raise_broken(self) -> None:
        if self._error is not None and not self._pieces:
            raise self._error


class ReplicaConnections:
    """Connections that are kept for the next request, by where they lead to; the last used first."""

    def __init__(self, context: ssl.SSLContext, connect_s: float) -> None:
        """Start with none; call within a running loop."""
        self._context, self._connect_s = context, connect_s
        self._loop = asyncio.get_running_loop()
        self._free: dict[Origin, list[ReplicaConnection]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def get(self, origin: Origin, attempt: Attempt) -> ReplicaConnection:
        """Return a connection. Raises ConnectError, or OSError where the gateway lacks something."""
        free = self._free.get(origin)
        oldest_s = self._loop.time() - REUSE_S
        while free:
            connection = free.pop()
            if connection.free and connection.free_since_s >= oldest_s:
                return connection
            connection.close()
        return await self._connect(origin, attempt)

    async def _connect(self, origin: Origin, attempt: Attempt) -> ReplicaConnection:
        due_s = attempt.due_s
        attempt.limit(min(self._connect_s, due_s - self._loop.time()), "timeout")
        try:
            _, connection = await self._loop.create_connection(
                lambda: ReplicaConnection(self._loop),
                origin.host,
                origin.port,
                ssl=self._context if origin.tls else None,
            )
        except OSError as error:
            if own_limit(error) is not None:
                raise
            raise ConnectError(isinstance(error, socket.gaierror)) from error
        attempt.limit(due_s - self._loop.time(), "timeout")
        return connection

    def give_back(self, origin: Origin, connection: ReplicaConnection) -> None:
        """Keep a connection for the next request, or close it where none can follow."""
        if not connection.free:
            connection.close()
            return
        connection.release(self._loop.time())
        self._free.setdefault(origin, []).append(connection)
        if self._timer is None:
            self._timer = self._loop.call_later(REUSE_S, self._close_old)

    def _close_old(self) -> None:
        oldest_s = self._loop.time() - REUSE_S
        for origin, free in tuple(self._free.items()):
            kept = [c for c in free if c.free and c.free_since_s > oldest_s]
            for connection in set(free) - set(kept):
                connection.close()
            if kept:
                self._free[origin] = kept
            else:
                del self._free[origin]
        self._timer = self._loop.call_later(REUSE_S / 4, self._close_old) if self._free else None

    def close(self) -> None:
        """Close those that are kept; those in use belong to who uses them."""
        if self._timer is not None:
            self._timer.cancel()
        for free in self._free.values():
            for connection in free:
                connection.close()
        self._free.clear()
