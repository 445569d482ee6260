"""Paths of fleets against trying every path, and what start-up and minimum run times do to the advice."""

from __future__ import annotations

import random
from itertools import pairwise, product

import numpy as np
import pytest

from melange_sky.optimizer import Problem
from melange_sky.reserve.advise import advise
from melange_sky.reserve.chronology import cheapest_path
from melange_sky.reserve.question import Purchase
from tests.optimizer.factories import demand, option
from tests.reserve.factories import case, random_case


@pytest.mark.parametrize("least", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_equals_trying_every_path(seed: int, least: int) -> None:
    rng = np.random.default_rng(seed)
    fleets = np.vstack((np.zeros((1, 2)), rng.integers(0, 3, (3, 2)).astype(float)))
    fleets = np.unique(fleets, axis=0)
    costs = fleets @ np.array([1.0, 1.7]) + np.zeros((5, 1))
    costs[rng.random(costs.shape) < 0.25] = np.inf
    costs[:, -1] = np.where(np.isinf(costs).all(axis=1), 5.0, costs[:, -1])
    start = np.maximum(fleets[None] - fleets[:, None], 0.0) @ np.array([0.4, 0.9])
    path = cheapest_path(fleets, costs, lambda _: start, least)
    best = min(
        (_cost(way, fleets, costs, start, least) for way in product(range(len(fleets)), repeat=5)),
    )
    assert path.cost_usd == pytest.approx(best)
    told = _cost(tuple(path.places.tolist()), fleets, costs, start, least)
    assert told == pytest.approx(best) or np.isinf(best)


def _cost(
    way: tuple[int, ...], fleets: np.ndarray, costs: np.ndarray, start: np.ndarray, least: int
) -> float:
    total, since = 0.0, least
    for t, (before, now) in enumerate(pairwise((0, *way))):
        if (fleets[now] < fleets[before]).any() and since < least:
            return np.inf
        since = 1 if (fleets[now] > fleets[before]).any() else since + 1
        total += costs[t, now] + start[before, now]
    return total


@pytest.mark.parametrize("seed", range(6))
def test_they_cost_more_than_free_switching(seed: int) -> None:
    made = random_case(random.Random(seed), options=2, periods=6)
    free = advise(made.question)
    slow = advise(made.asking(startup_hours=0.3, min_run_hours=2.0).question)
    for calm, bound in zip(slow.scenarios, free.scenarios, strict=True):
        assert calm.nothing_usd >= bound.nothing_usd * (1 - 1e-9)
    assert slow.totals.chosen_usd >= slow.totals.free_switch_usd * (1 - 1e-9)
    assert slow.objective_usd >= free.objective_usd * (1 - 1e-9)
    assert slow.bound_objective_usd <= slow.objective_usd
    assert free.totals.free_switch_usd == free.totals.chosen_usd


def test_a_start_is_billed_and_a_short_pause_is_run_through() -> None:
    problem = Problem(demands=(demand([[1.0]], option("a", 1.0, [[1.0]])),))
    rates = [1.0, 1.0, 0.0, 1.0, 1.0]
    quick = advise(case([problem], [rates], startup_hours=0.5).question)
    assert quick.totals.chosen_usd == pytest.approx(4 + 2 * 0.5)
    slow = advise(case([problem], [rates], startup_hours=1.5).question)
    assert slow.totals.chosen_usd == pytest.approx(5 + 1.5)
    assert slow.fleets[:, 0].tolist() == [1, 1, 1, 1, 1]
    held = Purchase(name="a", usd=2.0, draws={0: 1.0}, most=1)
    bought = advise(case([problem], [rates], startup_hours=1.5, purchases=(held,)).question)
    assert bought.totals.chosen_usd == pytest.approx(2.0)
    short = advise(case([problem], [[1.0, 0.0, 0.0, 0.0]], min_run_hours=3.0).question)
    assert short.fleets[:, 0].tolist() == [1, 1, 1, 0]
    assert short.totals.chosen_usd == pytest.approx(3.0)
