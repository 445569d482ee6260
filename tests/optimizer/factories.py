"""Small problems for the optimizer's tests."""

from __future__ import annotations

from typing import Any

from melange_sky.capacities import OptionCapacity
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
