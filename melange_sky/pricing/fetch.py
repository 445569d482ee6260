"""HTTP with a deadline per file: nothing that a server does can make it later than that.

One asyncio loop fetches all files at once. Each file has a list of addresses (the catalog, then its
mirror) and one deadline over all attempts, waits and redirects; a server that drips bytes is cut off
by it, one that says nothing by the stall timeout. Refusals with 429 or 5xx and broken connections
are tried again after a growing, jittered wait or what `Retry-After` asks, if that fits.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import tempfile
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar

import aiohttp

from melange_sky.errors import SourceUnavailableError
from melange_sky.pricing.http_errors import (
    ATTEMPTS,
    CONNECT_ATTEMPTS,
    AgainError,
    FetchError,
    Validators,
    check_status,
    conditions_of,
    error_text,
    host,
    http_date,
    os_reason,
    too_large,
)
from melange_sky.pricing.resolver import DaemonResolver
from melange_sky.pricing.transport import Decoder, send
from melange_sky.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

T = TypeVar("T")

CONNECT_S = 8.0
STALL_S = 12.0
FIRST_WAIT_S = 0.25
LARGEST_BYTES = 32 * 1024 * 1024
IN_MEMORY_BYTES = 1024 * 1024
LONGEST_LINE_BYTES = 1024 * 1024
MIRROR_SHARE = 0.4
"""Part of the deadline that is kept for the mirror while the first address is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One file: addresses in order of preference, and the deadline over all of them in seconds."""

    name: str
    urls: tuple[str, ...]
    deadline_s: float
    validators: Validators | None = None
    largest_bytes: int = LARGEST_BYTES
    method: str = "GET"
    payload: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A body as received, rewound. `ends_whole`: the server declared its end and kept to it."""

    file: IO[bytes]
    size: int
    sha256: str
    url: str
    etag: str | None
    last_modified: str | None
    ends_whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched(Generic[T]):
    """What came: `content` is None where the server said that nothing changed (304)."""

    url: str
    content: T | None
    sha256: str | None = None
    etag: str | None = None
    last_modified: str | None = None


@dataclass(slots=True, kw_only=True)
class Http:
    """A session with bounds; one per refresh, inside a running loop."""

    rng: random.Random = field(default_factory=random.Random)
    on_bytes: Callable[[str, int], None] | None = None
    session: aiohttp.ClientSession = field(init=False)

    async def __aenter__(self) -> Http:
        connector = aiohttp.TCPConnector(limit=40, resolver=DaemonResolver())
        self.session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": f"melange-sky/{__version__}", "Accept-Encoding": "gzip"},
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_S, connect=CONNECT_S, sock_read=STALL_S
            ),
            trust_env=True,
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(asyncio.TimeoutError, OSError):
            await asyncio.wait_for(self.session.close(), 2.0)

    async def fetch(self, request: Request, accept: Callable[[Body], T]) -> Fetched[T]:
        """Return what `accept` makes of the first address that yields an acceptable body.

        Raises FetchError with the reasons of all addresses, no later than the deadline.
        """
        start = time.monotonic()
        end = start + request.deadline_s
        reasons: list[str] = []
        status: int | None = None
        for i, url in enumerate(request.urls):
            last = i == len(request.urls) - 1
            until = end if last else start + request.deadline_s * (1 - MIRROR_SHARE)
            try:
                return await self._from_address(url, request, accept, until)
            except FetchError as error:
                reasons.append(f"{host(url)}: {error}")
                status = error.status
                if error.status in {404, 410}:
                    break  # the catalog does not exist; its mirror is a copy
        raise FetchError("; then ".join(reasons), status)

    async def _from_address(
        self, url: str, request: Request, accept: Callable[[Body], T], until: float
    ) -> Fetched[T]:
        """Try one address until it answers, the tries are used up or the time is."""
        wait_s = FIRST_WAIT_S

        def in_time(body: Body) -> T:
            # reading a body is work of its own, which no timer interrupts
            if time.monotonic() > until:
                raise FetchError("not finished by the deadline")
            return accept(body)

        for attempt in range(ATTEMPTS):
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise FetchError("no time left before the deadline")
            try:
                return await asyncio.wait_for(self._once(url, request, in_time), left_s)
            except asyncio.TimeoutError:
                raise FetchError("not finished by the deadline") from None
            except AgainError as error:
                pause_s = wait_s * (0.5 + self.rng.random())
                pause_s = pause_s if error.wait_s is None else error.wait_s
                wait_s *= 2.5
                last = attempt >= error.tries - 1
                if last or time.monotonic() + pause_s >= until:
                    raise FetchError(
                        f"{error.reason} ({attempt + 1} tries)", error.status
                    ) from error
            await asyncio.sleep(pause_s)
        raise AssertionError("the loop returns or raises")

    async def _once(self, url: str, request: Request, accept: Callable[[Body], T]) -> Fetched[T]:
        conditions = conditions_of(url, request.validators)
        headers = {**request.headers, **conditions}
        try:
            async with await send(
                self.session, request.method, url, headers=headers, payload=request.payload
            ) as response:
                if response.status == 304 and conditions:
                    return Fetched(url=url, content=None)
                check_status(response.status, response.headers)
                return await self._read(url, request, response, accept)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise FetchError(f"not an HTTP address: {str(error)[:100]}") from None
        except aiohttp.ClientConnectorDNSError as error:
            # without a network every name fails, and another try only makes the user wait
            raise FetchError(f"cannot find the host ({os_reason(error.os_error)})") from None
        except aiohttp.ClientConnectorError as error:
            raise AgainError(error_text(error), tries=CONNECT_ATTEMPTS) from error
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise AgainError(error_text(error)) from error

    async def _read(
        self,
        url: str,
        request: Request,
        response: aiohttp.ClientResponse,
        accept: Callable[[Body], T],
    ) -> Fetched[T]:
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as file:
            body = await self._spool(url, request, response, file)
            try:
                content = accept(body)
            except UnicodeDecodeError as error:
                raise FetchError(f"not UTF-8 text (byte {error.start})") from None
            except SourceUnavailableError as error:
                raise FetchError(str(error)) from error
        return Fetched(
            url=url,
            content=content,
            sha256=body.sha256,
            etag=body.etag,
            last_modified=body.last_modified,
        )

    async def _spool(
        self, url: str, request: Request, response: aiohttp.ClientResponse, file: IO[bytes]
    ) -> Body:
        """Write a body to `file`, at most the bytes that the request allows, and rewind it."""
        declared = response.content_length
        if declared is not None and declared > request.largest_bytes:
            raise FetchError(too_large(request.largest_bytes))
        digest, size = hashlib.sha256(), 0
        decoder = Decoder(response.headers)
        async for chunk in response.content.iter_any():
            for piece in decoder.feed(chunk):
                size += len(piece)
                if size > request.largest_bytes:
                    raise FetchError(too_large(request.largest_bytes))
                digest.update(piece)
                file.write(piece)
            if self.on_bytes is not None:
                self.on_bytes(request.name, size)
        decoder.end()
        file.seek(0)
        chunked = response.headers.get("Transfer-Encoding", "").casefold() == "chunked"
        return Body(
            file=file,
            size=size,
            sha256=digest.hexdigest(),
            url=url,
            etag=response.headers.get("ETag"),
            last_modified=http_date(response.headers.get("Last-Modified")),
            ends_whole=declared is not None or chunked,
        )

    async def json(
        self,
        url: str,
        until: float,
        *,
        method: str = "GET",
        payload: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the JSON answer of a provider's API by `until` (monotonic). Raises FetchError."""

        def accept(body: Body) -> Any:
            try:
                return json.load(body.file)
            except (ValueError, RecursionError):
                raise SourceUnavailableError("the answer is not JSON") from None

        request = Request(
            name=url,
            urls=(url,),
            deadline_s=0.0,
            method=method,
            payload=payload,
            headers=headers or {},
        )
        try:
            return (await self._from_address(url, request, accept, until)).content
        except FetchError as error:
            raise FetchError(f"{host(url)}: {error}", error.status) from error

    async def lines(self, url: str, until: float) -> AsyncIterator[bytes]:
        """Yield the lines of a body too large to hold, by `until` (monotonic). Raises FetchError.

        Nothing is tried again: what was yielded cannot be taken back.
        """
        try:
            response = await _by(until, send(self.session, "GET", url))
            async with response:
                if response.status != 200:
                    raise FetchError(f"HTTP {response.status}", response.status)
                rest, decoder = b"", Decoder(response.headers)
                while chunk := await _by(until, response.content.readany()):
                    for piece in decoder.feed(chunk):
                        *whole, rest = (rest + piece).split(b"\n")
                        if len(rest) > LONGEST_LINE_BYTES:
                            raise FetchError("a line without an end")
                        for line in whole:
                            yield line
                decoder.end()
                if rest:
                    yield rest
        except FetchError as error:
            raise FetchError(f"{host(url)}: {error}", error.status) from error
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise FetchError(f"{host(url)}: {error_text(error)}") from error


async def _by(until: float, work: Awaitable[T]) -> T:
    """Await, but not past `until`."""

    async def awaited() -> T:
        return await work

    deadline = asyncio.ensure_future(awaited())
    done, _ = await asyncio.wait({deadline}, timeout=max(0.0, until - time.monotonic()))
    if not done:
        deadline.cancel()
        raise FetchError("not finished by the deadline")
    return deadline.result()
