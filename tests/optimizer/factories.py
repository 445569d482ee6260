"""Small problems for the optimizer's tests."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from melange_sky.capacities import CapacityCell, OptionCapacity, levels_above, levels_below
from melange_sky.names.limits import LimitKey, LimitKind
from melange_sky.optimizer import Demand, Problem
from tests.factories import make_capacity, make_offer, make_option, make_workload


def option(name: str, price: float, rates: list[list[float | None]], **over: Any) -> OptionCapacity:
    """One option called `name`, of accelerator `name` unless told otherwise, without an offer."""
    values: dict[str, Any] = {
        "accelerator": name,
        "accelerator_count": 1,
        "price_usd_per_hour": price,
        "offer": None,
        "engine": None,
    }
    return make_capacity(rates, make_option(name, **(values | over)))


def placed(
    name: str, price: float, rates: list[list[float | None]], place: str, **over: Any
) -> OptionCapacity:
    """One option on ``cloud/region``."""
    cloud, _, region = place.partition("/")
    offer = make_offer(
        cloud=cloud,
        region=region,
        instance_type=over.pop("instance_type", f"{name}-type"),
        accelerator=over.get("accelerator", name),
        accelerator_count=over.get("accelerator_count", 1),
        price_usd_per_hour=price,
        spot_usd_per_hour=price if over.get("use_spot") else None,
    )
    return option(name, price, rates, offer=offer, **over)


def with_levels(problem: Problem, rng: random.Random) -> Problem:
    """The problem with a target over all requests, and options that may serve sizes late."""
    return replace(problem, demands=tuple(_levelled(d, rng) for d in problem.demands))


def _levelled(one: Demand, rng: random.Random) -> Demand:
    target = rng.choice([0.4, 0.6, 0.8, 0.95])

    def cell(old: CapacityCell) -> CapacityCell:
        rate = old.max_rate_rps
        kind = rng.random()
        if rate is None or kind < 0.2:
            best = rate or round(rng.uniform(0.7, 6.0), 2)
            levels = ((0.0, best),) if rng.random() < 0.8 else ()
            return CapacityCell(max_rate_rps=None, reason="late even alone", levels=levels)
        above = levels_above(target)
        if kind > 0.6:  # far from its limits
            factors = (0.97, 0.9)
            return replace(
                old, levels=tuple((a, rate * f) for a, f in zip(above, factors, strict=True))
            )
        own = rate * rng.uniform(0.2, 0.5)
        at = [own * rng.uniform(0.5, 0.9), own * rng.uniform(0.1, 0.5)]
        half = rate * rng.uniform(0.6, 1.0)
        late = zip(levels_below(target), (half * rng.uniform(0.9, 2.0), half), strict=True)
        levels = (*zip(above, at, strict=True), *late)
        return replace(old, max_rate_rps=own, low_rps=own * 0.7, high_rps=own * 1.3, levels=levels)

    options = tuple(
        replace(o, cells=tuple(tuple(map(cell, row)) for row in o.cells)) for o in one.options
    )
    rates = [list(row) for row in one.workload.rates_rps]
    rates[0][rng.randrange(len(rates[0]))] *= rng.choice([0.01, 0.1, 1.0])
    workload = replace(one.workload, rates_rps=tuple(map(tuple, rates)))
    return replace(one, options=options, workload=workload, target=target)


def demand(rates: list[list[float]], *options: OptionCapacity, name: str = "chat") -> Demand:
    """One model with these rates per bucket."""
    return Demand(name=name, workload=make_workload(rates), options=options)


def at_most(*limits: tuple[str, int]) -> tuple[tuple[LimitKey, int], ...]:
    """Limits by name; a name of one letter is the free label of an accelerator."""
    return tuple(
        (
            LimitKey(kind=LimitKind.ACCELERATOR, name=name)
            if len(name) == 1
            else LimitKey.of(name),
            most,
        )
        for name, most in limits
    )


def shipped_config(rate_rps: float = 30.0) -> Problem:
    """The config that Mélange ships (github.com/tyler-griggs/melange-release, d46ab43)."""
    weights = [[0.2, 0.1], [0.5, 0.2]]
    return Problem(
        demands=(
            demand(
                [[weight * rate_rps for weight in row] for row in weights],
                option("A10G", 1.01, [[2, 1], [5, 2]]),
                option("A100-80GB", 3.67, [[20, 20], [40, 20]]),
            ),
        )
    )
