"""Which sizes are measured: few where the estimate has the right shape, more where it has not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.capacity_search import (
    REAL_SEARCH,
    MeasuredRate,
    NextSize,
    RatioPoint,
    SizeDemand,
    choose_size,
    even_demand,
    inferred_rates,
    plan_sizes,
    predicted_rates,
    ratio_surface,
    search_near,
)
from melange_sky.slo import SLO
from tests.profiler import simulated

SIZES = tuple((i, o) for i in (25, 100, 400, 1600) for o in (25, 100, 400))
LIMITS = SLO(tpot_s=0.1, ttft_s=2.0)


def demand(bound: float = 0.05) -> SizeDemand:
    guesses = tuple(100.0 / (i / 10 + o) for i, o in SIZES)
    return SizeDemand(
        sizes=SIZES,
        weights=tuple(np.linspace(1, 3, len(SIZES))),
        guesses_rps=guesses,
        error_bound=bound,
    )


def follow(asked: SizeDemand, ratio, known: dict | None = None) -> tuple[list, dict, float]:
    """Measure exactly guess × ratio until enough is known; return order, what is known, error."""
    measured = dict(known or {})
    order = []
    while True:
        choice = choose_size(asked, measured, LIMITS)
        if choice.size is None:
            return order, measured, choice.expected_error
        assert choice.size not in measured
        order.append(choice.size)
        rate = asked.guesses_rps[asked.sizes.index(choice.size)] * ratio(*choice.size)
        measured[choice.size] = MeasuredRate(
            rate_rps=rate, low_rps=rate * 0.95, high_rps=rate * 1.05
        )


def true_cost(asked: SizeDemand, ratio) -> float:
    rates = [g * ratio(*s) for s, g in zip(asked.sizes, asked.guesses_rps, strict=True)]
    return float((np.array(asked.weights) / rates).sum())


def test_a_tilted_estimate_needs_few_sizes_and_a_rough_one_more() -> None:
    def tilted(i: int, o: int) -> float:
        return 3.0 * (i / 400) ** 0.1 * (o / 100) ** -0.15

    def rough(i: int, o: int) -> float:
        return 1.0 + 0.9 * float(np.sin(3.1 * np.log(i) + 5.3 * np.log(o)))

    asked = demand(0.1)
    few, measured, error = follow(asked, tilted)
    assert 4 <= len(few) < len(SIZES)
    assert error <= 0.1
    found = np.array(predicted_rates(asked, measured), dtype=float)
    cost = float((np.array(asked.weights) / found).sum())
    assert cost == pytest.approx(true_cost(asked, tilted), rel=0.1)
    many, _, _ = follow(asked, rough)
    assert len(many) > len(few)
    assert len(set(many)) == len(many)


def test_an_interrupted_profile_makes_the_same_choices() -> None:
    asked = demand(0.06)
    whole, measured, _ = follow(asked, lambda i, o: 1.7 * (i / o) ** 0.05)
    half = {size: measured[size] for size in whole[: len(whole) // 2]}
    again = dict(reversed(list(half.items())))  # a table may hold them in another order
    rest, _, _ = follow(asked, lambda i, o: 1.7 * (i / o) ** 0.05, again)
    assert [*half, *rest] == whole


def test_sizes_that_nothing_serves_are_measured_once_and_weigh_nothing() -> None:
    asked = demand()
    measured = {SIZES[-1]: MeasuredRate(rate_rps=None)}
    order, _, error = follow(asked, lambda i, o: 1.0, measured)
    assert SIZES[-1] not in order
    assert error <= 0.05 or len(order) == len(SIZES) - 1
    assert predicted_rates(asked, measured)[-1] is None
    none = {size: MeasuredRate(rate_rps=None) for size in SIZES}
    assert choose_size(asked, none, LIMITS) == NextSize(
        size=None, guess_rps=None, sd=0.0, expected_error=0.0
    )


def test_nothing_is_inferred_far_away_or_beyond_what_nothing_serves() -> None:
    sizes = ((100, 100), (100, 110), (110, 100), (110, 110), (105, 105), (130, 130), (9000, 9000))
    asked = SizeDemand(sizes=sizes, weights=(1.0,) * 7, guesses_rps=(1.0,) * 7)
    near = {s: MeasuredRate(rate_rps=2.0, low_rps=1.95, high_rps=2.05) for s in sizes[:4]}
    assert inferred_rates(asked, near) == pytest.approx({(105, 105): 2.0, (130, 130): 2.0}, rel=0.1)
    limited = near | {(130, 130): MeasuredRate(rate_rps=None)}
    assert set(inferred_rates(asked, limited)) == {(105, 105)}
    assert set(inferred_rates(asked, near | {(105, 105): MeasuredRate(rate_rps=None)})) == set()
    assert inferred_rates(asked, {}) == {}


def test_skipped_sizes_are_not_asked_for_again_but_count_in_the_error() -> None:
    asked = demand(0.001)
    skipped = {SIZES[0], SIZES[-1]}
    measured = {s: MeasuredRate(rate_rps=1.0) for s in SIZES if s not in skipped}
    assert choose_size(asked, measured, LIMITS).size in skipped
    ended = choose_size(asked, measured, LIMITS, skipped)
    assert ended.size is None
    assert ended.expected_error == choose_size(asked, measured, LIMITS).expected_error > 0.001


def test_where_traffic_is_there_is_measured() -> None:
    asked = demand(0.01)
    weights = [0.0] * len(SIZES)
    weights[4] = 1.0
    choice = choose_size(replace(asked, weights=tuple(weights)), {}, LIMITS)
    # Not necessarily that very size, a cheaper neighbour may tell as much of it; with all others known
    # to be far off, it is.
    assert choice.size is not None
    far = {
        s: MeasuredRate(rate_rps=g * 1.5 ** (k % 3), low_rps=g, high_rps=3 * g)
        for k, (s, g) in enumerate(zip(SIZES, asked.guesses_rps, strict=True))
        if k != 4
    }
    left = choose_size(replace(asked, weights=tuple(weights)), far, LIMITS)
    assert left.size == SIZES[4]


@settings(max_examples=40, deadline=None)
@given(
    logs=st.lists(st.floats(-3, 3), min_size=1, max_size=8),
    scale=st.floats(-2, 2),
    at=st.integers(0, len(SIZES) - 1),
)
def test_the_surface_is_sane(logs: list[float], scale: float, at: int) -> None:
    """Uncertainty is positive, least where measured; the estimate's scale does not matter."""
    points = [RatioPoint(size=SIZES[k], log_ratio=v) for k, v in enumerate(logs)]
    surface = ratio_surface(points, SIZES)
    assert np.isfinite(surface.mean).all()
    assert (np.linalg.eigvalsh(surface.covariance) > -1e-9).all()
    alone = ratio_surface([RatioPoint(size=SIZES[at], log_ratio=scale)], SIZES)
    assert int(np.argmin(alone.sd)) == at
    assert alone.mean[at] == pytest.approx(scale, rel=0.05, abs=0.01)


def test_roughness_is_told_by_leaving_points_out() -> None:
    smooth = [RatioPoint(size=s, log_ratio=0.1 * float(np.log(s[0]))) for s in SIZES]
    signs = np.random.default_rng(3).choice([-1.0, 1.0], len(SIZES))
    rough = [RatioPoint(size=s, log_ratio=g) for s, g in zip(SIZES, signs, strict=True)]
    one, two = ratio_surface(smooth, SIZES), ratio_surface(rough, SIZES)
    assert one.amplitude < two.amplitude
    assert one.surprise is not None and two.surprise is not None
    assert one.surprise < 0.1 < two.surprise


def test_the_search_starts_at_the_guess_and_steps_as_it_is_unsure() -> None:
    unsure = search_near(
        REAL_SEARCH, NextSize(size=(1, 1), guess_rps=3.0, sd=1.0, expected_error=1)
    )
    sure = search_near(REAL_SEARCH, NextSize(size=(1, 1), guess_rps=9e9, sd=0.01, expected_error=1))
    assert (unsure.start_rps, unsure.growth) == (3.0, 2.0)
    assert (sure.start_rps, sure.growth) == (REAL_SEARCH.ceiling_rps, 1 + REAL_SEARCH.tolerance)
    nothing = NextSize(size=(1, 1), guess_rps=None, sd=0.0, expected_error=1)
    assert search_near(REAL_SEARCH, nothing) is REAL_SEARCH


def test_a_preview_asks_for_no_more_than_there_is() -> None:
    order, error = plan_sizes(demand(0.2), LIMITS, {})
    assert 4 <= len(order) < len(SIZES)
    assert error <= 0.2
    assert len(set(order)) == len(order)
    assert plan_sizes(even_demand([(5, 5)], 0.01), LIMITS, {})[0] == [(5, 5)]


def test_guesses_without_a_scale_start_no_search() -> None:
    asked = even_demand(SIZES, 0.1)
    first = choose_size(asked, {}, LIMITS)
    assert first.size is not None
    assert first.guess_rps is None
    second = choose_size(asked, {first.size: MeasuredRate(rate_rps=50.0)}, LIMITS)
    assert second.guess_rps is not None
    assert 5.0 < second.guess_rps < 500.0


@pytest.mark.parametrize(
    "wrong", [{"weights": (1.0,)}, {"guesses_rps": (0.0,) * 12}, {"error_bound": 0.0}]
)
def test_wrong_demands_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"every size|positive"):
        replace(demand(), **wrong)


def test_a_simulated_replica_is_profiled_for_less_than_the_launcher_grid() -> None:
    """The benchmark's H100, with the bound wide: deterministic, seconds of computing."""
    replica = simulated.replica_of("H100")
    # A fine search everywhere is the benchmark's; here the sizes that weigh most stand for it.
    believed = simulated.guesses(replica) * simulated.tilt()
    found = simulated.profile(replica, believed, bound=0.15)
    assert 4 <= len(found.measured) <= 30
    assert found.expected_error <= 0.15
    assert found.seconds < 0.1 * simulated.launcher_seconds(replica, 1000)
    heavy = np.argsort(simulated.weights())[-4:]
    real = simulated.truth(replica, [simulated.SIZES[k] for k in heavy])
    off = np.log(found.rates[heavy] / real)
    assert abs(float(off.mean())) < 0.2
    assert np.abs(off).max() < 0.45
