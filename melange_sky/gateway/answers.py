"""Whole answers of replicas: read within limits, large ones kept on disk until they are sent on."""

from __future__ import annotations

import asyncio
import tempfile
import zlib
from collections.abc import AsyncIterator
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from melange_sky.gateway.backend import Attempt
    from melange_sky.gateway.replica_connection import ReplicaConnection
    from melange_sky.gateway.settings import Settings

_IN_MEMORY = 1 << 20
_PIECE = 1 << 18
_TAIL = 1 << 16
_LEAST_BYTES_PER_S = 1024.0
GZIP_OR_ZLIB = 47
"""`wbits` of zlib that takes either form."""


class TooLargeError(Exception):
    """An answer beyond the limit."""


class ReplicaAnswer(NamedTuple):
    """A whole answer of a replica: `body`, or a `file` of `size` bytes where it is large.

    `encoding` is its Content-Encoding, None where the body is as it is.
    """

    status: int
    content_type: str
    body: bytes = b""
    file: IO[bytes] | None = None
    size: int = 0
    encoding: str | None = None
    retry_after: str | None = None

    def retry_after_s(self) -> int | None:
        """Return what the replica said in Retry-After, if it is a number of seconds up to an hour.

        >>> [ReplicaAnswer(status=429, content_type="", retry_after=t).retry_after_s() for t in ("7", "0", "soon", None)]
        [7, None, None, None]
        """
        text = self.retry_after or ""
        known = text.isascii() and text.isdecimal() and len(text) <= 4
        return int(text) if known and 1 <= int(text) <= 3600 else None

    def garbled(self) -> bool:
        """Return whether a good status came with what cannot be the JSON object that is due."""
        if self.status != 200 or self.encoding is not None or self.file is not None:
            return False
        text = self.body.strip()
        return not (text.startswith(b"{") and text.endswith(b"}"))

    def plain(self) -> bytes:
        """Return the text as far as it is wanted for counting: whole, or the end of a large one."""
        if self.file is not None:
            self.file.seek(max(0, self.size - _TAIL))
            return self.file.read() if self.encoding is None else b""
        if self.encoding in ("gzip", "deflate", "x-gzip"):
            return zlib.decompressobj(GZIP_OR_ZLIB).decompress(self.body, _IN_MEMORY)
        return self.body if self.encoding is None else b""

    def close(self) -> None:
        """Let go of the file."""
        if self.file is not None:
            self.file.close()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield a large answer's bytes, read in a thread."""
        assert self.file is not None
        loop = asyncio.get_running_loop()
        self.file.seek(0)
        while piece := await loop.run_in_executor(None, self.file.read, _PIECE):
            yield piece


async def read_answer(
    connection: ReplicaConnection, attempt: Attempt, settings: Settings
) -> ReplicaAnswer:
    """Read a whole answer; one that has begun must go on at a kilobyte a second.

    Raises TooLargeError, and OSError where the disk takes no more.
    """
    encoding = connection.header(b"content-encoding", "identity").casefold()
    kept, loop = _Kept(), connection.loop
    begun_s = loop.time()
    try:
        while piece := await connection.piece():
            if kept.size + len(piece) > settings.answer_bytes:
                raise TooLargeError
            kept.add(piece)
            if kept.size > _IN_MEMORY:
                await kept.spill()
            if connection.at_end:
                break
            due_s = begun_s + settings.event_s + kept.size / _LEAST_BYTES_PER_S
            attempt.limit(max(0.0, due_s - loop.time()), "slow")
    except BaseException:
        kept.close()
        raise
    return ReplicaAnswer(
        status=connection.status,
        content_type=connection.header(b"content-type", "application/json"),
        body=b"".join(kept.pieces),
        file=kept.file,
        size=kept.size,
        encoding=None if encoding == "identity" else encoding,
        retry_after=connection.header(b"retry-after", "") or None,
    )


class _Kept:
    """What came of an answer: in memory, and in a file without a name beyond a size."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.file: IO[bytes] | None = None
        self.size = 0

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        self.pieces.append(piece)

    async def spill(self) -> None:
        data, self.pieces = b"".join(self.pieces), []
        await asyncio.get_running_loop().run_in_executor(None, self._write, data)

    def _write(self, data: bytes) -> None:
        if self.file is None:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by who sends it on
        self.file.write(data)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
