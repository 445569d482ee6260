"""What a program is pruned by: rates as arrays, and the bound of every fleet's cost."""

from __future__ import annotations

import numpy as np
import pytest

from melange_sky.capacities import CapacityCell, DeploymentOption, OptionCapacity
from melange_sky.optimizer.search.column_bounds import _best_price


def test_rates_are_those_of_the_cells() -> None:
    above, almost = 0.96, 0.96 + 1e-12  # the same level, written and read back
    cells = (
        (
            CapacityCell(max_rate_rps=4.0, levels=((above, 3.0),)),
            CapacityCell(max_rate_rps=2.0, levels=((0.0, 5.0), (almost, 1.5))),
        ),
        (CapacityCell(max_rate_rps=None), CapacityCell(max_rate_rps=None, levels=((0.0, 1.0),))),
    )
    option = DeploymentOption(name="a", accelerator="A", accelerator_count=1, price_usd_per_hour=1)
    capacity = OptionCapacity(option=option, cells=cells)
    for level in (None, above, almost, 0.0, 0.5):
        asked = [
            [cell.max_rate_rps if level is None else cell.at(level) for cell in row]
            for row in cells
        ]
        np.testing.assert_array_equal(capacity.rates(level), np.array(asked, dtype=float))
    largest = [[cell.largest_rps for cell in row] for row in cells]
    np.testing.assert_array_equal(capacity.largest_rates(), np.array(largest, dtype=float))


@pytest.mark.parametrize("seed", range(20))
def test_no_price_of_a_miss_gives_a_higher_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ways, buckets = 3, int(rng.integers(1, 12))
    least = rng.uniform(0.1, 10.0, (ways, buckets))
    least[rng.random((ways, buckets)) < 0.2] = np.inf
    least[0, np.isinf(least).all(axis=0)] = 1.0
    missed = np.array([[0.0], [1.0], [0.5]]) * rng.uniform(0.1, 5.0, buckets)
    in_vain = np.where(np.isfinite(least), missed, np.inf).min(axis=0).sum()
    allowed = in_vain + float(rng.uniform(0.0, 0.5)) * missed[1].sum()

    def bound(price: float) -> float:
        return float((least + price * missed).min(axis=0).sum()) - price * allowed

    best = bound(_best_price(least, missed, allowed))
    assert all(bound(price) <= best + 1e-9 for price in np.linspace(0.0, 200.0, 2001))
