"""One attempt at one replica: send, wait for the first event, say what went wrong."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from melange_sky.gateway.answers import ReplicaAnswer, TooLargeError, read_answer
from melange_sky.gateway.backend import VACANT, Attempt, Probe
from melange_sky.gateway.own_limits import OwnLimitError, own_limit
from melange_sky.gateway.replica_connection import (
    BrokenAnswerError,
    ConnectError,
    ReplicaConnection,
    ReplicaConnections,
)
from melange_sky.streams import end_of_events, foreign_line

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.gateway.backend import Backend
    from melange_sky.gateway.client_request import ClientRequest
    from melange_sky.gateway.settings import Secret, Settings

_TRACE = re.compile(r"[0-9a-f]{2}(-[0-9a-f]{2,32}){3}")
_LARGE_BYTES = 1 << 20
_NO_REPLICA = b"No ready replicas"
"""What SkyServe's balancer says where it has none."""

_FIXED = "User-Agent: melange-sky-gateway\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"


class AttemptError(Exception):
    """A replica did not answer as it should. `kind` goes to the metrics.

    `retry` tells whether another replica may be asked. `blame` tells whether it counts against this
    one; `gone` that nothing listens there. `answer` is the replica's own answer, if any.
    """

    def __init__(
        self,
        kind: str,
        *,
        retry: bool = True,
        blame: bool = True,
        gone: bool = False,
        answer: ReplicaAnswer | None = None,
    ) -> None:
        self.kind, self.retry, self.blame, self.gone, self.answer = kind, retry, blame, gone, answer
        super().__init__(kind)


@dataclass(frozen=True, slots=True)
class OpenStream:
    """A stream whose first event has come. `connection` is to be closed, or given back, by who takes it."""

    connection: ReplicaConnection
    content_type: str
    encoding: str | None
    first: bytes


class Upstream:
    """The HTTP client towards the replicas."""

    def __init__(self, settings: Settings, key: Secret, ca_file: Path | None = None) -> None:
        """Open the client; call within a running loop. `ca_file` verifies https replicas."""
        self._settings, self._loop = settings, asyncio.get_running_loop()
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        self._connections = ReplicaConnections(context, settings.connect_s)
        secret = key.reveal()
        key_line = "" if secret is None else f"Authorization: Bearer {secret}\r\n"
        self._fixed = (_FIXED + key_line).encode()

    def close(self) -> None:
        """Close all connections that are kept."""
        self._connections.close()

    async def probe(self, backend: Backend) -> Probe:
        """Return what a backend's /health says within its time."""
        attempt = Attempt(self._loop, self._settings.probe_s)
        try:
            return await self._look(backend, attempt)
        except asyncio.CancelledError:
            if not attempt.expired():
                raise
            return Probe.SILENT
        except (BrokenAnswerError, ConnectError):
            return Probe.SILENT
        except OSError as error:
            return Probe.SILENT if own_limit(error) is None else Probe.OWN
        finally:
            attempt.done()

    async def page(self, backend: Backend, path: str, most_bytes: int) -> bytes | None:
        """Return what a backend says at a path; None where it does not within a probe's time, or says more."""
        attempt = Attempt(self._loop, self._settings.probe_s)
        try:
            return await self._page(backend, path, most_bytes, attempt)
        except asyncio.CancelledError:
            if not attempt.expired():
                raise
            return None
        except (BrokenAnswerError, ConnectError, OSError):
            return None
        finally:
            attempt.done()

    async def _page(
        self, backend: Backend, path: str, most_bytes: int, attempt: Attempt
    ) -> bytes | None:
        connection = await self._connections.get(backend.origin, attempt)
        try:
            connection.ask(backend.request_head("GET", path) + self._fixed + b"\r\n", b"")
            await connection.head()
            page = b""
            while piece := await connection.piece():
                page += piece
                if len(page) > most_bytes:
                    return None
            return page if connection.status == 200 else None
        finally:
            self.give_back(backend, connection)

    async def _look(self, backend: Backend, attempt: Attempt) -> Probe:
        connection = await self._connections.get(backend.origin, attempt)
        try:
            connection.ask(backend.request_head("GET", "/health") + self._fixed + b"\r\n", b"")
            await connection.head()
            while await connection.piece():
                pass
            return Probe.GOOD if connection.status == 200 else Probe.UNWILLING
        finally:
            self.give_back(backend, connection)

    def give_back(self, backend: Backend, connection: ReplicaConnection) -> None:
        """Keep a connection for the next request; of an answer that has not ended, end the work."""
        self._connections.give_back(backend.origin, connection)

    async def send(
        self, backend: Backend, request: ClientRequest, headers: bytes
    ) -> ReplicaAnswer | OpenStream:
        """Send a request and return its answer, or its stream as soon as the first event is there.

        Raises AttemptError, and OwnLimitError where the gateway itself could not.
        """
        limit_s = self._settings.first_byte_s if request.stream else self._settings.answer_s
        attempt = Attempt(self._loop, limit_s)
        backend.unstarted.add(attempt)
        try:
            return await self._exchange(backend, request, headers, attempt)
        except asyncio.CancelledError:
            if not attempt.expired():
                raise
            kind = attempt.reason or "timeout"
            raise AttemptError(kind, gone=kind == VACANT) from None
        except AttemptError as error:
            if error.kind == VACANT:
                backend.vacant(attempt.begun_s)
            raise
        except TooLargeError:
            raise AttemptError("too_large", retry=False, blame=False) from None
        except (BrokenAnswerError, ConnectError) as error:
            gone = isinstance(error, ConnectError) and not error.unresolved
            raise AttemptError(str(error), gone=gone) from error
        except (OSError, MemoryError) as error:
            lacking = own_limit(error)
            if lacking is None:
                raise AttemptError("broken") from error
            raise OwnLimitError(lacking) from error
        finally:
            attempt.done()
            backend.unstarted.discard(attempt)

    async def _exchange(
        self, backend: Backend, request: ClientRequest, headers: bytes, attempt: Attempt
    ) -> ReplicaAnswer | OpenStream:
        body = request.upstream_body()
        head = backend.request_head("POST", request.endpoint.value)
        connection = await self._connections.get(backend.origin, attempt)
        handed_over = False
        try:
            length = b"Content-Length: %d\r\n\r\n" % len(body)
            connection.ask(b"".join((head, self._fixed, headers, length)), body)
            await connection.head()
            if request.stream and connection.status == 200:
                opened = await self._first_event(connection, attempt)
                handed_over = True
                return opened
            return _judge(await read_answer(connection, attempt, self._settings))
        finally:
            if not handed_over:
                self.give_back(backend, connection)

    async def _first_event(self, connection: ReplicaConnection, attempt: Attempt) -> OpenStream:
        """Wait until the first event is whole: until then another replica may be asked."""
        content_type = connection.header(b"content-type", "application/json")
        encoding = connection.header(b"content-encoding", "identity").casefold()
        first = await connection.piece()
        if not first:
            raise AttemptError("empty")
        encoded = encoding != "identity"
        if encoded or "json" in content_type:
            return OpenStream(connection, content_type, encoding if encoded else None, first)
        attempt.limit(self._settings.event_s, "slow")
        while end_of_events(first) == 0 and len(first) < _LARGE_BYTES:
            if foreign_line(first) is not None:
                raise AttemptError("garbled")
            piece = await connection.piece()
            if not piece:
                break
            first += piece
        if foreign_line(first) is not None:
            raise AttemptError("garbled")
        return OpenStream(connection, content_type, None, first)


def _judge(answer: ReplicaAnswer) -> ReplicaAnswer:
    """Return an answer that is for the client; raise AttemptError for one that is not."""
    status = answer.status
    if status in (401, 403):
        # The client's key is the gateway's matter: this says that the gateway's key is wrong.
        raise AttemptError("unauthorized")
    if status == 503 and _NO_REPLICA in answer.body:
        raise AttemptError(VACANT, blame=False, gone=True, answer=answer)
    if status in (429, 503):
        raise AttemptError("busy", blame=status == 503, answer=answer)
    if status >= 500:
        raise AttemptError("error", answer=answer)
    if answer.garbled():
        raise AttemptError("garbled")
    if 300 <= status < 400 or status < 200:
        raise AttemptError("redirect")
    return answer


class ForwardedHeaders(NamedTuple):
    """The header `lines` that a replica gets of a request, with the `request_id` in them."""

    request_id: str
    lines: bytes


def forwarded_headers(request_id: str, traceparent: str | None) -> ForwardedHeaders:
    """Return what a replica gets of a request's headers. Nothing else of the client's is passed on."""
    lines = f"Content-Type: application/json\r\nX-Request-Id: {request_id}\r\n"
    if traceparent is not None and len(traceparent) <= 64 and _TRACE.fullmatch(traceparent):
        lines += f"traceparent: {traceparent}\r\n"
    return ForwardedHeaders(request_id, lines.encode())
