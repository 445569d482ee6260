"""HTTP with a deadline per file: nothing that a server does can make it later than that.

One asyncio loop fetches all files at once. Each file has a list of addresses (the catalog, then its
mirror) and one deadline over all attempts, waits and redirects; a server that drips bytes is cut off
by it, one that says nothing by the stall timeout. Refusals with 429 or 5xx and broken connections
are tried again after a growing, jittered wait or what `Retry-After` asks, if that fits.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
import json
import random
import socket
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from melange_sky import __version__
from melange_sky.errors import SourceUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

T = TypeVar("T")

CONNECT_S = 8.0
STALL_S = 12.0
ATTEMPTS = 4
FIRST_WAIT_S = 0.25
LARGEST_BYTES = 32 * 1024 * 1024
IN_MEMORY_BYTES = 1024 * 1024
LONGEST_LINE_BYTES = 1024 * 1024
REDIRECTS = 5
MIRROR_SHARE = 0.4
"""Part of the deadline that is kept for the mirror while the first address is tried."""
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class FetchError(SourceUnavailableError):
    """A file could not be had; the message says from where and why. `status` is HTTP's, if any."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Validators:
    """What makes a request conditional: the server may answer 304 if the body is still this."""

    url: str
    etag: str | None = None
    last_modified: str | None = None


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
        connector = aiohttp.TCPConnector(limit=40, resolver=_DaemonResolver())
        self.session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": f"melange-sky/{__version__}", "Accept-Encoding": "gzip"},
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_S, connect=CONNECT_S, sock_read=STALL_S
            ),
            trust_env=True,
            auto_decompress=True,
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
                reasons.append(f"{_host(url)}: {error}")
                status = error.status
                if error.status in {404, 410}:
                    break  # the catalog does not exist; its mirror is a copy
        raise FetchError("; then ".join(reasons), status)

    async def _from_address(
        self, url: str, request: Request, accept: Callable[[Body], T], until: float
    ) -> Fetched[T]:
        """Try one address until it answers, the tries are used up or the time is."""
        wait_s = FIRST_WAIT_S
        for attempt in range(ATTEMPTS):
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise FetchError("no time left before the deadline")
            try:
                return await asyncio.wait_for(self._once(url, request, accept), left_s)
            except asyncio.TimeoutError:
                raise FetchError("not finished by the deadline") from None
            except _AgainError as error:
                pause_s = wait_s * (0.5 + self.rng.random())
                pause_s = pause_s if error.wait_s is None else error.wait_s
                wait_s *= 2.5
                if attempt == ATTEMPTS - 1 or time.monotonic() + pause_s >= until:
                    raise FetchError(
                        f"{error.reason} ({attempt + 1} tries)", error.status
                    ) from error
            await asyncio.sleep(pause_s)
        raise AssertionError("the loop returns or raises")

    async def _once(self, url: str, request: Request, accept: Callable[[Body], T]) -> Fetched[T]:
        conditions = _conditions(url, request.validators)
        headers = {**request.headers, **conditions}
        try:
            async with self.session.request(
                request.method, url, headers=headers, json=request.payload, max_redirects=REDIRECTS
            ) as response:
                if response.status == 304 and conditions:
                    return Fetched(url=url, content=None)
                _check_status(response.status, response.headers)
                return await self._read(url, request, response, accept)
        except aiohttp.TooManyRedirects:
            raise FetchError(f"more than {REDIRECTS} redirects") from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise FetchError(f"not an HTTP address: {str(error)[:100]}") from None
        except aiohttp.ClientConnectorDNSError as error:
            # without a network every name fails, and another try only makes the user wait
            raise FetchError(f"cannot find the host ({_os_reason(error.os_error)})") from None
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise _AgainError(_told(error)) from error

    async def _read(
        self,
        url: str,
        request: Request,
        response: aiohttp.ClientResponse,
        accept: Callable[[Body], T],
    ) -> Fetched[T]:
        declared = response.content_length
        if declared is not None and declared > request.largest_bytes:
            raise FetchError(_too_large(request.largest_bytes))
        digest, size = hashlib.sha256(), 0
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as file:
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > request.largest_bytes:
                    raise FetchError(_too_large(request.largest_bytes))
                digest.update(chunk)
                file.write(chunk)
                if self.on_bytes is not None:
                    self.on_bytes(request.name, size)
            file.seek(0)
            chunked = response.headers.get("Transfer-Encoding", "").casefold() == "chunked"
            body = Body(
                file=file,
                size=size,
                sha256=digest.hexdigest(),
                url=url,
                etag=response.headers.get("ETag"),
                last_modified=_http_date(response.headers.get("Last-Modified")),
                ends_whole=declared is not None or chunked,
            )
            try:
                content = accept(body)
            except UnicodeDecodeError as error:
                raise FetchError(f"not UTF-8 text (byte {error.start})") from None
            except SourceUnavailableError as error:
                raise FetchError(str(error)) from error
        return Fetched(
            url=url, content=content, sha256=body.sha256, etag=body.etag,
            last_modified=body.last_modified,
        )  # fmt: skip

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
            name=url, urls=(url,), deadline_s=0.0, method=method, payload=payload,
            headers=headers or {},
        )  # fmt: skip
        try:
            return (await self._from_address(url, request, accept, until)).content
        except FetchError as error:
            raise FetchError(f"{_host(url)}: {error}", error.status) from error

    async def lines(self, url: str, until: float) -> AsyncIterator[bytes]:
        """Yield the lines of a body too large to hold, by `until` (monotonic). Raises FetchError.

        Nothing is tried again: what was yielded cannot be taken back.
        """
        try:
            response = await _by(until, self.session.get(url, max_redirects=REDIRECTS))
            async with response:
                if response.status != 200:
                    raise FetchError(f"HTTP {response.status}", response.status)
                rest = b""
                while chunk := await _by(until, response.content.readany()):
                    *whole, rest = (rest + chunk).split(b"\n")
                    if len(rest) > LONGEST_LINE_BYTES:
                        raise FetchError("a line without an end")
                    for line in whole:
                        yield line
                if rest:
                    yield rest
        except FetchError as error:
            raise FetchError(f"{_host(url)}: {error}", error.status) from error
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise FetchError(f"{_host(url)}: {_told(error)}") from error


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


class _AgainError(Exception):
    """A failure that may pass: worth another try after `wait_s` (None: our own growing wait)."""

    def __init__(self, reason: str, wait_s: float | None = None, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s
        self.status = status


def _check_status(status: int, headers: Mapping[str, str]) -> None:
    if status == 200:
        return
    reason = f"HTTP {status}"
    if status in _AGAIN:
        raise _AgainError(reason, _retry_after_s(headers.get("Retry-After")), status)
    raise FetchError(reason, status)


def _retry_after_s(text: str | None) -> float | None:
    """Seconds that `Retry-After` asks for: a number or an HTTP date; None where it is neither."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text.strip()[:9])
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


def _http_date(text: str | None) -> str | None:
    """Return an HTTP date as sent, None where it is not one (it is sent back as it is)."""
    if text is None:
        return None
    try:
        email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return text


def iso_date(http_date: str | None) -> str | None:
    """Return an HTTP date as ISO 8601 UTC, None for none.

    >>> iso_date("Sat, 21 Nov 2026 02:20:06 GMT")
    '2026-11-21T02:20:06Z'
    """
    if http_date is None:
        return None
    moment = email.utils.parsedate_to_datetime(http_date)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _conditions(url: str, validators: Validators | None) -> dict[str, str]:
    if validators is None or validators.url != url:
        return {}
    headers = {}
    if validators.etag:
        headers["If-None-Match"] = validators.etag
    if validators.last_modified:
        headers["If-Modified-Since"] = validators.last_modified
    return headers


def _too_large(bound: int) -> str:
    return f"larger than {bound // 2**20} MiB: not a price catalog"


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0][:100] or url[:100]


def _told(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the body broke off before its end"
    if isinstance(error, asyncio.TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect ({_os_reason(error.os_error)})"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server hung up"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is not proper HTTP"
    return " ".join(f"{type(error).__name__} {str(error)[:120]}".split())


def _os_reason(error: OSError) -> str:
    return str(error.strerror or error or type(error).__name__)[:120]


class _DaemonResolver(AbstractResolver):
    """Name look-ups in daemon threads: a name server that hangs cannot hold the process's end."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Any]] = loop.create_future()

        def settle(result: list[Any] | OSError) -> None:
            if answer.done():
                return
            if isinstance(result, OSError):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        def look_up() -> None:
            result: list[Any] | OSError
            try:
                result = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                result = error if isinstance(error, OSError) else OSError(str(error))
            with contextlib.suppress(RuntimeError):  # the loop ended first
                loop.call_soon_threadsafe(settle, result)

        threading.Thread(target=look_up, daemon=True, name="melange-dns").start()
        return [
            ResolveResult(
                hostname=host, host=address[0], port=address[1], family=kind, proto=proto,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, proto, _, address in await answer
        ]  # fmt: skip

    async def close(self) -> None:
        """Nothing is held."""
