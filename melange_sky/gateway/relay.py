"""A stream on its way from a replica's connection to a client's: no task, no queue in between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.gateway.calls import Call
    from melange_sky.gateway.replica_connection import BrokenAnswerError, ReplicaConnection
    from melange_sky.gateway.stream import EventStream


class Relay:
    """Passes events on until the replica ends, no faster than the client reads.

    A replica that brings no event for `idle_s`, be it byte by byte, is given up.
    """

    __slots__ = ("_call", "_ended", "_events", "_from", "_idle_s", "_loop", "_passed_s", "_timer")

    def __init__(
        self, source: ReplicaConnection, events: EventStream, call: Call, idle_s: float
    ) -> None:
        """Prepare; nothing passes yet."""
        self._from, self._events, self._call, self._idle_s = source, events, call, idle_s
        self._loop = source.loop
        self._ended: asyncio.Future[str | None] = self._loop.create_future()
        self._passed_s = self._loop.time()

    async def run(self, first: bytes) -> str | None:
        """Pass on what has come `first` and what comes; return what broke, None for a clean end."""
        self._timer = self._loop.call_later(self._idle_s, self._look)
        self._call.flow = self
        try:
            self.take(first)
            if self._call.blocked_since_s is not None:
                self.pause()
            self._from.pass_to(self)
            return await self._ended
        finally:
            self._timer.cancel()
            self._call.flow = None
            self._from.pass_to(None)

    def take(self, data: bytes) -> None:
        """Pass on what is whole of what came."""
        out = self._events.feed(data)
        if out:
            self._passed_s = self._loop.time()
            self._call.write(out)

    def finish(self, error: BrokenAnswerError | None) -> None:
        """Take note that nothing more comes."""
        self._end(None if error is None else "stream_broken")

    def pause(self) -> None:
        """Keep the replica waiting as the client does."""
        self._from.pause()

    def resume(self) -> None:
        """Go on; that nothing came was not the replica's fault."""
        self._passed_s = self._loop.time()
        self._from.resume()

    def _look(self) -> None:
        silent_s = self._loop.time() - self._passed_s
        if self._call.blocked_since_s is not None:
            silent_s = 0.0
        if silent_s >= self._idle_s:
            self._end("stream_timeout")
        else:
            self._timer = self._loop.call_later(self._idle_s - silent_s, self._look)

    def _end(self, broken: str | None) -> None:
        if not self._ended.done():
            self._ended.set_result(broken)
