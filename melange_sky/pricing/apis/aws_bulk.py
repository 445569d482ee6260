"""AWS's bulk offer files: on-demand and reserved prices of EC2 and its savings plans, no credentials, no spot.

One CSV per region of about 480 MB (read 2026): it is streamed line by line and filtered on raw text
before any parsing, so that only one line and the kept rows are in memory. Without a region named,
only a few are read. https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/price-changes.html
"""

from __future__ import annotations

import asyncio
import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.pricing.apis import Listing
from melange_sky.pricing.apis.accumulator import Machine, PriceAccumulator
from melange_sky.pricing.apis.aws_terms import (
    ReservedRows,
    ReservedTerm,
    csv_address,
    read_savings_plans,
)
from melange_sky.pricing.fields import read_number
from melange_sky.pricing.http_errors import FetchError
from melange_sky.settings import api_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from melange_sky.pricing.fetch import Http

DEFAULT_REGIONS = ("us-east-1", "us-east-2", "us-west-2")
_G = {
    "xlarge": (4, 1),
    "2xlarge": (8, 1),
    "4xlarge": (16, 1),
    "8xlarge": (32, 1),
    "16xlarge": (64, 1),
    "12xlarge": (48, 4),
    "24xlarge": (96, 4),
    "48xlarge": (192, 8),
}
MACHINES: dict[str, Machine] = {
    **{
        f"{family}.{size}": Machine(accelerator=gpu, count=count, vcpus=vcpus)
        for family, gpu in (("g5", "A10G"), ("g6", "L4"), ("g6e", "L40S"), ("gr6", "L4"))
        for size, (vcpus, count) in _G.items()
        if family != "gr6" or size in ("4xlarge", "8xlarge")
    },
    **{
        f"g4dn.{size}": Machine(accelerator="T4", count=count, vcpus=vcpus)
        for size, (vcpus, count) in {**_G, "metal": (96, 8)}.items()
        if size not in ("24xlarge", "48xlarge")
    },
    "p3.2xlarge": Machine(accelerator="V100", count=1, vcpus=8),
    "p3.8xlarge": Machine(accelerator="V100", count=4, vcpus=32),
    "p3.16xlarge": Machine(accelerator="V100", count=8, vcpus=64),
    "p4d.24xlarge": Machine(accelerator="A100", count=8, vcpus=96),
    "p4de.24xlarge": Machine(accelerator="A100-80GB", count=8, vcpus=96),
    "p5.4xlarge": Machine(accelerator="H100", count=1, vcpus=16),
    "p5.48xlarge": Machine(accelerator="H100", count=8, vcpus=192),
    "p5e.48xlarge": Machine(accelerator="H200", count=8, vcpus=192),
    "p5en.48xlarge": Machine(accelerator="H200", count=8, vcpus=192),
    "p6-b200.48xlarge": Machine(accelerator="B200", count=8, vcpus=192),
    "p6-b300.48xlarge": Machine(accelerator="B300", count=8, vcpus=192),
}
"""What EC2's GPU types carry (instance type pages); the offer file names no GPU."""

_GPU_ROW = re.compile(
    rb'"(?:g4dn|g5|g6|g6e|gr6|p3|p4d|p4de|p5|p5e|p5en|p6-b200|p6-b300)\.[0-9a-z]+"'
)
_KEPT = {
    "Tenancy": "Shared",
    "Operating System": "Linux",
    "CapacityStatus": "Used",
    "Pre Installed S/W": "NA",
}
_COLUMNS = (
    "SKU",
    "OfferTermCode",
    "TermType",
    "Unit",
    "PricePerUnit",
    "Currency",
    "Instance Type",
    "LeaseContractLength",
    "PurchaseOption",
    "OfferingClass",
    *_KEPT,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsBulk:
    """Reads the offer files of the regions named, or of a few."""

    regions: tuple[str, ...] = DEFAULT_REGIONS
    endpoint: str | None = None
    name: str = "aws"
    cloud: str = "aws"
    label: str = "AWS bulk offer file"

    @property
    def url(self) -> str:
        """The index of regions."""
        return self.endpoint or api_url(
            "aws",
            "https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws/AmazonEC2/current/region_index.json",
        )

    async def fetch(self, http: Http, until: float) -> Listing:
        """Return the offers and terms of the regions.

        One whose offer file cannot be read whole fails the cloud; savings plans fail by themselves.
        """
        index = await http.json(self.url, until)
        known = index.get("regions") if isinstance(index, dict) else None
        if not isinstance(known, dict):
            raise FetchError("AWS's index has no regions")
        sheet = PriceAccumulator(cloud=self.cloud, machines=dict(MACHINES))
        reserved = ReservedRows()
        regions = [r for r in self.regions if isinstance(known.get(r), dict)]
        if not regions:
            raise FetchError("AWS's index has none of the requested regions")
        plans = asyncio.ensure_future(
            read_savings_plans(http, until, self.url, regions, frozenset(MACHINES))
        )
        try:
            await asyncio.gather(
                *(
                    self._region(
                        http, until, r, str(known[r].get("currentVersionUrl")), sheet, reserved
                    )
                    for r in regions
                )
            )
            rows = await plans
        finally:
            plans.cancel()
        listed = sheet.on_demand()
        parts = (*reserved.parts(regions, listed), *(part.priced(listed) for part in rows))
        return Listing(offers=sheet.offers(), terms=parts)

    async def _region(
        self,
        http: Http,
        until: float,
        region: str,
        path: str,
        sheet: PriceAccumulator,
        reserved: ReservedRows,
    ) -> None:
        lines = http.lines(csv_address(self.url, path), until)
        await read_offer_file(lines, region, sheet, reserved)


async def read_offer_file(
    lines: AsyncIterator[bytes], region: str, sheet: PriceAccumulator, reserved: ReservedRows
) -> None:
    """Take the GPU rows of one region's offer file in, line by line."""
    at: dict[str, int] | None = None
    async for line in lines:
        if at is None:
            if line.startswith(b'"SKU"'):
                at = _columns(line.decode("utf-8", "replace"))
            continue
        # one search is far cheaper than parsing half a million lines
        if _GPU_ROW.search(line):
            cells = next(csv.reader([line.decode("utf-8", "replace")]))
            _read_row(cells, at, region, sheet, reserved)
    if at is None:
        raise FetchError(f"AWS's offer file of {region} has no header")


def _columns(line: str) -> dict[str, int]:
    header = {name: i for i, name in enumerate(next(csv.reader([line])))}
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise FetchError(f"AWS's offer file lacks the column '{missing[0]}'")
    return header


def _read_row(
    row: list[str],
    at: dict[str, int],
    region: str,
    sheet: PriceAccumulator,
    reserved: ReservedRows,
) -> None:
    if len(row) < len(at):
        return
    kind = row[at["Instance Type"]]
    if kind not in sheet.machines or any(row[at[k]] != v for k, v in _KEPT.items()):
        return
    option = at.get("MarketOption")
    if option is not None and row[option] not in ("OnDemand", ""):
        return
    price = read_number(row[at["PricePerUnit"]])
    if price is None or row[at["Currency"]] != "USD":
        return
    unit = row[at["Unit"]]
    if row[at["TermType"]] == "OnDemand" and unit == "Hrs":
        sheet.price(region, kind, price, spot=False)
    elif row[at["TermType"]] == "Reserved" and row[at["OfferingClass"]] == "standard":
        reserved.add(
            ReservedTerm(
                region=region,
                instance_type=kind,
                offer=(row[at["SKU"]], row[at["OfferTermCode"]]),
                lease=row[at["LeaseContractLength"]],
                option=row[at["PurchaseOption"]],
            ),
            unit,
            price,
        )
