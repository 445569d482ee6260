"""What an HTTP answer or a broken connection means for a fetch: final, or worth another try."""

from __future__ import annotations

import asyncio
import email.utils
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import aiohttp

from melange_sky.errors import SourceUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

ATTEMPTS = 4
CONNECT_ATTEMPTS = 2
"""A closed port seldom opens within seconds."""
_AHEAD = timedelta(days=1)
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


class AgainError(Exception):
    """A failure that may pass: worth another try after `wait_s` (None: our own growing wait)."""

    def __init__(
        self,
        reason: str,
        wait_s: float | None = None,
        status: int | None = None,
        tries: int = ATTEMPTS,
    ) -> None:
        super().__init__(reason)
        self.tries = tries
        self.reason = reason
        self.wait_s = wait_s
        self.status = status


def check_status(status: int, headers: Mapping[str, str]) -> None:
    """Raise for any status but 200: AgainError where another try may help, else FetchError."""
    if status == 200:
        return
    reason = f"HTTP {status}"
    if status in _AGAIN:
        raise AgainError(reason, retry_after_s(headers.get("Retry-After")), status)
    raise FetchError(reason, status)


def retry_after_s(text: str | None) -> float | None:
    """Seconds that `Retry-After` asks for: a number or an HTTP date; None where it is neither."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text.strip()[:9])
    moment = _moment_of(text)
    return (
        None if moment is None else max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
    )


def http_date(text: str | None) -> str | None:
    """Return an HTTP date as sent, None where it is not one (it is sent back as it is)."""
    return None if text is None or _moment_of(text) is None else text


def iso_date(http_date: str | None, now: datetime) -> str | None:
    """Return an HTTP date as ISO 8601 UTC, None where it is not one.

    A date that is more than a day ahead of `now` is none: what it dates would never grow old.

    >>> iso_date("Sat, 21 Nov 2026 02:20:06 GMT", datetime(2026, 12, 1, tzinfo=timezone.utc))
    '2026-11-21T02:20:06Z'
    """
    moment = None if http_date is None else _moment_of(http_date)
    if moment is None or moment > now + _AHEAD:
        return None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment_of(text: str) -> datetime | None:
    """The moment of an HTTP date in UTC, None where no calendar has it."""
    try:
        moment = email.utils.parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return moment.astimezone(timezone.utc)
    except (ValueError, TypeError, OverflowError):
        return None


def conditions_of(url: str, validators: Validators | None) -> dict[str, str]:
    """Return the headers that make a request of that address conditional."""
    if validators is None or validators.url != url:
        return {}
    headers = {}
    if validators.etag:
        headers["If-None-Match"] = validators.etag
    if validators.last_modified:
        headers["If-Modified-Since"] = validators.last_modified
    return headers


def too_large(bound: int) -> str:
    """Say that a body is over its bound."""
    return f"larger than {bound // 2**20} MiB: not a price catalog"


def host(url: str) -> str:
    """Return the host of an address, for messages."""
    return url.partition("://")[2].partition("/")[0][:100] or url[:100]


def error_text(error: BaseException) -> str:
    """Say what went wrong in one short line, without foreign text of any length."""
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the body broke off before its end"
    if isinstance(error, asyncio.TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect ({os_reason(error.os_error)})"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server hung up"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is not proper HTTP"
    return " ".join(f"{type(error).__name__} {str(error)[:120]}".split())


def os_reason(error: OSError) -> str:
    """Return what the operating system says, shortened."""
    return str(error.strerror or error or type(error).__name__)[:120]
