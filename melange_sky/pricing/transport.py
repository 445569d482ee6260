"""Redirects that carry no key away, and compressed bodies that are whole.

aiohttp follows redirects to any host with the request's own headers but `Authorization`, and from https
to http; and takes a compressed body that was cut for whole where the cut falls between two blocks.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from yarl import URL

from melange_sky.pricing.http_errors import FetchError, host

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import aiohttp

REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PIECE_BYTES = 256 * 1024


async def send(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    payload: Any = None,
) -> aiohttp.ClientResponse:
    """Send a request and return the answer after redirects, open; the caller closes it.

    Headers of the request go to its own origin alone, as does what it posts. Raises FetchError for a
    redirect from https to http, for one that would carry a payload away, and for too many.
    """
    place = URL(url)
    for _ in range(REDIRECTS + 1):
        response = await session.request(
            method, place, headers=headers, json=payload, allow_redirects=False
        )
        location = response.headers.get("Location")
        if response.status not in _REDIRECTS or location is None:
            return response
        response.release()
        target = target_of(place, location)
        if target.origin() != place.origin():
            headers = None
            if payload is not None:
                raise FetchError(f"redirects what was sent to {host(str(target))}")
        place = target
    raise FetchError(f"more than {REDIRECTS} redirects")


def target_of(place: URL, location: str) -> URL:
    """Return where a redirect leads; raises FetchError where it may not be followed."""
    try:
        target = place.join(URL(location))
        target.origin()
    except ValueError as error:
        raise FetchError(f"not an HTTP address: {location[:100]}") from error
    if target.scheme not in ("http", "https"):
        raise FetchError(f"not an HTTP address: {location[:100]}")
    if place.scheme == "https" and target.scheme == "http":
        raise FetchError(f"redirects from https to http ({host(str(target))})")
    return target


class Decoder:
    """A body as sent, chunk by chunk, to the body that is meant: plain, or of one or more gzip members."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        """Raise FetchError for an encoding that was not asked for."""
        encoding = headers.get("Content-Encoding", "").strip().casefold()
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            raise FetchError(f"compressed as {encoding[:40]}, which was not asked for")
        self._plain = encoding in ("", "identity")
        self._member = zlib.decompressobj(wbits=31)
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what a chunk holds, in pieces of a bounded size."""
        if self._plain:
            yield chunk
            return
        while chunk:
            self._begun = True
            try:
                piece = self._member.decompress(chunk, _PIECE_BYTES)
            except zlib.error as error:
                raise FetchError("the body broke off: it is not gzip all through") from error
            if piece:
                yield piece
            chunk = self._member.unconsumed_tail
            if self._member.eof:
                chunk = self._member.unused_data
                self._member, self._begun = zlib.decompressobj(wbits=31), False

    def end(self) -> None:
        """Raise FetchError where the body ended before its compression did."""
        if self._begun:
            raise FetchError("the body broke off before its end (gzip)")
