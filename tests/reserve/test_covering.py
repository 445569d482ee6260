"""The covering program, with steps and pools of a tariff, against trying all."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from melange_sky.optimizer.deadline import NEVER
from melange_sky.reserve.covering import Covering
from melange_sky.reserve.tariff import Pool, Step, Tariff


def random_tariff(rng: np.random.Generator, options: int) -> Tariff:
    """Owned and bought instances, some at a price between, and maybe a spend commitment over all options."""
    full = rng.uniform(0.5, 2, options)
    # Beside a pool a step at a price of its own is used before it, which a bound need not believe.
    with_pool = rng.random() < 0.6
    prices = [0.0, 1.0] if with_pool else [0.0, 0.5, 1.0]
    steps = [
        Step(
            purchase=k,
            option=k,
            low=float(rng.integers(0, 2)),
            width=float(rng.integers(0, 3)),
            price=float(full[k] * rng.choice(prices)),
        )
        for k in range(options)
        if rng.random() < 0.6
    ]
    steps.sort(key=lambda step: step.price)
    pools = []
    if with_pool:
        low = float(rng.choice([0.0, 0.7]))
        box = (low, low + float(rng.choice([0.0, 1.5])))
        draws = full * rng.uniform(0.4, 0.9, options)
        pools.append(Pool.of(options, draws, full, box, float(rng.choice([0.0, 0.6, 1.2]))))
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
    choices = [range(int(step.width) + 1) for step in tariff.steps]
    costs = []
    for used in product(*choices):
        rest, cost = np.maximum(fleets - tariff.free, 0.0), np.zeros(len(fleets))
        for step, most in zip(tariff.steps, used, strict=True):
            taken = np.minimum(rest[:, step.option], step.low + most)
            cost += step.price * np.maximum(taken - step.low, 0.0)
            rest[:, step.option] -= taken
        for pool in tariff.pools:
            drawn, _ = pool.cover(rest)
            cost += pool.price * np.maximum(drawn - pool.low, 0.0)
        costs.append(cost + rest @ tariff.full)
    least: np.ndarray = np.min(costs, axis=0)
    return least
