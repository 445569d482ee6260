"""Which backends fail more than a request's own fault explains, and how long they are left out.

As Envoy's outlier detection and HAProxy's `observe` do it, with a stricter proof: a failed request
counts against a backend only where another one then served the same request. What fails everywhere is
the request's own fault. A backend is left out by the failing share of its last outcomes, never by a
run of failures; never if the others fail as much, and never more than a part of a service's backends.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.gateway.settings import Settings

_MOST_OUTCOMES = 20


class Outcomes:
    """The last outcomes of a backend, within a time and a number. Times in seconds of the loop's clock.

    `streaming` are streams that have begun and run on: they speak for a backend before they end.
    """

    __slots__ = ("_bad", "_last", "_window_s", "streaming")

    def __init__(self, window_s: float) -> None:
        """Start with none."""
        self._window_s = window_s
        self._last: deque[tuple[float, bool]] = deque()
        self._bad = 0
        self.streaming = 0

    def add(self, now_s: float, good: bool) -> None:
        """Count one outcome."""
        self._last.append((now_s, good))
        self._bad += not good
        if len(self._last) > _MOST_OUTCOMES:
            self._drop()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count a stream while it runs."""
        self.streaming += 1
        try:
            yield
        finally:
            self.streaming -= 1

    def clear(self) -> None:
        """Forget all outcomes."""
        self._last.clear()
        self._bad = 0

    def counts(self, now_s: float) -> tuple[int, int]:
        """Return (failed, all) of the window, running streams included."""
        while self._last and now_s - self._last[0][0] > self._window_s:
            self._drop()
        return self._bad, len(self._last) + self.streaming

    def _drop(self) -> None:
        _, good = self._last.popleft()
        self._bad -= not good


class Ejection:
    """Whether a backend is left out: for a time that doubles with each relapse, then on trial.

    On trial it gets one request at a time; one that goes well brings it back.
    """

    __slots__ = ("_lasts_s", "_returned_s", "_settings", "_until_s", "out", "trying")

    def __init__(self, settings: Settings) -> None:
        """Start in use."""
        self._settings = settings
        self.out = False
        self.trying = False
        self._until_s = self._lasts_s = 0.0
        self._returned_s = float("-inf")

    def admits(self, now_s: float) -> bool:
        """Return whether a request may be sent: in use, or on trial with none under way."""
        return not self.out or (now_s >= self._until_s and not self.trying)

    def begin(self, now_s: float) -> None:
        """Leave the backend out; a relapse soon after its return lasts twice as long."""
        least_s, most_s = self._settings.ejection_s, self._settings.ejection_most_s
        relapse = self.out or now_s - self._returned_s < 10 * self._lasts_s
        self._lasts_s = min(most_s, 2 * self._lasts_s) if relapse else least_s
        self._lasts_s = max(self._lasts_s, least_s)
        self._until_s = now_s + self._lasts_s
        self.out = True

    def end(self, now_s: float) -> None:
        """Take the backend back into use."""
        self.out, self._returned_s = False, now_s


def is_outlier(own: Outcomes, others: Iterable[Outcomes], now_s: float, settings: Settings) -> bool:
    """Return whether a backend fails often enough, and much more often than the others together."""
    bad, count = own.counts(now_s)
    if count < settings.outlier_volume or bad < settings.outlier_share * count:
        return False
    others_bad = others_count = 0
    for outcomes in others:
        more_bad, more = outcomes.counts(now_s)
        others_bad, others_count = others_bad + more_bad, others_count + more
    usual = others_bad / others_count if others_count >= settings.outlier_volume else 0.0
    return bad / count >= usual + settings.outlier_margin
