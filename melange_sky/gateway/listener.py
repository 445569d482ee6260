"""Where connections come in: no more are accepted than there is room for; the rest wait in the kernel."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any

from melange_sky.gateway.own_limits import own_limit

log = logging.getLogger(__name__)

_BACKLOG = 1024
_HANDSHAKE_S = 10.0
_PAUSE_S = 0.05
_AT_ONCE = 16


class Sharing(Enum):
    """Whether several processes listen on the port; the `FIRST` of them checks that nobody else does."""

    NONE = 0
    FIRST = 1
    LATER = 2


def _require_free(family: int, address: tuple[object, ...]) -> None:
    """Raise OSError where another program has the port: one that shares it too would get half the requests."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(address)


class Listener:
    """Sockets that accept while `has_room` says so; `protocol` makes the handler of a connection."""

    def __init__(
        self,
        protocol: Callable[[], asyncio.Protocol],
        has_room: Callable[[], bool],
        tls: ssl.SSLContext | None,
        sharing: Sharing = Sharing.NONE,
    ) -> None:
        """Nothing is opened yet."""
        self._sharing = sharing
        self._protocol, self._has_room, self._tls = protocol, has_room, tls
        self._sockets: list[socket.socket] = []
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.pending = 0
        """Connections accepted of which the protocol does not know yet."""
        self.port = 0

    async def open(self, host: str, port: int) -> None:
        """Listen on every address of a host; port 0 takes a free one. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                self._bind(family, (address[0], self.port or port, *address[2:]))
        except OSError:
            self.close()
            raise
        for each in self._sockets:
            self._watch(each)

    def _bind(self, family: int, address: tuple[object, ...]) -> None:
        listening = socket.socket(family, socket.SOCK_STREAM)
        self._sockets.append(listening)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if self._sharing is not Sharing.NONE:
            if self._sharing is Sharing.FIRST:
                _require_free(family, address)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
        self.port = self.port or int(listening.getsockname()[1])

    def close(self) -> None:
        """Stop accepting."""
        for timer in self._paused.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        while self._sockets:
            listening = self._sockets.pop()
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _watch(self, listening: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        """Let connections in; a few at a time, as a full backlog must not keep the loop from all else."""
        for _ in range(_AT_ONCE):
            if not self._has_room():
                self._pause(listening)
                return
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # ours, or a client that left before it was let in
                if own_limit(error) is not None:
                    log.warning("no connection can be accepted now: %s", own_limit(error))
                self._pause(listening)
                return
            self.pending += 1
            self._spawn(self._take(connection))

    def _pause(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        self._paused[listening] = loop.call_later(_PAUSE_S, self._watch, listening)

    async def _take(self, connection: socket.socket) -> None:
        try:
            await self._hand_over(connection)
        finally:
            self.pending -= 1

    async def _hand_over(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        waits = None if self._tls is None else _HANDSHAKE_S
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol, connection, ssl=self._tls, ssl_handshake_timeout=waits
            )
        except (OSError, ssl.SSLError, asyncio.TimeoutError):
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
