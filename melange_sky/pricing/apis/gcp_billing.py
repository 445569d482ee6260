"""GCP's Cloud Billing Catalog: needs a free API key (GOOGLE_API_KEY or MELANGE_SKY_GCP_API_KEY).

A machine's price is the sum of its parts: vCPUs, GiB of memory and GPUs, each a SKU by region and
usage type. https://cloud.google.com/billing/docs/reference/rest/v1/services.skus/list (read 2026).
Prices for a defined duration (DWS) and reserved parts are other ways to buy and are left out.

Committed use: a resource commitment is the sum of the same parts ("Commitment v1: A2 Cpu in Americas for 1 Year";
the GPUs of one must be tied to a reservation). Flexible commitments cover no GPU and no machine made for them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from melange_sky.commitments import Commitment
from melange_sky.errors import SourceUnavailableError
from melange_sky.pricing.apis import Listing
from melange_sky.pricing.apis.accumulator import Machine, PriceAccumulator, text
from melange_sky.pricing.commitments.sheet import TermPart, TermSheet
from melange_sky.pricing.http_errors import FetchError
from melange_sky.settings import api_url, gcp_api_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.pricing.fetch import Http

MOST_PAGES = 60
COMPUTE_ENGINE = "6F81-5844-456A"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """A machine family: its series and how the SKU descriptions of its GPU begin, in lower case."""

    series: str
    gpu: str
    accelerator: str

    def parts(self, committed: bool) -> tuple[str, str, str]:
        """How the descriptions of its vCPUs, memory and GPUs begin, in lower case."""
        core, memory = ("cpu", "ram") if committed else ("instance core", "instance ram")
        return f"{self.series} {core}", f"{self.series} {memory}", self.gpu


FAMILIES: dict[str, _Family] = {
    "g2": _Family(series="g2", gpu="nvidia l4 gpu", accelerator="L4"),
    "a2-highgpu": _Family(series="a2", gpu="nvidia tesla a100 gpu", accelerator="A100"),
    "a2-ultragpu": _Family(series="a2", gpu="nvidia tesla a100 80gb gpu", accelerator="A100-80GB"),
    "a3-highgpu": _Family(series="a3", gpu="nvidia h100 80gb gpu", accelerator="H100"),
}

SHAPES: dict[str, tuple[str, float, float, int]] = {
    **{
        f"g2-standard-{v}": ("g2", v, v * 4.0, g)
        for v, g in ((4, 1), (8, 1), (12, 1), (16, 1), (32, 1), (24, 2), (48, 4), (96, 8))
    },
    **{f"a2-highgpu-{g}g": ("a2-highgpu", 12.0 * g, 85.0 * g, g) for g in (1, 2, 4, 8)},
    "a2-megagpu-16g": ("a2-highgpu", 96.0, 1360.0, 16),
    **{f"a2-ultragpu-{g}g": ("a2-ultragpu", 12.0 * g, 170.0 * g, g) for g in (1, 2, 4, 8)},
    **{f"a3-highgpu-{g}g": ("a3-highgpu", 26.0 * g, 234.0 * g, g) for g in (1, 2, 4, 8)},
}
"""Instance type → family, vCPUs, GiB, GPUs (machine family pages of GCP's documentation)."""

MACHINES: dict[str, Machine] = {
    kind: Machine(
        accelerator=FAMILIES[family].accelerator, count=gpus, vcpus=vcpus, memory_gib=memory
    )
    for kind, (family, vcpus, memory, gpus) in SHAPES.items()
}
"""What those instance types are."""

TERMS = {"Commit1Yr": 8760.0, "Commit3Yr": 26280.0}
"""Usage types of commitments and the hours of their term."""
USAGES = ("OnDemand", "Preemptible", *TERMS)
_LEFT_OUT = ("dws defined duration", "reserved", "sole tenancy", "custom")

Parts = dict[tuple[str, str, str], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpBilling:
    """Reads all Compute Engine SKUs; the key goes in a header and into no message."""

    endpoint: str | None = None
    name: str = "gcp"
    cloud: str = "gcp"
    label: str = "GCP Cloud Billing Catalog (sum of parts)"
    regions: None = None

    @property
    def url(self) -> str:
        """The SKU list's address, without the key."""
        return self.endpoint or api_url(
            "gcp", f"https://cloudbilling.googleapis.com/v1/services/{COMPUTE_ENGINE}/skus"
        )

    async def fetch(self, http: Http, until: float) -> Listing:
        """Return the offers and terms of the machine families whose parts are all priced."""
        key = gcp_api_key()
        if not key:
            raise SourceUnavailableError(
                "GCP's price list needs an API key: set GOOGLE_API_KEY (a free key without rights)"
            )
        parts: Parts = {}
        token = ""
        for _ in range(MOST_PAGES):
            query = {
                "pageSize": "5000",
                "currencyCode": "USD",
                **({"pageToken": token} if token else {}),
            }
            page = await http.json(
                f"{self.url}?{urlencode(query)}", until, headers={"X-Goog-Api-Key": key}
            )
            skus = page.get("skus") if isinstance(page, dict) else None
            if not isinstance(skus, list):
                raise FetchError("GCP's answer has no skus")
            for sku in skus:
                if isinstance(sku, dict):
                    read_sku(sku, parts)
            token = text(page.get("nextPageToken"))
            if not token:
                return sum_parts(parts)
        raise FetchError(f"GCP's answer has more than {MOST_PAGES} pages")


def read_sku(sku: dict[str, Any], parts: Parts) -> None:
    """Take one SKU in: (part, usage, region) → USD per unit-hour."""
    description = text(sku.get("description")).casefold()
    category = sku.get("category")
    usage = text(category.get("usageType")) if isinstance(category, dict) else ""
    if usage not in USAGES or any(word in description for word in _LEFT_OUT):
        return
    if usage == "OnDemand" and "spot preemptible" in description:
        usage = "Preemptible"
    description = description.removeprefix("commitment v1: ").replace("spot preemptible ", "")
    part = _part(description, usage in TERMS)
    price = _unit_price(sku)
    if part is None or price is None:
        return
    for region in sku.get("serviceRegions") or ():
        parts[part, usage, text(region)] = price


def _part(description: str, committed: bool) -> str | None:
    names = {name for family in FAMILIES.values() for name in family.parts(committed)}
    fitting = [name for name in names if description.startswith(name)]
    return max(fitting, key=len, default=None)


def _unit_price(sku: Mapping[str, Any]) -> float | None:
    try:
        unit = sku["pricingInfo"][0]["pricingExpression"]["tieredRates"][-1]["unitPrice"]
        if unit.get("currencyCode", "USD") != "USD":
            return None
        return int(unit.get("units") or 0) + int(unit.get("nanos") or 0) * 1e-9
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError):
        return None


def sum_parts(parts: Parts) -> Listing:
    """Add the parts of every machine in every region where all of them are priced."""
    sheet = PriceAccumulator(cloud="gcp", machines=dict(MACHINES))
    terms = TermSheet(cloud="gcp")
    regions = defaultdict(set)
    for _, usage, region in parts:
        regions[usage].add(region)
    for kind, (family_name, vcpus, memory, gpus) in SHAPES.items():
        family = FAMILIES[family_name]
        amounts = (vcpus, memory, float(gpus))
        for usage in USAGES:
            names = family.parts(committed=usage in TERMS)
            for region in sorted(regions[usage]):
                prices = [parts.get((name, usage, region)) for name in names]
                if any(price is None for price in prices):
                    continue
                total = sum((p or 0.0) * n for p, n in zip(prices, amounts, strict=True))
                total = round(total, 6)
                if usage in TERMS:
                    terms.add(resource_commitment(region, kind, TERMS[usage], total))
                else:
                    sheet.price(region, kind, total, spot=usage == "Preemptible")
    part = TermPart(name="resource commitments", rows=terms.rows())
    return Listing(offers=sheet.offers(), terms=(part.priced(sheet.on_demand()),))


def resource_commitment(
    region: str, kind: str, term_hours: float, usd_per_hour: float
) -> Commitment:
    """Return the commitment to the resources of one instance."""
    return Commitment(
        cloud="gcp",
        region=region,
        instance_type=kind,
        term_hours=term_hours,
        usd_per_hour=usd_per_hour,
        product="resource commitment (GPUs tied to a reservation)",
    )
