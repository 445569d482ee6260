"""The covering program, with steps and pools of a tariff, against trying all."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from melange_sky.optimizer.deadline import NEVER
from melange_sky.reserve.covering import Covering
from melange_sky.reserve.tariff import SURE, Pool, Step, Tariff


def random_tariff(rng: np.random.Generator, options: int) -> Tariff:
    """Owned and bought instances, some at prices between, and maybe a spend commitment over all options in tiers."""
    full = rng.uniform(0.5, 2, options)
    # Beside a pool a step at a price of its own is used before it, which a bound need not believe.
    with_pool = rng.random() < 0.6
    prices = [0.0, 1.0] if with_pool else [0.0, 0.3, 0.5, 1.0]
    steps = [
        Step(
            purchase=k,
            option=k,
            width=float(rng.integers(1, 3)),
            price=float(full[k] * rng.choice(prices)),
            level=level,
        )
        for k in range(options)
        for level in range(3)
        if rng.random() < 0.5
    ]
    steps.sort(key=lambda step: step.price)
    pools = []
    if with_pool:
        tiers = [(0.0, float(rng.choice([0.1, 0.7])), SURE)]
        tiers += [(float(rng.uniform(0, 1.4)), float(rng.choice([0.4, 1.5])), n) for n in range(3)]
        draws = full * rng.uniform(0.4, 0.9, options)
        pools.append(Pool.of(options, draws, full, tiers))
    free = rng.integers(0, 2, options).astype(float)
    return Tariff(free=free, full=full, steps=tuple(steps), pools=tuple(pools))


@pytest.mark.parametrize("seed", range(60))
def test_equals_trying_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    options, rows = 3, int(rng.integers(1, 5))
    worths = rng.uniform(0, 1, (rows, options)) * (rng.random((rows, options)) < 0.8)
    leasts = rng.uniform(0.2, 2, rows)
    covering = Covering(worths=worths / leasts[:, None], most=np.full(options, 17.0))
    tariff = random_tariff(rng, options)
    fleets = np.array(list(product(*(range(18) for _ in range(options)))), dtype=float)
    able = (fleets @ worths.T >= leasts).all(axis=1)
    found = covering.cheapest(tariff, np.inf, NEVER)
    if not able.any():
        assert found is None
        return
    least = float(_cost(tariff, fleets[able]).min())
    assert found is not None
    assert found.bound <= found.cost + 1e-9
    assert found.bound == pytest.approx(least, abs=1e-9)
    assert float(_cost(tariff, found.fleet[None])[0]) == pytest.approx(least, abs=1e-9)
    assert (worths @ found.fleet >= leasts - 1e-9).all()
    if least > 0:
        assert covering.cheapest(tariff, least * (1 - 1e-9), NEVER) is None


def _cost(tariff: Tariff, fleets: np.ndarray) -> np.ndarray:
    """The least over how many of the steps' instances are used, those that a pool covers left to it."""
    paid = [n for n, step in enumerate(tariff.steps) if step.price > 0]
    choices = [range(int(tariff.steps[n].width) + 1) for n in paid]
    costs = []
    for used in product(*choices):
        rest, cost = np.maximum(fleets - tariff.free, 0.0), np.zeros(len(fleets))
        counts = dict(zip(paid, used, strict=True))
        for n, step in enumerate(tariff.steps):
            taken = np.minimum(rest[:, step.option], counts.get(n, step.width))
            cost += step.price * taken
            rest[:, step.option] -= taken
        for pool in tariff.pools:
            cost += pool.cover(rest)[0] @ pool.prices
        costs.append(cost + rest @ tariff.full)
    least: np.ndarray = np.min(costs, axis=0)
    return least


@pytest.mark.parametrize("seed", range(30))
def test_lines_lie_below_the_cost_and_meet_it_where_they_were_made(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    full = rng.uniform(0.5, 2, 3)
    tiers = [(float(rng.uniform(0, 2)), float(rng.uniform(0.2, 2)), n) for n in range(4)]
    pool = Pool.of(0, full * rng.uniform(0.4, 0.9, 3), full, tiers)
    tariff = Tariff(free=np.zeros(3), full=full, pools=(pool,))
    fleets = np.array(list(product(range(5), repeat=3)), dtype=float)
    costs = tariff.cost(fleets)
    for fleet, margins, cost in zip(fleets, tariff.bill(fleets).margins, costs, strict=True):
        constant, price = tariff.cut(margins)
        assert constant + fleet @ price == pytest.approx(cost, abs=1e-9)
        assert (constant + fleets @ price <= costs + 1e-9).all()
