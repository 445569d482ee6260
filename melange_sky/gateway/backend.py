"""One backend: a URL, its health, and what is in flight at it."""

from __future__ import annotations

import asyncio
import math
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from yarl import URL

from melange_sky.errors import InputError
from melange_sky.gateway.outliers import Ejection, Outcomes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melange_sky.gateway.settings import Settings

_MOST_REPLICAS = 1024

VACANT = "vacant"
"""Why an attempt failed where a balancer had no replica to send it to."""


class Probe(Enum):
    """What a look at a backend's health said. OWN: the gateway itself could not look."""

    GOOD = "good"
    UNWILLING = "unwilling"
    SILENT = "silent"
    OWN = "own"


class Origin(NamedTuple):
    """Where connections of a backend lead to."""

    host: str
    port: int
    tls: bool


class Backend:
    """A replica (or, with `replicas` > 1, an endpoint in front of several).

    It takes requests while its last probes succeeded and it is no outlier among the others.
    """

    __slots__ = (
        "_failed_probes",
        "_heads",
        "answers_probes",
        "ejection",
        "in_flight",
        "key",
        "option",
        "origin",
        "outcomes",
        "plan",
        "replicas",
        "silent",
        "slots",
        "suspect",
        "unstarted",
        "url",
        "vacant_since_s",
    )

    def __init__(self, settings: Settings, plan: str, option: str, url: URL, replicas: int) -> None:
        """Start unprobed, hence unhealthy."""
        self.plan, self.option, self.url, self.replicas = plan, option, url, replicas
        self.key = (plan, option, str(url), replicas)
        self.slots: tuple[int, ...] = ()
        self.origin = Origin(url.host or "", url.port or 80, url.scheme == "https")
        self._heads: dict[str, bytes] = {}
        self.in_flight = 0
        self.unstarted: set[Attempt] = set()
        self.outcomes = Outcomes(settings.outlier_window_s)
        self.ejection = Ejection(settings)
        self.answers_probes = False
        self.silent = False
        self.suspect = False
        """Whether its last request failed, whosever fault that was."""
        self.vacant_since_s: float | None = None
        """Since when a balancer is known to have no replica; None while it is not known to."""
        self._failed_probes = 0

    def __repr__(self) -> str:
        return f"<{self.option} at {self.url.origin()}>"

    def at(self, path: str) -> URL:
        """Return the URL of a path on this backend."""
        return self.url.with_path(self.url.path.rstrip("/") + path)

    def request_head(self, method: str, path: str) -> bytes:
        """Return how a request to a path on this backend begins: its line and the Host header."""
        known = self._heads.get(path)
        if known is None:
            url = self.at(path)
            host = url.host_port_subcomponent
            known = f"{method} {url.raw_path} HTTP/1.1\r\nHost: {host}\r\n".encode()
            self._heads[path] = known
        return known

    def healthy(self, now_s: float) -> bool:
        """Return whether requests may be sent here."""
        return self.answers_probes and self.ejection.admits(now_s)

    def probed(self, result: Probe, settings: Settings) -> None:
        """Take in a probe's result; several must fail before a healthy backend is given up."""
        if result is Probe.OWN:
            return
        if result is Probe.GOOD:
            self._failed_probes, self.answers_probes, self.silent = 0, True, False
            self._occupied()
            return
        self._failed_probes += 1
        if self._failed_probes >= settings.probe_failures:
            self.answers_probes, self.silent = False, result is Probe.SILENT

    def unreachable(self) -> None:
        """Take in that nothing listens here: out until a probe succeeds."""
        self.answers_probes = False

    def vacant(self, begun_s: float) -> None:
        """Take in that a balancer had no replica for a request begun then: out until a probe succeeds."""
        self.answers_probes = False
        since_s = self.vacant_since_s
        self.vacant_since_s = begun_s if since_s is None else min(since_s, begun_s)

    def _occupied(self) -> None:
        """End the attempts that were begun while there was no replica, so that they are made again.

        SkyServe 0.14's balancer tries such a request again a second or two later, but has lost its body by then
        (Starlette's `is_disconnected` takes it off): with a replica there it waits for ever.
        """
        since_s, self.vacant_since_s = self.vacant_since_s, None
        if since_s is not None:
            self.give_up_unstarted(VACANT, since_s)

    def give_up_unstarted(self, why: str = "unhealthy", since_s: float = -math.inf) -> None:
        """End all attempts begun since then that have had no byte from here, so that they are made elsewhere or anew."""
        for attempt in [a for a in self.unstarted if a.begun_s >= since_s]:
            attempt.expire(why)


class Attempt:
    """A time limit on the current task until an answer is there; then it is `done`.

    `expire` cancels the task; the task, in its handler of CancelledError, asks `expired` whether the
    cancellation is this one (then it goes on) or somebody else's (then it must end).
    """

    __slots__ = ("_loop", "_task", "_timer", "begun_s", "due_s", "reason")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
        """Start the clock for the current task."""
        self.reason: str | None = None
        self._task, self._loop = asyncio.current_task(loop), loop
        self.begun_s = loop.time()
        self.due_s = self.begun_s + limit_s
        self._timer = loop.call_at(self.due_s, self.expire, "timeout")

    def limit(self, limit_s: float, reason: str) -> None:
        """Set the clock anew: for what is left to come of an answer that has begun."""
        self._timer.cancel()
        self.due_s = self._loop.time() + limit_s
        self._timer = self._loop.call_at(self.due_s, self.expire, reason)

    def expire(self, reason: str) -> None:
        """Cancel the task, unless the attempt is done."""
        if self._task is not None and self.reason is None:
            self.reason = reason
            self._task.cancel()

    def expired(self) -> bool:
        """Return whether the cancellation now handled came from `expire` alone, and take it back."""
        task = asyncio.current_task(self._loop)
        if self.reason is None or task is None:
            return False
        uncancel = getattr(task, "uncancel", None)  # Python 3.11 and later count cancellations
        return uncancel is None or uncancel() == 0

    def done(self) -> None:
        """Stop the clock."""
        self._timer.cancel()
        self._task = None


def parse_backend(plan: str, option: str, text: str, settings: Settings) -> Backend:
    """Read ``URL`` or ``URL*N``; without a scheme it is http. Raises InputError where it is none."""
    address, star, count = text.strip().rpartition("*")
    if not star:
        address, count = text.strip(), "1"
    where = f"backend of {option[:80]}"
    if not count.isdecimal() or len(count) > 4 or not 1 <= int(count) <= _MOST_REPLICAS:
        raise InputError(
            f"{where}: after '*' a number of replicas from 1 to {_MOST_REPLICAS} is due"
        )
    try:
        url = URL(address if "://" in address else f"http://{address}")
    except ValueError as error:
        raise InputError(f"{where}: is not a URL such as http://10.0.0.1:8000") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"{where}: must be http://HOST[:PORT] or https://HOST[:PORT]")
    if url.user or url.password or url.query_string or url.fragment:
        raise InputError(
            f"{where}: must have no user, password, query or fragment; pass keys separately"
        )
    return Backend(settings, plan, option, url, int(count))


def parse_backends(
    plan: str, urls_by_option: Mapping[str, Sequence[str]], settings: Settings
) -> list[Backend]:
    """Read all backends of a plan; the same URL twice counts once."""
    backends: dict[tuple[str, str, str, int], Backend] = {}
    for option, texts in urls_by_option.items():
        for text in texts:
            backend = parse_backend(plan, option, text, settings)
            backends.setdefault(backend.key, backend)
    return list(backends.values())
