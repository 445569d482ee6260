"""What a price API's rows come to: machines by name, prices by region, offers at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from melange_sky.offers import FlagScope, Offer
from melange_sky.pricing.sanity import check_offers, make_flag


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What an instance type is: accelerator by SkyPilot's name, GPUs, vCPUs and memory (None: unknown)."""

    accelerator: str
    count: float
    vcpus: float | None = None
    memory_gib: float | None = None
    catalog_accelerator: str | None = None


@dataclass(slots=True)
class _Prices:
    on_demand: float | None = None
    spot: float | None = None
    bad: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class PriceAccumulator:
    """Collects prices in USD per hour of the instance; the lowest of several for one thing stays."""

    cloud: str
    machines: dict[str, Machine] = field(default_factory=dict)
    _rows: dict[tuple[str, str], _Prices] = field(default_factory=dict)

    def price(self, region: str, instance_type: str, usd_per_hour: float, *, spot: bool) -> None:
        """Take one price in. Zero and negative ones are flagged, not used."""
        row = self._rows.setdefault((region, instance_type), _Prices())
        if not usd_per_hour > 0:
            row.bad.append("spot" if spot else "on_demand")
        elif spot:
            row.spot = usd_per_hour if row.spot is None else min(row.spot, usd_per_hour)
        else:
            old = row.on_demand
            row.on_demand = usd_per_hour if old is None else min(old, usd_per_hour)

    def on_demand(self) -> dict[tuple[str, str], float]:
        """Return what each (region, instance type) costs on demand, as far as it has a price."""
        return {key: row.on_demand for key, row in self._rows.items() if row.on_demand is not None}

    def offers(self) -> tuple[Offer, ...]:
        """Return the checked offers of every machine with a price."""
        offers = []
        for (region, name), row in sorted(self._rows.items()):
            machine = self.machines[name]
            flags = []
            if row.on_demand is None:
                zero = "on_demand" in row.bad
                code = "price-zero" if zero else "price-missing"
                message = "the on-demand price is not above zero" if zero else "not sold on demand"
                flags.append(make_flag(code, FlagScope.ON_DEMAND, message))
            if row.spot is None and "spot" in row.bad:
                message = "the spot price is not above zero"
                flags.append(make_flag("price-zero", FlagScope.SPOT, message))
            offers.append(
                Offer(
                    cloud=self.cloud,
                    region=region,
                    instance_type=name,
                    accelerator=machine.accelerator,
                    accelerator_count=machine.count,
                    price_usd_per_hour=row.on_demand,
                    spot_usd_per_hour=row.spot,
                    source="",
                    as_of=None,
                    vcpus=machine.vcpus,
                    memory_gib=machine.memory_gib,
                    flags=tuple(flags),
                    catalog_accelerator=machine.catalog_accelerator,
                )
            )
        return check_offers(offers)


def number(value: object) -> float | None:
    """Return a finite JSON number as a float, None for anything else (a bool is no number).

    >>> number(2), number(True), number(float("inf")), number(10**400)
    (2.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond the floats
        return None


def text(value: object) -> str:
    """Return a JSON string, empty for anything else."""
    return value if isinstance(value, str) else ""
