"""One attempt at one replica: send, wait for the first byte, say what went wrong."""

from __future__ import annotations

import asyncio
import io
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from melange_sky.gateway.backend import Attempt

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
class ReplicaAnswer:
    """A whole answer of a replica."""

    status: int
    content_type: str
    body: bytes
    retry_after: str | None = None

    def retry_after_s(self) -> int | None:
        """Return what the replica said in Retry-After, if it is a number of seconds up to an hour.

        >>> [ReplicaAnswer(429, "", b"", text).retry_after_s() for text in ("7", "0", "soon", None)]
        [7, None, None, None]
        """
        text = self.retry_after or ""
        known = text.isascii() and text.isdecimal() and len(text) <= 4
        return int(text) if known and 1 <= int(text) <= 3600 else None


@dataclass(frozen=True, slots=True)
class OpenStream:
    """A stream whose first bytes have come. `response` is to be closed by who takes it."""

    response: aiohttp.ClientResponse
    content_type: str
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

    async def probe(self, backend: Backend) -> bool:
        """Return whether a backend's /health answers 200 in time."""
        try:
            async with self._session.get(
                backend.at("/health"), timeout=self._probe_timeout, allow_redirects=False
            ) as response:
                return response.status == 200
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
            return False

    async def send(
        self, backend: Backend, request: ClientRequest, headers: dict[str, str]
    ) -> ReplicaAnswer | OpenStream:
        """Send a request and return its answer, or its stream as soon as the first byte is there.

        Raises AttemptError.
        """
        limit_s = self._settings.first_byte_s if request.stream else self._settings.answer_s
        attempt = Attempt(limit_s)
        backend.unstarted.add(attempt)
        try:
            return await self._exchange(backend, request, headers)
        except asyncio.CancelledError:
            if not attempt.expired():
                raise
            raise AttemptError(attempt.reason or "timeout") from None
        except aiohttp.ClientConnectorError as error:
            raise AttemptError("refused", gone=True) from error
        except (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError) as error:
            raise AttemptError("disconnected") from error
        except asyncio.TimeoutError as error:
            raise AttemptError("timeout") from error
        except (aiohttp.ClientError, OSError) as error:
            raise AttemptError("broken") from error
        finally:
            attempt.done()
            backend.unstarted.discard(attempt)

    async def _exchange(
        self, backend: Backend, request: ClientRequest, headers: dict[str, str]
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
            content_type = response.headers.get("Content-Type", "application/json")
            if request.stream and response.status == 200:
                first = await response.content.readany()
                if not first:
                    raise AttemptError("empty")
                handed_over = True
                return OpenStream(response, content_type, first)
            text = await response.read()
            retry_after = response.headers.get("Retry-After")
            return _judge(ReplicaAnswer(response.status, content_type, text, retry_after))
        finally:
            if not handed_over:
                response.close() if not response.content.at_eof() else response.release()


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
    if 300 <= status < 400 or status < 200:
        raise AttemptError("redirect")
    return answer


def forwarded_headers(request_id: str, traceparent: str | None) -> dict[str, str]:
    """Return the headers that a replica gets. Nothing else of the client's is passed on."""
    headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
    if traceparent is not None and len(traceparent) <= 64 and _TRACE.fullmatch(traceparent):
        headers["traceparent"] = traceparent
    return headers
