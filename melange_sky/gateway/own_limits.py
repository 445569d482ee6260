"""The gateway's own limits: open files, memory, ports, disk. What runs out here is no replica's fault."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

_OWN = {
    errno.EMFILE: "open files",
    errno.ENFILE: "open files of this machine",
    errno.ENOMEM: "memory",
    errno.ENOBUFS: "memory of the network",
    errno.EADDRNOTAVAIL: "ports",
    errno.ENOSPC: "disk space",
    errno.EDQUOT: "disk space",
}
_KEPT_BACK = 24
"""Files for plans, probes, threads and large answers."""
_MOST_FILES = 1 << 20


class OwnLimitError(Exception):
    """The gateway ran out of something of its own; the text says of what."""


def own_limit(error: BaseException) -> str | None:
    """Return what the gateway itself has run out of, None where an error has another reason.

    >>> own_limit(OSError(errno.EMFILE, "")), own_limit(ConnectionRefusedError(errno.ECONNREFUSED, ""))
    ('open files', None)
    """
    seen: BaseException | None = error
    for _ in range(4):
        if isinstance(seen, MemoryError):
            return "memory"
        if isinstance(seen, OSError) and seen.errno in _OWN:
            return _OWN[seen.errno]
        inner = getattr(seen, "os_error", None)
        seen = (
            inner if isinstance(inner, OSError) and inner is not seen else seen and seen.__cause__
        )
        if seen is None:
            break
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLimit:
    """How many files may be open; `raised_from` None where nothing was raised.

    `requests` fit in at once, and with them so many `connections` of clients, those refused included.
    """

    most: int
    raised_from: int | None
    requests: int
    connections: int

    def __str__(self) -> str:
        raised = "" if self.raised_from is None else f" (raised from {self.raised_from})"
        return f"open files: {self.most}{raised}, room for {self.requests} requests at once"


def raise_file_limit(connections: int) -> FileLimit:
    """Raise the soft limit of open files as far as it may be, and share it out.

    A request takes two files, one to the client and one to the replica; an eighth of the rest is kept
    for clients that are refused.
    """
    wanted = min(_MOST_FILES, 2 * connections + 4 * _KEPT_BACK)
    most, raised_from = _raised(wanted)
    free = max(8, most - _open_now() - _KEPT_BACK)
    refused = max(4, min(free, 2 * connections) // 8)
    requests = min(connections, (free - refused) // 2)
    return FileLimit(
        most=most,
        raised_from=raised_from,
        requests=requests,
        connections=min(connections + refused, free - requests),
    )


def _raised(wanted: int) -> tuple[int, int | None]:
    """Return the limit of open files once it is raised, and what it was if it was another."""
    try:
        import resource
    except ImportError:  # a system without such limits
        return wanted, None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (resource.RLIM_INFINITY, -1) or soft >= wanted:
        return (wanted if soft < 0 else soft), None
    goal = wanted if hard in (resource.RLIM_INFINITY, -1) else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))
    except (OSError, ValueError):
        return soft, None
    return goal, (soft if goal > soft else None)


def _open_now() -> int:
    try:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208 -- a path object would cost nothing less
    except OSError:
        return 64
