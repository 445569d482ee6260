"""GCP's Cloud Billing Catalog: needs a free API key (GOOGLE_API_KEY or MELANGE_SKY_GCP_API_KEY).

A machine's price is the sum of its parts: vCPUs, GiB of memory and GPUs, each a SKU by region and
usage type. https://cloud.google.com/billing/docs/reference/rest/v1/services.skus/list (read 2026).
Prices for a defined duration (DWS) and reserved parts are other ways to buy and are left out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from melange_sky.errors import SourceUnavailableError
from melange_sky.pricing.apis.accumulator import Machine, PriceAccumulator, text
from melange_sky.pricing.http_errors import FetchError
from melange_sky.settings import api_url, gcp_api_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.offers import Offer
    from melange_sky.pricing.fetch import Http

MOST_PAGES = 60
COMPUTE_ENGINE = "6F81-5844-456A"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """How the SKU descriptions of a machine family begin, in lower case."""

    core: str
    memory: str
    gpu: str
    accelerator: str


FAMILIES: dict[str, _Family] = {
    "g2": _Family(
        core="g2 instance core", memory="g2 instance ram", gpu="nvidia l4 gpu", accelerator="L4"
    ),
    "a2-highgpu": _Family(
        core="a2 instance core",
        memory="a2 instance ram",
        gpu="nvidia tesla a100 gpu",
        accelerator="A100",
    ),
    "a2-ultragpu": _Family(
        core="a2 instance core",
        memory="a2 instance ram",
        gpu="nvidia tesla a100 80gb gpu",
        accelerator="A100-80GB",
    ),
    "a3-highgpu": _Family(
        core="a3 instance core",
        memory="a3 instance ram",
        gpu="nvidia h100 80gb gpu",
        accelerator="H100",
    ),
}

SHAPES: dict[str, tuple[str, float, float, int]] = {
    **{
        f"g2-standard-{v}": ("g2", v, v * 4.0, g)
        for v, g in ((4, 1), (8, 1), (12, 1), (16, 1), (32, 1), (24, 2), (48, 4), (96, 8))
    },
    **{f"a2-highgpu-{g}g": ("a2-highgpu", 12.0 * g, 85.0 * g, g) for g in (1, 2, 4, 8)},
    **{f"a2-ultragpu-{g}g": ("a2-ultragpu", 12.0 * g, 170.0 * g, g) for g in (1, 2, 4, 8)},
    **{f"a3-highgpu-{g}g": ("a3-highgpu", 26.0 * g, 234.0 * g, g) for g in (1, 2, 4, 8)},
}
"""Instance type → family, vCPUs, GiB, GPUs (machine family pages of GCP's documentation)."""

USAGES = {"OnDemand": None, "Preemptible": 0.0, "Commit1Yr": 1.0, "Commit3Yr": 3.0}
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

    async def fetch(self, http: Http, until: float) -> tuple[Offer, ...]:
        """Return the offers of the machine families whose parts are all priced."""
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
                return sum_parts(parts).offers()
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
    part = _part(description.replace("commitment v1: ", "").replace("spot preemptible ", ""))
    price = _unit_price(sku)
    if part is None or price is None:
        return
    for region in sku.get("serviceRegions") or ():
        parts[part, usage, text(region)] = price


def _part(description: str) -> str | None:
    names = {name for f in FAMILIES.values() for name in (f.core, f.memory, f.gpu)}
    fitting = [name for name in names if description.startswith(name)]
    return max(fitting, key=len, default=None)


def _unit_price(sku: Mapping[str, Any]) -> float | None:
    try:
        unit = sku["pricingInfo"][0]["pricingExpression"]["tieredRates"][-1]["unitPrice"]
        return int(unit.get("units") or 0) + int(unit.get("nanos") or 0) * 1e-9
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError):
        return None


def sum_parts(parts: Parts) -> PriceAccumulator:
    """Add the parts of every machine in every region where all of them are priced."""
    sheet = PriceAccumulator(cloud="gcp")
    regions = defaultdict(set)
    for part, usage, region in parts:
        regions[usage].add((region, part))
    for kind, (family_name, vcpus, memory, gpus) in SHAPES.items():
        family = FAMILIES[family_name]
        sheet.machines[kind] = Machine(
            accelerator=family.accelerator, count=gpus, vcpus=vcpus, memory_gib=memory
        )
        amounts = ((family.core, vcpus), (family.memory, memory), (family.gpu, float(gpus)))
        for usage, years in USAGES.items():
            for region in sorted({region for region, _ in regions[usage]}):
                prices = [parts.get((part, usage, region)) for part, _ in amounts]
                if any(price is None for price in prices):
                    continue
                total = sum((p or 0.0) * n for p, (_, n) in zip(prices, amounts, strict=True))
                total = round(total, 6)
                if years:
                    sheet.commitment(region, kind, "committed-use", years, total)
                else:
                    sheet.price(region, kind, total, spot=years is not None)
    return sheet
