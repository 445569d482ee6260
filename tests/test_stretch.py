"""The interval of another stretch of traffic: as often right as it says, whatever the windows share."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from melange_sky.replay.stretch import FEWEST_WINDOWS, WINDOW_S, _student, interval_of_requests
from melange_sky.replay.verdict import attainment_interval

HOUR_S = 3600.0


def stretch(rng: np.random.Generator, spread: float, hours: float = 1.0, per_s: float = 0.8):
    """Requests whose chance to be late is drawn anew every five minutes, 5 % on the mean."""
    count = rng.poisson(per_s * hours * HOUR_S)
    at = np.sort(rng.uniform(0, hours * HOUR_S, count))
    late = rng.gamma(1 / spread, 0.05 * spread, size=int(hours * 12) + 1)
    return at, rng.random(count) >= np.minimum(late[(at // WINDOW_S).astype(int)], 1.0)


@pytest.mark.parametrize("spread", [0.01, 0.3, 1.0])
def test_another_stretch_lies_above_the_lower_end_as_often_as_it_says(spread: float) -> None:
    rng = np.random.default_rng(1)
    below = sum(
        stretch(rng, spread)[1].mean() < interval_of_requests(*stretch(rng, spread)).low
        for _ in range(600)
    )
    assert below <= 600 * 0.05  # half of the 5 % lies below, skewed laws put more of it there


def test_requests_of_one_burst_are_no_thousand_witnesses() -> None:
    """The interval by requests is right for independent ones only."""
    rng = np.random.default_rng(2)
    missed = [0, 0]
    for _ in range(400):
        used, other = stretch(rng, 2.0), stretch(rng, 2.0)[1].mean()
        missed[0] += other < attainment_interval(used[1])[0]
        missed[1] += other < interval_of_requests(*used).low
    assert missed[1] < missed[0] / 2


def windows_of_one_source(
    rng: np.random.Generator, spread: float, windows: int
) -> list[tuple[float, NDArray[np.float64]]]:
    """Busy and quiet windows by chance: their rates (mean 1, coefficient of variation `spread`), and a draw
    per request, by window."""
    rates = rng.gamma(spread**-2, spread**2, size=windows)
    return [(rate, rng.random(rng.poisson(150 * rate))) for rate in rates]


def within_limits(
    windows: list[tuple[float, NDArray[np.float64]]], capacity: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return when requests arrive and which meet the limits on a fleet of so much capacity."""
    late = [1 / (1 + np.exp(12 * (1 - rate / capacity))) for rate, _ in windows]
    at = [WINDOW_S * (k + np.arange(len(d)) / len(d)) for k, (_, d) in enumerate(windows)]
    good = [draws >= chance for (_, draws), chance in zip(windows, late, strict=True)]
    return np.concatenate(at), np.concatenate(good)


@pytest.mark.parametrize(
    ("spread", "windows", "least"), [(0.05, 12, 0.95), (0.2, 12, 0.85), (0.5, 12, 0.7)]
)
def test_the_smallest_fleet_that_holds_over_a_trace_holds_over_another_such(
    spread: float, windows: int, least: float
) -> None:
    """As often as the module says: less where windows differ much, for none busier than its own is foreseen."""
    rng = np.random.default_rng(5)
    held, tries = 0, 120
    for _ in range(tries):
        used, other = (windows_of_one_source(rng, spread, windows) for _ in range(2))
        low, high = 0.5, 8.0
        for _ in range(9):
            middle = (low + high) / 2
            holds = interval_of_requests(*within_limits(used, middle)).low >= 0.95
            low, high = (low, middle) if holds else (middle, high)
        held += within_limits(other, high)[1].mean() >= 0.95
    assert held >= tries * least


def test_a_longer_trace_says_more() -> None:
    rng = np.random.default_rng(3)
    hour, week = (interval_of_requests(*stretch(rng, 1.0, hours=h)) for h in (1, 168))
    assert week.high - week.low < (hour.high - hour.low) / 6
    assert (hour.windows, week.windows) == (12, 12 * 168)


def test_a_trend_is_no_chance() -> None:
    """Misses that rise and fall with the day count as what every day has, not as luck."""
    at = np.arange(0, 7 * 24 * HOUR_S, 1.25)
    late = 0.05 * (1 - np.cos(at / (24 * HOUR_S) * 2 * np.pi))
    by_day = np.random.default_rng(4).random(len(at)) >= late
    found = interval_of_requests(at, by_day)
    assert found.high - found.low < 0.004


def test_short_traces_are_cut_finer_and_none_is_too_short() -> None:
    at = np.linspace(0, 600, 1000)
    found = interval_of_requests(at, np.arange(1000) % 20 > 0)
    assert found.window_s == pytest.approx(600 / FEWEST_WINDOWS)
    assert found.low < 0.95 < found.high
    one = interval_of_requests(np.zeros(1), np.ones(1, dtype=np.bool_))
    assert 0 <= one.low < one.high <= 1
    none_late = interval_of_requests(at, np.ones(1000, dtype=np.bool_))
    assert 0.98 < none_late.low < none_late.high == 1.0


@pytest.mark.parametrize(("degrees", "exact"), [(2, 4.303), (4, 2.776), (10, 2.228), (100, 1.984)])
def test_students_quantile(degrees: float, exact: float) -> None:
    assert _student(degrees) == pytest.approx(exact, rel=0.04)
