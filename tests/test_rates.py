"""Rates over time: known answers, and what must not change them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from melange_sky.rates import MOST_SECONDS, RateCounter, RateProfile


def profile_of(times: list[float], *, is_wall_clock: bool = False) -> RateProfile:
    counter = RateCounter()
    for time_s in times:
        counter.add(time_s)
    profile = counter.profile(is_wall_clock=is_wall_clock)
    assert profile is not None
    return profile


def poisson(rate_rps: float, span_s: float, seed: int) -> list[float]:
    rng, times, now = random.Random(seed), [], 0.0
    while (now := now + rng.expovariate(rate_rps)) < span_s:
        times.append(now)
    return times


def test_a_poisson_stream_has_dispersion_one_at_every_scale() -> None:
    profile = profile_of(poisson(5.0, 60_000.0, 1))
    assert profile.mean_rps == pytest.approx(5.0, rel=0.02)
    assert profile.dispersion[:3] == pytest.approx((1.0, 1.0, 1.0), rel=0.06)
    assert profile.burst_dispersion == pytest.approx(1.0, abs=0.05)


def test_two_levels_have_the_variance_that_theory_gives() -> None:
    """Half of the windows at 1 req/s, half at 9: variance of the means 16, plus Poisson's 5."""
    times = [
        hour * 3600 + at
        for hour in range(20)
        for at in poisson(1.0 if hour % 2 else 9.0, 3600.0, hour)
    ]
    profile = profile_of(times)
    assert profile.dispersion[3] == pytest.approx(1 + 300 * 16 / 5, rel=0.1)
    assert profile.burst_dispersion < 1.2, "a slow trend is no burst"
    assert profile.peak_rps == pytest.approx(9.0, rel=0.1)
    assert profile.quantile_rps(0.49) < 1.5
    assert profile.quantile_rps(0.95) > 8
    assert profile.fraction_under(5.0) == pytest.approx(0.5, abs=0.03)


def test_bursts_within_windows_are_seen() -> None:
    times = [k * 100 + i * 0.001 for k in range(36) for i in range(100)]
    profile = profile_of(times)
    assert profile.mean_rps == pytest.approx(1.0, rel=0.03)
    assert profile.peak_rps < 1.4
    assert profile.burst_dispersion > 50


@pytest.mark.parametrize("shift_s", [0.0, 12_345.0, 1.7e9, -86_400.0])
def test_shifting_all_stamps_or_mixing_their_order_changes_nothing(shift_s: float) -> None:
    times = [round(t, 3) for t in poisson(2.0, 5_000.0, 3)]
    plain = profile_of(times)
    moved = [t + shift_s for t in times]
    shifted = profile_of(moved)
    assert (shifted.counts, shifted.dispersion) == (plain.counts, plain.dispersion)
    first, *rest = moved
    random.Random(4).shuffle(rest)
    assert profile_of([first, *rest]).counts == plain.counts
    assert sum(profile_of([*rest, first]).counts) == len(times) - 1


def test_windows_cover_the_span_and_every_request_but_the_first() -> None:
    for span_s in (0.5, 299.0, 451.0, 3600.0, 100_000.0):
        times = sorted({0.0, span_s, *poisson(1.0, span_s, 5)})
        profile = profile_of(times)
        assert sum(profile.lengths_s) == pytest.approx(span_s, abs=1.0)
        assert sum(profile.counts) == len(times) - 1
        assert 150 <= profile.lengths_s[0] <= 450 or span_s < 450


def test_hours_and_weekdays_of_a_wall_clock() -> None:
    """Day 1 of the stamps' era is a Monday; hours that the trace does not touch are unknown."""
    monday_8h = 1 * 86_400 + 8 * 3600
    profile = profile_of([monday_8h + t for t in poisson(2.0, 3600.0, 6)], is_wall_clock=True)
    assert profile.by_hour is not None
    assert profile.by_weekday is not None
    assert profile.by_hour[8] == pytest.approx(2.0, rel=0.1)
    assert [k for k, rate in enumerate(profile.by_hour) if rate is not None] == [8]
    assert [k for k, rate in enumerate(profile.by_weekday) if rate is not None] == [0]


def test_a_trace_that_spans_no_time_or_centuries_has_no_profile() -> None:
    counter = RateCounter()
    assert counter.profile(is_wall_clock=False) is None
    counter.add(5.0)
    assert counter.profile(is_wall_clock=False) is None
    counter.add(5.0 + MOST_SECONDS + 1)
    assert counter.profile(is_wall_clock=False) is None


@pytest.mark.parametrize("variation", [0.0, 0.2, 0.5])
def test_windows_that_differ_by_chance_are_told_from_a_trend_and_from_luck(
    variation: float,
) -> None:
    rng = np.random.default_rng(8)
    windows = 400
    rates = 1.0 + 0.6 * np.sin(np.arange(windows) / 288 * 2 * np.pi)
    if variation:
        rates *= rng.gamma(variation**-2, variation**2, size=windows)
    counts = rng.poisson(300 * rates)
    times = np.repeat(np.arange(windows) * 300.0, counts) + rng.uniform(0, 300, counts.sum())
    found = profile_of(sorted(times.tolist())).chance_variation
    assert found == pytest.approx(variation, abs=0.05)
