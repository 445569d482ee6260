"""Options that are left out before the search: never one that a cheapest fleet or purchase needs."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.capacities import CapacityCell, DeploymentOption, OptionCapacity
from melange_sky.commitments import Owned
from melange_sky.offers import Offer
from melange_sky.optimizer import Demand, Problem
from melange_sky.planner.reserving.material import Mix
from melange_sky.planner.reserving.survivors import HourPrices, survivors
from melange_sky.workload import Workload

WORKLOAD = Workload(
    input_edges=(0, 10),
    output_edges=(0, 10, 20),
    rates_rps=((1.0, 1.0),),
    input_sizes=((5.0, 5.0),),
    output_sizes=((5.0, 15.0),),
)


def option(name: str, price: float, rates: tuple[float, float]) -> OptionCapacity:
    offer = Offer(
        cloud="aws",
        region="r",
        instance_type=name,
        accelerator="L4",
        accelerator_count=1,
        price_usd_per_hour=price,
        spot_usd_per_hour=None,
        source="test",
        as_of=None,
    )
    return OptionCapacity(
        option=DeploymentOption(
            name=name,
            accelerator="L4",
            accelerator_count=1,
            price_usd_per_hour=price,
            offer=offer,
        ),
        cells=(
            tuple(
                CapacityCell.estimated(rate) if rate else CapacityCell.unserved("too slow")
                for rate in rates
            ),
        ),
    )


def mix_of(options: list[OptionCapacity]) -> Mix:
    prepared: Any = SimpleNamespace()
    problem = Problem(demands=(Demand(name="m", workload=WORKLOAD, options=tuple(options)),))
    return Mix(label="", workload=WORKLOAD, prepared=prepared, problem=problem)


def priced(*rented: float, term: float = np.inf) -> HourPrices:
    return HourPrices(rented=np.array(rented), committed=term)


def left(mixes: list[Mix], prices: dict[str, HourPrices], *owned: Owned) -> list[str]:
    kept = survivors(mixes, prices, owned)
    return [c.option.name for c in kept[0].options]


def cost(options: list[OptionCapacity], rate: float, paid: dict[str, float]) -> float:
    """Return the least cost of whole instances that serve a rate, its buckets split at will (2 buckets)."""
    if not options:
        return float(np.inf)
    need = rate / 2
    found = []
    for counts in itertools.product(range(8), repeat=len(options)):
        loads = np.array([[c.cells[0][j].max_rate_rps or 0.0 for j in range(2)] for c in options])
        if _serves(loads, np.array(counts), need):
            found.append(sum(n * paid[c.option.name] for n, c in zip(counts, options, strict=True)))
    return min(found, default=np.inf)


def _serves(rates: Any, counts: Any, need: float) -> bool:
    """Return whether instances serve `need` of both buckets: of two buckets, by comparative advantage."""
    ratio = np.where(rates[:, 1] > 0, rates[:, 0] / np.maximum(rates[:, 1], 1e-12), np.inf)
    missing = need
    time = counts.astype(float)
    for k in np.argsort(-ratio, kind="stable"):
        if rates[k, 0] > 0:
            used = min(time[k], missing / rates[k, 0])
            missing -= used * rates[k, 0]
            time[k] -= used
    return missing <= 1e-9 and float(time @ rates[:, 1]) >= need - 1e-9


RATE = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0])
PRICE = st.sampled_from([0.5, 1.0, 2.0, 3.0])


@settings(max_examples=40, deadline=None)
@given(
    table=st.lists(st.tuples(PRICE, RATE, RATE), min_size=2, max_size=3),
    rate=st.sampled_from([0.7, 1.5, 2.6]),
    committed=st.integers(0, 3),
    discount=st.sampled_from([0.4, 0.8, 1.0]),
)
def test_no_hour_becomes_dearer_whatever_is_paid_for_the_committed_option(
    table: list[tuple[float, float, float]], rate: float, committed: int, discount: float
) -> None:
    options = [option(f"o{k}", price, (a, b)) for k, (price, a, b) in enumerate(table)]
    name = f"o{committed % len(options)}"
    rented = {c.option.name: c.option.price_usd_per_hour for c in options}
    paid = {**rented, name: rented[name] * discount}
    prices = {n: priced(rented[n], term=paid[n]) for n in rented}
    kept = set(left([mix_of(options)], prices))
    some = [c for c in options if c.option.name in kept]
    assert cost(some, rate, paid) <= cost(options, rate, paid) + 1e-9
    assert cost(some, rate, rented) <= cost(options, rate, rented) + 1e-9


def test_many_small_ones_replace_a_large_one_of_the_same_price_but_not_a_cheaper_term() -> None:
    small, large = option("small", 1.0, (1.0, 1.0)), option("large", 4.0, (4.0, 4.0))
    mixes = [mix_of([small, large])]
    assert left(mixes, {"small": priced(1.0), "large": priced(4.0)}) == ["small"]
    assert left(mixes, {"small": priced(1.0), "large": priced(4.0, term=2.4)}) == ["small", "large"]
    # where every price falls alike they still do, where theirs rises alone they do not
    assert left(mixes, {"small": priced(1.0, 0.8), "large": priced(4.0, 3.2)}) == ["small"]
    assert left(mixes, {"small": priced(1.0, 1.5), "large": priced(4.0, 4.0)}) == ["small", "large"]


def test_what_is_owned_stays_in_its_best_split_alone() -> None:
    one, other = option("t", 9.0, (1.0, 1.0)), option("u", 0.1, (5.0, 5.0))
    split = OptionCapacity(
        option=DeploymentOption(
            name="t-tp2",
            accelerator="L4",
            accelerator_count=1,
            price_usd_per_hour=9.0,
            offer=one.option.offer,
        ),
        cells=((CapacityCell.estimated(1.5), CapacityCell.estimated(1.0)),),
    )
    own = Owned(cloud="aws", region="", instance_type="t", count=1)
    prices = {"t": priced(9.0), "t-tp2": priced(9.0), "u": priced(0.1)}
    assert left([mix_of([one, split, other])], prices, own) == ["t-tp2", "u"]
    assert left([mix_of([one, split, other])], prices) == ["u"]
