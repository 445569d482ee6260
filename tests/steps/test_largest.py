"""The largest step at which a rising function is not above 0: by the line search and by plain halving."""

from __future__ import annotations

import numpy as np
import pytest

from melange_sky.steps.largest import PARTS, largest_within


def by_halving(excess, high):
    low, top = np.zeros_like(high), high
    for _ in range(int(np.log2(PARTS))):
        middle = (low + top) / 2
        good = excess(middle) <= 0
        low, top = np.where(good, middle, low), np.where(good, top, middle)
    return low


SHAPES = {
    "line": lambda x, root: (x - root) / (x + root),
    "power": lambda x, root: np.tanh((x / root) ** 5 - 1),
    "flat, then steep": lambda x, root: np.where(x < root, -1e-9, np.minimum(1.0, (x - root) * 50)),
    "a step": lambda x, root: np.where(x <= root, -0.3, 0.9),
    "a corner": lambda x, root: np.maximum((x - root) / 900, np.tanh(x - root)),
    "a queue": lambda x, root: (lambda w: (w - 1) / (w + 1))(
        0.5 / np.maximum(1 - x / (2 * root), 1e-9)
    ),
}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_it_finds_what_halving_finds_in_few_rounds(name: str) -> None:
    rng = np.random.default_rng(3)
    high = rng.uniform(0.5, 900, (40, 50))
    root = high * np.exp(rng.uniform(-9, 0.3, high.shape))
    rounds = 0

    def excess(x):
        nonlocal rounds
        rounds += 1
        return SHAPES[name](x, root)

    found = largest_within(excess, high)
    np.testing.assert_allclose(found, by_halving(lambda x: SHAPES[name](x, root), high), rtol=1e-14)
    assert rounds <= (30 if name in {"line", "power", "a queue"} else 66), rounds


def test_where_nothing_is_good_it_is_0_and_where_all_is_the_last_step() -> None:
    high = np.array([4.0, 4.0, 0.0])
    found = largest_within(lambda x: np.array([1.0, -1.0, -1.0]) + 0 * x, high)
    assert found.tolist() == [0.0, 4.0 - 4.0 / PARTS, 0.0]


def test_what_is_no_number_is_not_good() -> None:
    high = np.array([8.0])
    found = largest_within(lambda x: np.where(x > 3, np.nan, -1.0), high)
    assert 0 <= found[0] <= 3


def test_rows_that_are_found_are_looked_at_no_more_and_change_nothing() -> None:
    rng = np.random.default_rng(4)
    high = rng.uniform(0.5, 900, (40, 50))
    root = high * np.exp(rng.uniform(-9, 0.3, high.shape))
    root[:30] = root[:30, :1]  # rows whose elements are all alike are found early
    high[:30] = high[:30, :1]
    seen: list[int] = []

    def excess_of(rows):
        def excess(x):
            seen.append(len(rows))
            return SHAPES["power"](x, root[rows])

        return excess

    every = np.arange(len(high))
    whole = largest_within(excess_of(every), high)
    looked_at = sum(seen)
    seen.clear()
    found = largest_within(excess_of(every), high, excess_of)
    assert found.tolist() == whole.tolist()
    assert sum(seen) < looked_at
