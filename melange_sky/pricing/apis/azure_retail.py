"""Azure's Retail Prices API: on-demand, spot, reservations and savings plans, no credentials.

https://learn.microsoft.com/rest/api/cost-management/retail-prices/azure-retail-prices (read 2026).
Filter values are case-sensitive since 2023-01-01-preview; only that version returns `savingsPlan`.
A reservation's price is the total of its term although its unit says "1 Hour"; it may be paid by the month at
no extra cost, which is how its terms are listed. A savings plan's price is per hour, its spend counts in all regions.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urljoin, urlsplit

from melange_sky.commitments import Commitment, term_text
from melange_sky.pricing.apis import Listing
from melange_sky.pricing.apis.accumulator import Machine, PriceAccumulator, number, text
from melange_sky.pricing.commitments.sheet import TermPart, TermSheet
from melange_sky.pricing.http_errors import FetchError
from melange_sky.pricing.sanity import age_days
from melange_sky.settings import api_url

if TYPE_CHECKING:
    from melange_sky.pricing.fetch import Http

API_VERSION = "2023-01-01-preview"
MOST_PAGES = 40
HOURS = {"1 Year": 8760.0, "3 Years": 26280.0, "5 Years": 43800.0}

# what Azure's GPU sizes carry (size pages of its documentation); the API names no GPU
MACHINES: dict[str, Machine] = {
    name: Machine(accelerator=accelerator, count=count, vcpus=vcpus, memory_gib=memory)
    for name, accelerator, count, vcpus, memory in (
        ("Standard_NC4as_T4_v3", "T4", 1, 4, 28),
        ("Standard_NC8as_T4_v3", "T4", 1, 8, 56),
        ("Standard_NC16as_T4_v3", "T4", 1, 16, 110),
        ("Standard_NC64as_T4_v3", "T4", 4, 64, 440),
        ("Standard_NC6s_v3", "V100", 1, 6, 112),
        ("Standard_NC12s_v3", "V100", 2, 12, 224),
        ("Standard_NC24s_v3", "V100", 4, 24, 448),
        ("Standard_ND40rs_v2", "V100-32GB", 8, 40, 672),
        ("Standard_NV6ads_A10_v5", "A10", 0.167, 6, 55),
        ("Standard_NV12ads_A10_v5", "A10", 0.333, 12, 110),
        ("Standard_NV18ads_A10_v5", "A10", 0.5, 18, 220),
        ("Standard_NV36ads_A10_v5", "A10", 1, 36, 440),
        ("Standard_NV72ads_A10_v5", "A10", 2, 72, 880),
        ("Standard_NC24ads_A100_v4", "A100-80GB", 1, 24, 220),
        ("Standard_NC48ads_A100_v4", "A100-80GB", 2, 48, 440),
        ("Standard_NC96ads_A100_v4", "A100-80GB", 4, 96, 880),
        ("Standard_ND96asr_v4", "A100", 8, 96, 900),
        ("Standard_ND96amsr_A100_v4", "A100-80GB", 8, 96, 1900),
        ("Standard_NC40ads_H100_v5", "H100", 1, 40, 320),
        ("Standard_NC80adis_H100_v5", "H100", 2, 80, 640),
        ("Standard_ND96isr_H100_v5", "H100", 8, 96, 1900),
        ("Standard_ND96isr_H200_v5", "H200", 8, 96, 1850),
        ("Standard_ND96isr_MI300X_v5", "MI300X", 8, 96, 1850),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureRetail:
    """Asks for one size after the other, all at once, each over all regions or the ones named."""

    regions: tuple[str, ...] | None = None
    endpoint: str | None = None
    name: str = "azure"
    cloud: str = "azure"
    label: str = "Azure Retail Prices API"

    @property
    def url(self) -> str:
        """The API's address."""
        return self.endpoint or api_url("azure", "https://prices.azure.com/api/retail/prices")

    async def fetch(self, http: Http, until: float) -> Listing:
        """Return the offers and terms of every GPU size."""
        sheet = PriceAccumulator(cloud=self.cloud, machines=dict(MACHINES))
        terms = TermSheet(cloud=self.cloud)
        await asyncio.gather(*(self._size(http, until, size, sheet, terms) for size in MACHINES))
        whole = TermPart(name="reservations and savings plans", rows=terms.rows())
        whole = whole.priced(sheet.on_demand())
        parts = (whole,) if self.regions is None else whole.by_region(self.regions)
        return Listing(offers=sheet.offers(), terms=parts)

    async def _size(
        self, http: Http, until: float, size: str, sheet: PriceAccumulator, terms: TermSheet
    ) -> None:
        conditions = f"serviceName eq 'Virtual Machines' and armSkuName eq '{size}'"
        if self.regions:
            names = " or ".join(f"armRegionName eq '{region}'" for region in self.regions)
            conditions += f" and ({names})"
        query = {"api-version": API_VERSION, "currencyCode": "USD", "$filter": conditions}
        url = f"{self.url}?{urlencode(query)}"
        for _ in range(MOST_PAGES):
            page = await http.json(url, until)
            items = page.get("Items") if isinstance(page, dict) else None
            if not isinstance(items, list):
                raise FetchError("Azure's answer has no Items")
            for item in items:
                if isinstance(item, dict) and item.get("armSkuName") == size:
                    read_item(item, sheet, terms)
            following = page.get("NextPageLink")
            if not following:
                return
            url = self._next(str(following))
        raise FetchError(f"Azure's answer for {size} has more than {MOST_PAGES} pages")

    def _next(self, link: str) -> str:
        following = urljoin(self.url, link)
        if urlsplit(following).hostname != urlsplit(self.url).hostname:
            raise FetchError("Azure's next page is on another host")
        return following


def read_item(item: dict[str, Any], sheet: PriceAccumulator, terms: TermSheet) -> None:
    """Take one item in: Linux on shared hosts, by its type and name suffixes."""
    product, sku = text(item.get("productName")), text(item.get("skuName"))
    if any(word in product for word in ("Windows", "CloudServices", "Cloud Services", "Dedicated")):
        return
    if sku.endswith("Low Priority") or item.get("currencyCode", "USD") != "USD":
        return
    region, size = text(item.get("armRegionName")), text(item.get("armSkuName"))
    price = number(item.get("retailPrice"))
    if not region or price is None or _begins_later(text(item.get("effectiveStartDate"))):
        return
    if item.get("type") == "Consumption" and item.get("unitOfMeasure") == "1 Hour":
        spot = sku.endswith("Spot")
        sheet.price(region, size, price, spot=spot)
        for plan in () if spot else item.get("savingsPlan") or ():
            _read_plan(plan, region, size, terms)
    elif item.get("type") == "Reservation" and item.get("reservationTerm") in HOURS:
        hours = HOURS[item["reservationTerm"]]
        terms.add(
            Commitment(
                cloud=terms.cloud,
                region=region,
                instance_type=size,
                term_hours=hours,
                usd_per_hour=price / hours,
                product="reservation",
            )
        )


def _read_plan(plan: object, region: str, size: str, terms: TermSheet) -> None:
    """Take one entry of an item's `savingsPlan` in: {unitPrice, retailPrice, term}, per hour."""
    if not isinstance(plan, dict) or plan.get("term") not in HOURS:
        return
    listed = number(plan.get("retailPrice"))
    rate = number(plan.get("unitPrice")) if listed is None else listed
    if rate is None:
        return
    hours = HOURS[plan["term"]]
    terms.add(
        Commitment(
            cloud=terms.cloud,
            region=region,
            instance_type=size,
            term_hours=hours,
            usd_per_hour=rate,
            kind="spend",
            product="savings plan",
            pool=f"Azure savings plan, {term_text(hours)}",
        )
    )


def _begins_later(start: str) -> bool:
    """Return whether a price holds only from a day to come on (`effectiveStartDate`)."""
    days = age_days(start, datetime.now(timezone.utc))
    return days is not None and days < 0
