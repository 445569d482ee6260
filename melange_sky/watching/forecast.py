"""The rate of the next minutes: a level times the shape of the same hours before, with a band learnt from its errors.

Rates are kept in steps of five minutes. Four rules foretell the highest step within a horizon: the level of now
times how the rate went on a week ago, the same a day ago, a damped trend (Holt 1957; Gardner and McKenzie,
Management Science 31, 1985), and the mean of the last half hour. Of those that apply the one speaks that erred least
over the last two hours and in the coming hour of the day before: who is best at night need not be in the morning. The
band above it is the quantile of its own errors over the last day, so that it holds what it promises whatever the
traffic's nature. On held-back days the level times a shape beat seasonal-naive and Holt-Winters rules
(tests/bench/bench_watch.py).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

STEP_S = 300.0
DAY = round(86_400 / STEP_S)
WEEK = 7 * DAY
KEPT = 4 * WEEK
"""So many steps are remembered."""

QUANTILE = 0.9
RECENT = round(7200 / STEP_S)
HOUR = round(3600 / STEP_S)
FEW = 24
"""With fewer errors than so many steps the band is assumed."""
ASSUMED_BAND = 1.25
ASSUMED_NOISE = 0.05
_SMOOTH = 3
_HOLT = (0.6, 0.2, 0.95)
"""How much of the newest step enters level and trend, and how far the trend lives on per step."""
_OF_SCATTER = 0.1
"""How much of the newest step's scatter enters what is known of it; of the first ones more, as if what is assumed had
been one step."""

_SURE = 3.0
"""Standard deviations by which the newest looks must be above the others to be believed alone."""
_RISE_SURE = 2.0
_RISE_S = (600.0, 1200.0)
_RISE_LOOKS = 6
"""A rise is sure as far as the slope of so many looks at least is, over both times, less so many of its errors."""

_STEADY = 6
RULES = ("week", "day", "trend", "steady")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is expected within `over_s` seconds, in requests per second.

    `level_rps` is now's: of the last five minutes, or of the newest looks where these are surely higher.
    `rising_rps` is where it leads by what the last looks surely rise. `expected_rps` is the highest five minutes by the rule, `high_rps` what these exceed in one
    of ten cases, never below the level. `rule`: week, day, trend or steady. `band_origin`: learnt or assumed.
    `noise` is the standard deviation of a mean of five minutes that the looks' own scatter explains, ÷ that mean;
    what is assumed at first wears off over an hour.
    """

    over_s: float
    level_rps: float
    rising_rps: float
    expected_rps: float
    high_rps: float
    rule: str
    band_origin: str
    noise: float


class Forecaster:
    """Learns from rates as they come; one horizon, in seconds."""

    def __init__(self, over_s: float, quantile: float = QUANTILE) -> None:
        """Begin without a past."""
        self.over_s, self.quantile = over_s, quantile
        self._ahead = max(1, math.ceil(over_s / STEP_S))
        self._rates: deque[float] = deque(maxlen=KEPT)
        self._first = 0  # the number of the oldest step kept
        self._sum, self._weight = 0.0, 0
        self._squares = 0.0
        self._scatter = ASSUMED_NOISE**2
        self._scatters = 1
        self._looks = 0
        self._open: int | None = None
        self._ticks: deque[tuple[float, float]] = deque()
        self._holt = (math.nan, 0.0)
        self._foretold: deque[tuple[int, dict[str, float]]] = deque()
        self._errors: dict[str, deque[float]] = {rule: deque(maxlen=DAY) for rule in RULES}
        self._now: dict[str, float] = {}

    def add(self, time: float, rate_rps: float) -> None:
        """Take the rate of one look. Where the clock went back, it counts to the step that is open."""
        step = int(time // STEP_S)
        if self._open is None:
            self._open = step
        if step > self._open:
            self._close(step)
            self._open = step
        if self._ticks and time <= self._ticks[-1][0]:
            self._ticks.clear()
        self._sum, self._weight = self._sum + rate_rps, self._weight + 1
        self._squares += rate_rps**2
        self._ticks.append((time, rate_rps))
        while self._ticks[0][0] <= time - _RISE_S[-1]:
            self._ticks.popleft()

    def forecast(self) -> Forecast | None:
        """Return what is expected from now on, None before the first rate."""
        if not self._ticks:
            return None
        recent = self._level()
        if not self._now:
            return self._told(recent, recent, ASSUMED_BAND, "trend", "assumed")
        rule = min(self._now, key=self._loss)
        errors = self._errors[rule]
        if len(errors) < FEW:
            return self._told(recent, self._now[rule], ASSUMED_BAND, rule, "assumed")
        band = math.exp(max(float(np.quantile(np.array(errors), self.quantile)), 0.0))
        return self._told(recent, self._now[rule], band, rule, "learnt")

    def _level(self) -> float:
        newest = self._newest(STEP_S)[:, 1][::-1]
        looks = np.arange(1, len(newest) + 1)
        means = newest.cumsum() / looks
        sure = means * (1 - _SURE * self._look_noise(len(newest)) / np.sqrt(looks))
        return float(max(means[-1], sure.max()))

    def _rising(self, level: float) -> float:
        """Return where the level leads within the horizon by the slope of the looks, as far as that is sure."""
        slopes = []
        for within_s in _RISE_S:
            newest = self._newest(within_s)
            count = len(newest)
            if count < _RISE_LOOKS or newest[-1, 0] - newest[0, 0] < STEP_S * 0.8:
                return level
            at_s, rates = newest[:, 0] - newest[:, 0].mean(), newest[:, 1]
            squares = float(at_s @ at_s)
            slope = float(at_s @ rates) / squares
            off = rates - rates.mean() - slope * at_s
            known = self._look_noise(count) * float(rates.mean())
            spread = math.sqrt(max(float(off @ off) / (count - 2), known**2) / squares)
            slopes.append(slope - _RISE_SURE * spread)
        return level + max(min(slopes), 0.0) * self.over_s

    def _newest(self, within_s: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Return times and rates of the looks of the last seconds, (looks, 2)."""
        last = self._ticks[-1][0]
        return np.array([tick for tick in self._ticks if tick[0] > last - within_s])

    def _look_noise(self, looks: int) -> float:
        """Return the standard deviation of a look's rate ÷ its mean, where so many make up five minutes or more."""
        return math.sqrt(self._scatter * min(looks, self._looks or looks))

    def _told(
        self, recent: float, expected: float, band: float, rule: str, origin: str
    ) -> Forecast:
        return Forecast(
            over_s=self.over_s,
            level_rps=recent,
            rising_rps=self._rising(recent) if origin == "assumed" else recent,
            expected_rps=expected,
            high_rps=max(expected * band, recent),
            rule=rule,
            band_origin=origin,
            noise=math.sqrt(self._scatter),
        )

    def _loss(self, rule: str) -> float:
        """Return how far a rule has been off of late and in the coming hour of the day before, if it spoke then.

        One without a past stands behind.
        """
        errors = list(self._errors[rule])
        known = errors[-RECENT:]
        if len(errors) == DAY:  # else the day before is not known
            known += errors[self._ahead - 1 : self._ahead - 1 + HOUR]
        return sum(map(abs, known)) / len(known) if known else math.inf

    def _close(self, following: int) -> None:
        """End the open step, and any that nothing was seen of, up to `following`."""
        assert self._open is not None
        self._learn_scatter()
        self._end_step(self._sum / self._weight)
        for _ in range(min(following - self._open - 1, KEPT)):
            self._end_step(math.nan)
        self._sum, self._weight, self._squares = 0.0, 0, 0.0

    def _learn_scatter(self) -> None:
        """Take the open step's looks into the variance of a step's mean, relative to it."""
        mean, looks = self._sum / self._weight, self._weight
        self._looks = max(self._looks, looks)
        if looks < 2 or mean <= 0:
            return
        spread = max(self._squares - looks * mean**2, 0.0) / (looks - 1)
        fresh = spread / looks / mean**2
        self._scatters += 1
        self._scatter += max(_OF_SCATTER, 1 / self._scatters) * (fresh - self._scatter)

    def _end_step(self, rate: float) -> None:
        if len(self._rates) == KEPT:
            self._first += 1
        self._rates.append(rate)
        self._learn()
        if math.isfinite(rate):
            self._holt = _holt(self._holt, rate)
            self._now = self._foretell()
            self._foretold.append((self._first + len(self._rates) - 1, self._now))

    def _learn(self) -> None:
        """Compare with what came what was foretold one horizon ago."""
        last = self._first + len(self._rates) - 1
        while self._foretold and self._foretold[0][0] + self._ahead <= last:
            made, told = self._foretold.popleft()
            came = self._steps(made + 1, made + 1 + self._ahead)
            if not np.isfinite(came).all() or came.max() <= 0:
                continue
            for rule, value in told.items():
                if value > 0:
                    self._errors[rule].append(math.log(came.max() / value))

    def _steps(self, start: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        places = range(start - self._first, end - self._first)
        known = len(self._rates)
        return np.array([self._rates[k] if 0 <= k < known else math.nan for k in places])

    def _foretell(self) -> dict[str, float]:
        last = self._first + len(self._rates) - 1
        level = float(np.nanmean(self._steps(last - 1, last + 1)))
        told = {}
        for rule, lag in (("week", WEEK), ("day", DAY)):
            ratio = self._ratio(last - lag)
            if ratio is not None:
                told[rule] = level * ratio
        base, slope = self._holt
        told["trend"] = max(base, base + self._ahead * slope, 0.0)
        told["steady"] = float(np.nanmean(self._steps(last - _STEADY + 1, last + 1)))
        return told

    def _ratio(self, then: int) -> float | None:
        """Return by how much the rate rose after a step of the past, smoothed; None where that is not known."""
        window = self._steps(then - 1 - _SMOOTH, then + self._ahead + _SMOOTH + 1)
        if not np.isfinite(window).all():
            return None
        width = 2 * _SMOOTH + 1
        smooth = np.convolve(window, np.full(width, 1 / width), "valid")
        level = smooth[:2].mean()  # of two steps, as that of now
        return float(smooth[2:].max() / level) if level > 0 else None


def _holt(before: tuple[float, float], rate: float) -> tuple[float, float]:
    level, slope = before
    if not math.isfinite(level):
        return rate, 0.0
    newest, of_slope, damp = _HOLT
    fresh = newest * rate + (1 - newest) * (level + slope)
    return fresh, damp * (of_slope * (fresh - level) + (1 - of_slope) * slope)
