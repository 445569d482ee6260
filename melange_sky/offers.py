"""Priced instances that a cloud sells. Prices are USD per hour of the whole instance."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from melange_sky.names.accelerators import VARIANTS

_AZURE_NVL = ("Standard_NC40ads_H100", "Standard_NC80adis_H100", "Standard_NCC40ads_H100")


class Severity(str, Enum):
    """What a flag does: a blocked price stays visible but out of plans; a warning only tells."""

    BLOCK = "block"
    WARN = "warn"


class FlagScope(str, Enum):
    """What a flag speaks of."""

    ON_DEMAND = "on_demand"
    SPOT = "spot"
    ROW = "row"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Flag:
    """One sanity rule that an offer broke: its code, what it touches, and a sentence for people."""

    code: str
    severity: Severity
    touches: FlagScope
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One instance type in one region, as sold.

    `accelerator` is SkyPilot's canonical name, `accelerator_count` GPUs per instance (may be
    fractional), `price_usd_per_hour` on demand and `spot_usd_per_hour` spot, both for the whole
    instance and None where unknown or not sold. `source` names where the price was read and `as_of`
    (ISO 8601) when it was true as far as known. `catalog_accelerator` is the spelling in the cloud's
    own catalog where it differs (what `sky` matches there). An unreadable count is NaN, and blocked.
    `is_own` says that the user stated it.
    """

    cloud: str
    region: str
    instance_type: str
    accelerator: str
    accelerator_count: float
    price_usd_per_hour: float | None
    spot_usd_per_hour: float | None
    source: str
    as_of: str | None
    vcpus: float | None = None
    memory_gib: float | None = None
    flags: tuple[Flag, ...] = ()
    catalog_accelerator: str | None = None
    is_own: bool = False

    def blocked(self, use_spot: bool) -> tuple[Flag, ...]:
        """Return the flags that keep this offer's price (spot or on demand) out of a plan."""
        touches = {FlagScope.ROW, FlagScope.SPOT if use_spot else FlagScope.ON_DEMAND}
        return tuple(f for f in self.flags if f.severity is Severity.BLOCK and f.touches in touches)

    def price(self, use_spot: bool) -> float | None:
        """Return the price paid per hour, None where not sold that way."""
        return self.spot_usd_per_hour if use_spot else self.price_usd_per_hour


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedNodes:
    """Nodes of one instance type in one zone that reservations hold and nobody used at `as_of` (ISO 8601).

    `names` are the reservations, as the cloud calls them: they are paid for whether used or not.
    """

    cloud: str
    region: str
    zone: str
    instance_type: str
    nodes: int
    names: tuple[str, ...]
    as_of: str

    @property
    def place(self) -> str:
        """SkyPilot's infra of the zone."""
        return f"{self.cloud}/{self.region}/{self.zone}"

    def label(self) -> str:
        """Return the nodes in words, such as ``2 x g5.xlarge in aws/us-east-1/us-east-1a (cr-1)``."""
        return f"{self.nodes} x {self.instance_type} in {self.place} ({', '.join(self.names)})"


OFFER_COLUMNS = (
    "cloud",
    "region",
    "instance_type",
    "accelerator",
    "accelerator_count",
    "price_usd_per_hour",
)
"""Columns that a table of one's own offers needs."""

MORE_OFFER_COLUMNS = ("spot_usd_per_hour", "vcpus", "memory_gib", "source", "as_of")
"""Columns that it may have besides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnOffers:
    """Offers that the user states: a CSV `file`, or one `row` as (column, text) pairs with its place.

    `where` is what messages call it: the spec's file, line and key.
    """

    where: str
    file: Path | None = None
    row: tuple[tuple[str, str], ...] = ()


def gpu_of(offer: Offer) -> str:
    """Return the accelerator whose figures (`accelerators.csv`) an offer's very GPU has.

    SkyPilot's "H100" is SXM, PCIe or NVL; the instance type tells (Azure's NC H100 v5 is the NVL of
    94 GB, Lambda and RunPod name theirs).
    """
    if offer.accelerator != "H100":
        return VARIANTS.get(offer.accelerator, offer.accelerator)
    if offer.cloud == "azure" and offer.instance_type.startswith(_AZURE_NVL):
        return "H100-NVL"
    if "pcie" in offer.instance_type.casefold() or offer.cloud == "runpod":
        return "H100-PCIe"
    return "H100"


def accelerator_spec_text(name: str, count: float) -> str:
    """Return SkyPilot's ``name:count``.

    >>> accelerator_spec_text("A100-80GB", 2), accelerator_spec_text("L4", 0.25)
    ('A100-80GB:2', 'L4:0.25')
    """
    return f"{name}:{count:g}"


def parse_accelerator(text: str) -> tuple[str, float | None]:
    """Split ``name`` or ``name:count``; the count is None for a bare name.

    Raises ValueError where the count is not a positive number.

    >>> parse_accelerator("A100-80GB:2"), parse_accelerator("L4")
    (('A100-80GB', 2.0), ('L4', None))
    """
    name, colon, count = text.partition(":")
    if not name or (colon and not count):
        raise ValueError(f"'{text}' is not NAME or NAME:COUNT")
    if not colon:
        return name, None
    number = float(count)
    if not 0 < number < 1024:
        raise ValueError(f"the count of '{text}' must be a number between 0 and 1024")
    return name, number
