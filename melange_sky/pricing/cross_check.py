"""Our prices against gpuhunt's: a second catalog, collected independently of SkyPilot's (extra `gpuhunt`).

gpuhunt fetches without timeouts, so it runs in a process of its own that is ended at a deadline.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, SourceUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from melange_sky.offers import Offer
    from melange_sky.pricing.query import OfferBook

DISAGREES_FRACTION = 0.15
"""Prices further apart than this fraction of gpuhunt's are reported."""

PROVIDERS = {
    "aws": "aws",
    "azure": "azure",
    "gcp": "gcp",
    "lambda": "lambdalabs",
    "nebius": "nebius",
    "oci": "oci",
    "runpod": "runpod",
    "verda": "verda",
}
"""SkyPilot's cloud → gpuhunt's provider with a hosted catalog that needs no credentials."""

_CHILD = """
import json, sys
import gpuhunt
catalog = gpuhunt.Catalog(balance_resources=False, auto_reload=False)
catalog.load()
for provider in sys.argv[1].split(","):
    if provider in catalog.catalog:
        for item in catalog.query(provider=provider, min_gpu_count=1):
            row = [item.provider, item.instance_name, item.location, item.gpu_count, item.price, item.spot]
            print(json.dumps(row))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondPrice:
    """One price of gpuhunt's, USD per hour of the instance; `region` is a region, never a zone."""

    cloud: str
    region: str
    instance_type: str
    count: float
    usd_per_hour: float
    spot: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """An offer whose price differs from gpuhunt's; `kind` is on_demand or spot."""

    offer: Offer
    kind: str
    ours_usd_per_hour: float
    theirs_usd_per_hour: float

    @property
    def difference_fraction(self) -> float:
        """Ours ÷ theirs − 1."""
        return self.ours_usd_per_hour / self.theirs_usd_per_hour - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceCheck:
    """How many prices a second catalog knows too, and those on which it disagrees."""

    compared: int
    disagreements: tuple[Disagreement, ...]
    book: OfferBook


def fetch_gpuhunt(clouds: Iterable[str], deadline_s: float) -> tuple[SecondPrice, ...]:
    """Return gpuhunt's prices of the clouds that it knows.

    Raises InputError where it is not installed, SourceUnavailableError where nothing came by the
    deadline.
    """
    if importlib.util.find_spec("gpuhunt") is None:
        raise InputError("gpuhunt is not installed: pip install 'melange-sky[gpuhunt]'")
    names = {PROVIDERS[cloud]: cloud for cloud in clouds if cloud in PROVIDERS}
    if not names:
        raise InputError(f"gpuhunt knows none of these clouds; it knows {', '.join(PROVIDERS)}")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, ",".join(names)],
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SourceUnavailableError(
            f"gpuhunt's catalogs did not load within {deadline_s:g} s"
        ) from None
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2][:200]
        raise SourceUnavailableError(f"gpuhunt's catalogs could not be loaded: {last}")
    return tuple(_second_price(json.loads(line), names) for line in done.stdout.splitlines())


def _second_price(row: list[object], names: dict[str, str]) -> SecondPrice:
    provider, instance, location, count, price, spot = row
    cloud, region = names[str(provider)], str(location)
    if cloud == "gcp":  # a zone such as us-central1-a
        region = region.rpartition("-")[0]
    return SecondPrice(
        cloud=cloud,
        region=region,
        instance_type=str(instance),
        count=float(str(count)),
        usd_per_hour=float(str(price)),
        spot=bool(spot),
    )


def compare_prices(
    offers: Sequence[Offer], second: Sequence[SecondPrice]
) -> tuple[int, tuple[Disagreement, ...]]:
    """Return how many prices both know, and those that disagree, the furthest apart first."""
    theirs: dict[tuple[str, str, str, float, bool], float] = {}
    for price in second:
        key = (price.cloud, price.region, price.instance_type, price.count, price.spot)
        theirs[key] = min(price.usd_per_hour, theirs.get(key, price.usd_per_hour))
    compared = 0
    found = []
    for offer in offers:
        for spot in (False, True):
            ours = offer.price(spot)
            key = (offer.cloud, offer.region, offer.instance_type, offer.accelerator_count, spot)
            other = theirs.get(key)
            if ours is None or other is None or other <= 0:
                continue
            compared += 1
            row = Disagreement(
                offer=offer,
                kind="spot" if spot else "on_demand",
                ours_usd_per_hour=ours,
                theirs_usd_per_hour=other,
            )
            if abs(row.difference_fraction) > DISAGREES_FRACTION:
                found.append(row)
    found.sort(key=lambda row: (-abs(row.difference_fraction), row.offer.instance_type, row.kind))
    return compared, tuple(found)
