"""One backend: a URL, its health, and what is in flight at it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from yarl import URL

from melange_sky.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melange_sky.gateway.settings import Settings

log = logging.getLogger(__name__)

_MOST_REPLICAS = 1024


class Backend:
    """A replica (or, with `replicas` > 1, an endpoint in front of several).

    It takes requests while its last probe succeeded and its breaker is closed. The breaker opens
    after several failures in a row, for a time that doubles up to a limit; then one more failure
    opens it again and a success closes it.
    """

    __slots__ = (
        "_cooldown_s",
        "_failed_probes",
        "_failures",
        "_on_trial",
        "_open_until_s",
        "_paths",
        "_probed",
        "in_flight",
        "key",
        "option",
        "plan",
        "replicas",
        "slots",
        "unstarted",
        "url",
    )

    def __init__(self, plan: str, option: str, url: URL, replicas: int) -> None:
        """Start unprobed, hence unhealthy."""
        self.plan, self.option, self.url, self.replicas = plan, option, url, replicas
        self.key = (plan, option, str(url), replicas)
        self.slots: tuple[int, ...] = ()
        self._paths: dict[str, URL] = {}
        self.in_flight = 0
        self.unstarted: set[Attempt] = set()
        self._probed = False
        self._failed_probes = 0
        self._failures = 0
        self._on_trial = False
        self._open_until_s = 0.0
        self._cooldown_s = 0.0

    def __repr__(self) -> str:
        return f"<{self.option} at {self.url.origin()}>"

    def at(self, path: str) -> URL:
        """Return the URL of a path on this backend."""
        known = self._paths.get(path)
        if known is None:
            known = self._paths[path] = self.url.with_path(self.url.path.rstrip("/") + path)
        return known

    def healthy(self, now_s: float) -> bool:
        """Return whether requests may be sent here."""
        return self._probed and now_s >= self._open_until_s

    def probed(self, good: bool, settings: Settings) -> None:
        """Take in a probe's result; several must fail before a healthy backend is given up."""
        if good:
            self._failed_probes, self._probed = 0, True
            return
        self._failed_probes += 1
        if self._failed_probes >= settings.probe_failures:
            self._probed = False

    def unreachable(self) -> None:
        """Take in that nothing listens here: out until a probe succeeds."""
        self._probed = False

    def failed(self, now_s: float, settings: Settings) -> None:
        """Take in a failed request."""
        self._failures += 1
        if now_s < self._open_until_s:
            return
        if self._on_trial or self._failures >= settings.breaker_failures:
            longer = min(settings.breaker_most_s, 2 * self._cooldown_s)
            self._cooldown_s = max(settings.breaker_s, longer)
            self._open_until_s = now_s + self._cooldown_s
            self._on_trial = True
            log.warning("%r failed %d times, not used for a while", self, self._failures)

    def succeeded(self) -> None:
        """Take in a request that went well."""
        self._failures, self._on_trial, self._cooldown_s = 0, False, 0.0

    def give_up_unstarted(self) -> None:
        """End all attempts that have had no byte from here, so that they are tried elsewhere."""
        for attempt in tuple(self.unstarted):
            attempt.expire("unhealthy")


class Attempt:
    """A time limit on the current task until the first byte has come; then it is `done`.

    `expire` cancels the task; the task, in its handler of CancelledError, asks `expired` whether the
    cancellation is this one (then it goes on) or somebody else's (then it must end).
    """

    __slots__ = ("_task", "_timer", "reason")

    def __init__(self, limit_s: float) -> None:
        """Start the clock for the current task."""
        self.reason: str | None = None
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(limit_s, self.expire, "timeout")

    def expire(self, reason: str) -> None:
        """Cancel the task, unless the attempt is done."""
        if self._task is not None and self.reason is None:
            self.reason = reason
            self._task.cancel()

    def expired(self) -> bool:
        """Return whether the cancellation now handled came from `expire` alone, and take it back."""
        task = asyncio.current_task()
        if self.reason is None or task is None:
            return False
        uncancel = getattr(task, "uncancel", None)  # Python 3.11 and later count cancellations
        return uncancel is None or uncancel() == 0

    def done(self) -> None:
        """Stop the clock."""
        self._timer.cancel()
        self._task = None


def parse_backend(plan: str, option: str, text: str) -> Backend:
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
    return Backend(plan, option, url, int(count))


def parse_backends(plan: str, urls_by_option: Mapping[str, Sequence[str]]) -> list[Backend]:
    """Read all backends of a plan; the same URL twice counts once."""
    backends: dict[tuple[str, str, str, int], Backend] = {}
    for option, texts in urls_by_option.items():
        for text in texts:
            backend = parse_backend(plan, option, text)
            backends.setdefault(backend.key, backend)
    return list(backends.values())
