"""How a trace's rate moves: requests per five minutes, burstiness, and the shape of day and week.

A mean rate hides what breaks an SLO. Here time is kept: windows of about five minutes with their
requests, and how much more the counts vary than those of a Poisson stream would (the index of
dispersion, variance ÷ mean of the counts; Cox and Lewis, The Statistical Analysis of Series of
Events, 1966, ch. 4).
"""

from __future__ import annotations

import itertools
import math
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Seconds = NDArray[np.uint32]
    Counts = NDArray[np.int64]

WINDOW_S = 300
"""Length of a window in seconds: long against a request, short against a day."""

DISPERSION_S = (1, 10, 60, 300)
"""Seconds over which counts are compared with a Poisson stream's."""

CLOCK_DIGITS = 4
"""Digits of a second that a span is taken with: dates far from zero hold no more in a float."""

FEWEST_WINDOWS = 10
"""Windows below which a variance says nothing."""

PIECE = 8192
"""Windows summed at once: a trace of a year is not copied."""

DAY_S = 86_400
MOST_SECONDS = 400 * DAY_S
"""Longest span whose seconds are counted: a year and a month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateProfile:
    """The rate of a trace over time.

    `counts` are requests per window, `lengths_s` the windows' lengths, both of shape (windows,); the
    first window begins at the first request, which is not counted: `start_s` on the trace's own clock. `dispersion` is by
    `DISPERSION_S`, None where the trace is too short. `burst_dispersion` compares counts of ten seconds
    with a Poisson stream at each window's own rate: 1 where only the trend moves. `by_hour` (24) and
    `by_weekday` (7, from Monday) are mean rates, None where the stamps are no wall clock, or for
    hours and days that the trace does not touch.
    """

    requests: int
    span_s: float
    start_s: float
    counts: tuple[int, ...]
    lengths_s: tuple[float, ...]
    dispersion: tuple[float | None, ...]
    burst_dispersion: float
    by_hour: tuple[float | None, ...] | None = None
    by_weekday: tuple[float | None, ...] | None = None

    @property
    def rates_rps(self) -> tuple[float, ...]:
        """Rate of each window."""
        return tuple(n / s for n, s in zip(self.counts, self.lengths_s, strict=True))

    @property
    def dispersion_by_seconds(self) -> dict[str, float | None]:
        """The dispersion by the seconds that requests are counted over, as text."""
        return dict(zip(map(str, DISPERSION_S), self.dispersion, strict=True))

    @property
    def mean_rps(self) -> float:
        """Requests ÷ time, the one that starts the clock left out."""
        return (self.requests - 1) / self.span_s

    @property
    def peak_rps(self) -> float:
        """Rate of the busiest window."""
        return max(self.rates_rps)

    @property
    def busiest_s(self) -> float:
        """When the busiest window begins, in seconds after the first request."""
        busiest = int(np.argmax(self.rates_rps))
        return float(sum(self.lengths_s[:busiest]))

    @property
    def chance_variation(self) -> float:
        """How much the windows' rates differ by chance: their coefficient of variation beyond a Poisson
        stream's, by the differences of neighbours, so that no trend counts. Windows without a request are left out; 0 where few are left.
        """
        busy = [(n, n / s) for n, s in zip(self.counts, self.lengths_s, strict=True) if n]
        if len(busy) < FEWEST_WINDOWS:
            return 0.0
        counts, rates = np.array(busy).T
        apart = np.diff(rates) / (rates[1:] + rates[:-1])
        return math.sqrt(max(0.0, 2 * float((apart**2).mean()) - 1 / float(counts.mean())))

    def fraction_under(self, rate_rps: float) -> float:
        """Return the fraction of the time in which the rate is at most this one."""
        under = [s for r, s in zip(self.rates_rps, self.lengths_s, strict=True) if r <= rate_rps]
        return sum(under) / sum(self.lengths_s)

    def quantile_rps(self, fraction: float) -> float:
        """Return the rate that this fraction of the time stays at or under."""
        order = np.argsort(self.rates_rps, kind="stable")
        covered = np.cumsum(np.asarray(self.lengths_s)[order]) / sum(self.lengths_s)
        place = int(np.searchsorted(covered, fraction - 1e-12))
        return float(self.rates_rps[order[min(place, len(order) - 1)]])


@dataclass(slots=True)
class RateCounter:
    """Counts arrivals by the second in one pass: four bytes a second.

    Seconds begin with `anchor_s`, or with the first arrival that is counted where it is None.
    """

    by_second: array[int] = field(default_factory=lambda: array("I"))
    anchor_s: float | None = None
    first_s: float = 0.0
    last_s: float = 0.0
    is_too_long: bool = False

    @property
    def span_s(self) -> float:
        """Seconds from the first to the last arrival."""
        return round(self.last_s - self.first_s, CLOCK_DIGITS)

    def add(self, arrival_s: float) -> None:
        """Count one arrival."""
        if self._reaches(arrival_s, arrival_s, arrival_s):
            self.by_second[self._second(arrival_s)] += 1

    def add_all(self, arrival_s: NDArray[np.float64]) -> None:
        """Count many arrivals, which may come in any order."""
        if not len(arrival_s):
            return
        earliest, latest = float(arrival_s.min()), float(arrival_s.max())
        if self._reaches(earliest, latest, float(arrival_s[0])):
            seconds = self._seconds(arrival_s)
            first = int(seconds.min())
            counts = np.bincount(seconds - first).astype(np.uint32)
            kept = np.frombuffer(self.by_second, dtype=np.uint32)
            kept[first : first + len(counts)] += counts

    def _reaches(self, earliest_s: float, latest_s: float, anchor_s: float) -> bool:
        """Make room for arrivals between two times; return whether the span is not too long to count."""
        if not self.by_second:
            self.first_s, self.last_s = earliest_s, latest_s
            if self.anchor_s is None:
                self.anchor_s = anchor_s
        self.first_s = min(self.first_s, earliest_s)
        self.last_s = max(self.last_s, latest_s)
        self.is_too_long |= self.last_s - self.first_s > MOST_SECONDS
        if self.is_too_long:
            return False
        before = self._second(earliest_s)
        if before < 0:
            self.by_second = array("I", bytes(4 * -before)) + self.by_second
            self.anchor_s = self._begin_s + before
        second = self._second(latest_s)
        if second >= len(self.by_second):
            self.by_second.frombytes(bytes(4 * (second + 1 - len(self.by_second))))
        return True

    @property
    def _begin_s(self) -> float:
        """When the first second that is counted begins."""
        assert self.anchor_s is not None
        return self.anchor_s

    def _seconds(self, arrival_s: NDArray[np.float64]) -> NDArray[np.int64]:
        since_s = arrival_s - self._begin_s
        return np.floor(since_s.round(CLOCK_DIGITS, out=since_s), out=since_s).astype(np.int64)

    def _second(self, arrival_s: float) -> int:
        """Return in which second an arrival falls: the same on any clock, so to its digits."""
        return math.floor(round(arrival_s - self._begin_s, CLOCK_DIGITS))

    def busiest(self, over_s: int) -> tuple[float, float] | None:
        """Return the rate of the busiest window of so many seconds and when it begins, in seconds after the
        first arrival; None where no such window is whole."""
        seconds = np.frombuffer(self.by_second, dtype=np.uint32)
        counts = _counts(seconds, over_s)
        if self.is_too_long or not len(counts):
            return None
        at = int(np.argmax(counts))
        return float(counts[at]) / over_s, float(at * over_s)

    def profile(self, *, is_wall_clock: bool, zone_shift_s: float = 0.0) -> RateProfile | None:
        """Return the profile, None where the trace spans no time or more than `MOST_SECONDS`.

        `zone_shift_s`: how far the clock of its hours and weekdays is ahead of that of its times.
        """
        span_s = self.span_s
        if span_s <= 0 or self.is_too_long:
            return None
        seconds = np.frombuffer(self.by_second, dtype=np.uint32)
        edges = _window_edges(len(seconds))
        counts = np.add.reduceat(seconds, edges[:-1], dtype=np.uint32).astype(np.int64)
        requests = int(counts.sum())
        counts[0] -= 1  # the first request starts the clock
        # The last second is begun, not over: the last window ends with the last request.
        lengths = np.diff(edges).astype(np.float64)
        lengths[-1] = max(span_s - float(edges[-2]), min(1.0, span_s))
        by_hour, by_weekday = (
            _calendar(seconds, self.first_s + zone_shift_s) if is_wall_clock else (None, None)
        )
        return RateProfile(
            requests=requests,
            span_s=span_s,
            start_s=self.first_s,
            counts=tuple(counts.tolist()),
            lengths_s=tuple(lengths.tolist()),
            dispersion=tuple(_dispersion(seconds, over) for over in DISPERSION_S),
            burst_dispersion=_burst_dispersion(seconds, edges),
            by_hour=by_hour,
            by_weekday=by_weekday,
        )


def _window_edges(seconds: int) -> Counts:
    """Return the edges of windows of equal length, as near to five minutes as fits the span."""
    windows = max(1, round(seconds / WINDOW_S))
    return np.round(np.linspace(0, seconds, windows + 1)).astype(np.int64)


def _counts(seconds: Seconds, over: int) -> Counts:
    whole = len(seconds) // over * over
    if not whole:
        return np.zeros(0, dtype=np.int64)
    return np.add.reduceat(seconds[:whole], np.arange(0, whole, over), dtype=np.uint32).astype(
        np.int64
    )


def _dispersion(seconds: Seconds, over: int) -> float | None:
    """Return variance ÷ mean of the counts over so many seconds, summed piece by piece."""
    windows = len(seconds) // over
    total = squares = 0.0
    for start in range(0, windows * over, PIECE * over):
        counts = _counts(seconds[start : start + PIECE * over], over).astype(np.float64)
        total += float(counts.sum())
        squares += float(counts @ counts)
    if windows < FEWEST_WINDOWS or not total:
        return None
    return (squares - total * total / windows) / (windows - 1) / (total / windows)


def _burst_dispersion(
    seconds: Seconds,
    edges: Counts,
) -> float:
    """Return the index of dispersion at 10 s about each window's own mean, 1 at least.

    Windows weigh by their requests, since requests are what an SLO counts.
    """
    excess = weight = 0.0
    for low, high in itertools.pairwise(edges.tolist()):
        counts = _counts(seconds[low:high], 10)
        mean = float(counts.mean()) if len(counts) else 0.0
        if len(counts) >= FEWEST_WINDOWS and mean > 0:
            excess += float(counts.var(ddof=1) / mean) * float(counts.sum())
            weight += float(counts.sum())
    return max(1.0, excess / weight) if weight else 1.0


def _calendar(
    seconds: Seconds, first_s: float
) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """Return mean rates by hour of the day and by weekday; day 1 of the stamps' era is a Monday."""
    clock = int(first_s // 1) + np.arange(len(seconds))
    hours = clock % DAY_S // 3600
    weekdays = (clock // DAY_S - 1) % 7

    def means(group: Counts, size: int) -> tuple[float | None, ...]:
        time_s = np.bincount(group, minlength=size)
        requests = np.bincount(group, weights=seconds, minlength=size)
        return tuple(
            float(n / s) if s else None
            for n, s in zip(requests.tolist(), time_s.tolist(), strict=True)
        )

    return means(hours, 24), means(weekdays, 7)
