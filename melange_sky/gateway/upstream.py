"""One attempt at one replica: send, wait for the first event, say what went wrong."""

from __future__ import annotations

import asyncio
import io
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from melange_sky.gateway.answers import ReplicaAnswer, TooLargeError, read_answer
from melange_sky.gateway.backend import Attempt, Probe
from melange_sky.gateway.own_limits import OwnLimitError, own_limit
from melange_sky.streams import end_of_events, foreign_line

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.gateway.backend import Backend
    from melange_sky.gateway.client_request import ClientRequest
    from melange_sky.gateway.settings import Secret, Settings

_TRACE = re.compile(r"[0-9a-f]{2}(-[0-9a-f]{2,32}){3}")
_LARGE_BYTES = 1 << 20
REUSE_S = 4.0
"""Idle connections are dropped before uvicorn's 5 s (the engines' server) would close them under a request."""


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
    """A stream whose first event has come. `response` is to be closed by who takes it."""

    response: aiohttp.ClientResponse
    content_type: str
    encoding: str | None
    first: bytes


class Upstream:
    """The HTTP client towards the replicas."""

    def __init__(self, settings: Settings, key: Secret, ca_file: Path | None = None) -> None:
        """Open the client; call within a running loop. `ca_file` verifies https replicas."""
        self._settings = settings
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=REUSE_S, ssl=context)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": "melange-sky-gateway", "Accept-Encoding": "identity"},
        )
        secret = key.reveal()
        self._authorization = None if secret is None else f"Bearer {secret}"
        silent_s = max(settings.idle_s, settings.first_byte_s)
        self._stream_timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_s, sock_read=silent_s
        )
        self._answer_timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_s)
        self._probe_timeout = aiohttp.ClientTimeout(total=settings.probe_s)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def probe(self, backend: Backend) -> Probe:
        """Return what a backend's /health says within its time."""
        try:
            async with self._session.get(
                backend.at("/health"), timeout=self._probe_timeout, allow_redirects=False
            ) as response:
                return Probe.GOOD if response.status == 200 else Probe.UNWILLING
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            return Probe.SILENT if own_limit(error) is None else Probe.OWN

    async def send(
        self, backend: Backend, request: ClientRequest, headers: dict[str, str]
    ) -> ReplicaAnswer | OpenStream:
        """Send a request and return its answer, or its stream as soon as the first event is there.

        Raises AttemptError, and OwnLimitError where the gateway itself could not.
        """
        limit_s = self._settings.first_byte_s if request.stream else self._settings.answer_s
        attempt = Attempt(limit_s)
        backend.unstarted.add(attempt)
        try:
            return await self._exchange(backend, request, headers, attempt)
        except asyncio.CancelledError:
            if not attempt.expired():
                raise
            raise AttemptError(attempt.reason or "timeout") from None
        except TooLargeError:
            raise AttemptError("too_large", retry=False, blame=False) from None
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, MemoryError) as error:
            lacking = own_limit(error)
            if lacking is not None:
                raise OwnLimitError(lacking) from error
            raise _attempt_error(error) from error
        finally:
            attempt.done()
            backend.unstarted.discard(attempt)

    async def _exchange(
        self,
        backend: Backend,
        request: ClientRequest,
        headers: dict[str, str],
        attempt: Attempt,
    ) -> ReplicaAnswer | OpenStream:
        if self._authorization is not None:
            headers = headers | {"Authorization": self._authorization}
        sent = request.upstream_body()
        # aiohttp warns of large bytes sent at once; a file-like body goes in pieces
        data = io.BytesIO(sent) if len(sent) > _LARGE_BYTES else sent
        response = await self._session.post(
            backend.at(request.endpoint.value),
            data=data,
            headers=headers,
            timeout=self._stream_timeout if request.stream else self._answer_timeout,
            allow_redirects=False,
        )
        handed_over = False
        try:
            if request.stream and response.status == 200:
                opened = await self._first_event(response, attempt)
                handed_over = True
                return opened
            return _judge(await read_answer(response, attempt, self._settings))
        finally:
            if not handed_over:
                response.close() if not response.content.at_eof() else response.release()

    async def _first_event(self, response: aiohttp.ClientResponse, attempt: Attempt) -> OpenStream:
        """Wait until the first event is whole: until then another replica may be asked."""
        content_type = response.headers.get("Content-Type", "application/json")
        encoding = response.headers.get("Content-Encoding", "identity").casefold()
        first = await response.content.readany()
        if not first:
            raise AttemptError("empty")
        encoded = encoding != "identity"
        if encoded or "json" in content_type:
            return OpenStream(response, content_type, encoding if encoded else None, first)
        attempt.limit(self._settings.event_s, "slow")
        while end_of_events(first) == 0 and len(first) < _LARGE_BYTES:
            if foreign_line(first) is not None:
                raise AttemptError("garbled")
            piece = await response.content.readany()
            if not piece:
                break
            first += piece
        if foreign_line(first) is not None:
            raise AttemptError("garbled")
        return OpenStream(response, content_type, None, first)


def _attempt_error(error: Exception) -> AttemptError:
    """Return what an error of the connection says of the replica."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return AttemptError("unresolved")
    if isinstance(error, aiohttp.ClientConnectorError):
        return AttemptError("refused", gone=True)
    if isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError)):
        return AttemptError("disconnected")
    if isinstance(error, asyncio.TimeoutError):
        return AttemptError("timeout")
    return AttemptError("broken")


def _judge(answer: ReplicaAnswer) -> ReplicaAnswer:
    """Return an answer that is for the client; raise AttemptError for one that is not."""
    status = answer.status
    if status in (401, 403):
        # The client's key is the gateway's matter: this says that the gateway's key is wrong.
        raise AttemptError("unauthorized")
    if status in (429, 503):
        raise AttemptError("busy", blame=status == 503, answer=answer)
    if status >= 500:
        raise AttemptError("error", answer=answer)
    if answer.garbled():
        raise AttemptError("garbled")
    if 300 <= status < 400 or status < 200:
        raise AttemptError("redirect")
    return answer


def forwarded_headers(request_id: str, traceparent: str | None) -> dict[str, str]:
    """Return the headers that a replica gets. Nothing else of the client's is passed on."""
    headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
    if traceparent is not None and len(traceparent) <= 64 and _TRACE.fullmatch(traceparent):
        headers["traceparent"] = traceparent
    return headers
