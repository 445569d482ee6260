"""A box's units in levels, and what reduced costs take off a box, against trying every purchase."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from melange_sky.reserve.levels import Levels
from melange_sky.reserve.market import Box


def random_levels(rng: np.random.Generator) -> Levels:
    """Three purchases of up to five units, cut at random."""
    low = rng.integers(0, 3, 3).astype(float)
    box = Box(low=low, high=low + rng.integers(0, 4, 3))
    return Levels.of(box, [set(rng.integers(0, 6, 2).astype(float).tolist()) for _ in range(3)])


@pytest.mark.parametrize("seed", range(20))
def test_levels_make_up_the_box(seed: int) -> None:
    levels = random_levels(np.random.default_rng(seed))
    assert levels.units(levels.width) == pytest.approx(levels.box.high)
    assert levels.units(np.zeros(len(levels.width))) == pytest.approx(levels.box.low)
    ends = levels.start + levels.width
    for k in range(3):
        here = np.flatnonzero(levels.purchase == k)
        assert (levels.start[here][1:] == ends[here][:-1]).all()


@pytest.mark.parametrize("seed", range(40))
def test_no_purchase_that_there_is_room_for_is_left_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = random_levels(rng)
    reduced, room = rng.normal(0, 1, len(levels.width)), float(rng.uniform(0, 3))
    kept = levels.without(reduced, room)
    least = float(np.minimum(reduced, 0.0) @ levels.width)
    parts = [np.arange(width + 1) for width in levels.width]
    for bought in product(*parts):
        units = levels.units(np.array(bought, dtype=float))
        if float(reduced @ np.array(bought)) - least <= room:
            assert ((kept.low <= units) & (units <= kept.high)).all()
    assert (kept.low >= levels.box.low).all()
    assert (kept.high <= levels.box.high).all()
