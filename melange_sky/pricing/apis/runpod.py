"""RunPod's GraphQL API: price per GPU-hour, spot bid and prepaid terms, no credentials.

Prices hold in every data centre and name none; the offers are listed for the region `US`, which
SkyPilot's own catalog lists for every GPU type, the terms for any region. Instance types are SkyPilot's,
`2x_L4_SECURE`. The price of a term (savings plan) is per hour too, and paid for the whole term upfront.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melange_sky.commitments import HOURS_PER_MONTH, Commitment
from melange_sky.names.accelerators import canonical_accelerator
from melange_sky.pricing.apis import Listing
from melange_sky.pricing.apis.accumulator import Machine, PriceAccumulator, number, text
from melange_sky.pricing.commitments.sheet import TermPart, TermSheet
from melange_sky.pricing.http_errors import FetchError
from melange_sky.settings import api_url

if TYPE_CHECKING:
    from melange_sky.pricing.fetch import Http

QUERY = """
query {
  gpuTypes {
    id displayName memoryInGb secureCloud securePrice oneMonthPrice threeMonthPrice sixMonthPrice
    lowestPrice(input: {gpuCount: 1, secureCloud: true}) {
      uninterruptablePrice minimumBidPrice stockStatus minVcpu minMemory
    }
  }
}
"""
COUNTS = (1, 2, 4, 8)
REGION = "US"
TERMS = {"oneMonthPrice": 1, "threeMonthPrice": 3, "sixMonthPrice": 6}
"""Months of each field's term."""


def accelerator_of(gpu_id: str, memory_gb: float | None) -> str:
    """Return SkyPilot's name of RunPod's GPU id.

    >>> accelerator_of("NVIDIA A100 80GB PCIe", 80), accelerator_of("NVIDIA A100-SXM4-80GB", 80)
    ('A100-80GB', 'A100-80GB-SXM')
    >>> accelerator_of("NVIDIA H100 80GB HBM3", 80), accelerator_of("NVIDIA GeForce RTX 4090", 24)
    ('H100-SXM', 'RTX4090')
    """
    name = re.sub(r"^(NVIDIA|AMD)\s+|GeForce\s+|Instinct\s+|Tesla\s+", "", gpu_id).strip()
    if "A100" in name:
        base = "A100-80GB" if memory_gb is None or memory_gb > 60 else "A100"
        return f"{base}-SXM" if "SXM" in name else base
    if "H100" in name:
        return "H100-SXM" if "HBM3" in name else "H100-NVL" if "NVL" in name else "H100"
    if name.startswith("H200"):
        return "H200" if "NVL" in name else "H200-SXM"
    name = re.sub(r"\s*(PCIe|OAM|Generation|Server Edition|Workstation Edition).*$", "", name)
    compact = name.replace(" ", "")
    return canonical_accelerator(compact)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPod:
    """One query for all GPU types."""

    endpoint: str | None = None
    name: str = "runpod"
    cloud: str = "runpod"
    label: str = "RunPod GraphQL API"
    regions: None = None  # its prices hold everywhere

    @property
    def url(self) -> str:
        """The API's address."""
        return self.endpoint or api_url("runpod", "https://api.runpod.io/graphql")

    async def fetch(self, http: Http, until: float) -> Listing:
        """Return the secure cloud's offers and terms with 1, 2, 4 and 8 GPUs."""
        answer = await http.json(self.url, until, method="POST", payload={"query": QUERY})
        data = answer.get("data") if isinstance(answer, dict) else None
        rows = data.get("gpuTypes") if isinstance(data, dict) else None
        if not isinstance(rows, list):
            raise FetchError("RunPod's answer has no gpuTypes")
        sheet = PriceAccumulator(cloud=self.cloud)
        terms = TermSheet(cloud=self.cloud)
        for row in rows:
            if isinstance(row, dict):
                read_gpu_type(row, sheet, terms)
        part = TermPart(name="savings plans", rows=terms.rows())
        return Listing(offers=sheet.offers(), terms=(part,))


def read_gpu_type(row: dict[str, Any], sheet: PriceAccumulator, terms: TermSheet) -> None:
    """Take one GPU type in: the price of n GPUs is n times that of one."""
    price = number(row.get("securePrice"))
    gpu_id = text(row.get("id"))
    if price is None or not gpu_id or gpu_id == "unknown":
        return
    accelerator = accelerator_of(gpu_id, number(row.get("memoryInGb")))
    lowest = row.get("lowestPrice")
    lowest = lowest if isinstance(lowest, dict) else {}
    bid = number(lowest.get("minimumBidPrice"))
    vcpus, memory = number(lowest.get("minVcpu")), number(lowest.get("minMemory"))
    for count in COUNTS:
        kind = f"{count}x_{accelerator}_SECURE"
        sheet.machines[kind] = Machine(
            accelerator=accelerator,
            count=count,
            vcpus=None if vcpus is None else vcpus * count,
            memory_gib=None if memory is None else memory * count,
        )
        sheet.price(REGION, kind, price * count, spot=False)
        if bid is not None:
            sheet.price(REGION, kind, bid * count, spot=True)
        for key, months in TERMS.items():
            rate = number(row.get(key))
            if rate is not None:
                hours = months * HOURS_PER_MONTH
                terms.add(
                    Commitment(
                        cloud=sheet.cloud,
                        region="",
                        instance_type=kind,
                        term_hours=hours,
                        usd_per_hour=0.0,
                        upfront_usd=rate * count * hours,
                        product="savings plan, all upfront",
                        list_usd_per_hour=price * count,
                    )
                )
