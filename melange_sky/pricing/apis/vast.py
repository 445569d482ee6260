"""Vast.ai's search: offers of single machines, a marketplace without list prices, no credentials.

A search returns at most 64 machines, so each GPU is asked for alone, the cheapest first. An offer is
the cheapest verified, rentable machine of a shape in a country; `dph_total` is USD per hour of it.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melange_sky.names.accelerators import canonical_accelerator
from melange_sky.pricing.apis import Listing
from melange_sky.pricing.apis.accumulator import Machine, PriceAccumulator, number, text
from melange_sky.pricing.http_errors import FetchError
from melange_sky.settings import api_url

if TYPE_CHECKING:
    from melange_sky.pricing.fetch import Http

GPUS = (
    "RTX 4090",
    "RTX 5090",
    "RTX A6000",
    "L4",
    "L40",
    "L40S",
    "A10",
    "A40",
    "A100 PCIE",
    "A100 SXM4",
    "H100 PCIE",
    "H100 SXM",
    "H100 NVL",
    "H200",
    "B200",
    "Tesla T4",
    "Tesla V100",
    "RTX PRO 6000 WS",
)
MOST_MACHINES = 64


def accelerator_of(gpu_name: str, memory_mib: float | None) -> str:
    """Return SkyPilot's name of Vast's GPU name.

    >>> accelerator_of("A100 SXM4", 81920), accelerator_of("RTX 4090", 24564)
    ('A100-80GB', 'RTX4090')
    >>> accelerator_of("H100 NVL", 95830), accelerator_of("Tesla T4", 15360)
    ('H100-NVL', 'T4')
    """
    name = gpu_name.replace("_", " ").removeprefix("Tesla ").strip()
    if name.startswith("A100"):
        return "A100-80GB" if memory_mib is None or memory_mib > 60000 else "A100"
    if name == "H100 NVL":
        return "H100-NVL"
    name = re.sub(r" (PCIE|SXM\d?|NVL|WS|S)$", "", name)
    return canonical_accelerator(name.replace(" ", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vast:
    """One search per GPU, all at once."""

    endpoint: str | None = None
    name: str = "vast"
    cloud: str = "vast"
    label: str = "Vast.ai search API"
    regions: None = None

    @property
    def url(self) -> str:
        """The API's address."""
        return self.endpoint or api_url("vast", "https://console.vast.ai/api/v0/bundles/")

    async def fetch(self, http: Http, until: float) -> Listing:
        """Return the cheapest machine of each shape and country."""
        sheet = PriceAccumulator(cloud=self.cloud)
        pages = await asyncio.gather(*(self._search(http, until, gpu) for gpu in GPUS))
        for machine in (machine for page in pages for machine in page):
            if isinstance(machine, dict):
                read_machine(machine, sheet)
        return Listing(offers=sheet.offers())

    async def _search(self, http: Http, until: float, gpu: str) -> list[Any]:
        query = {
            "gpu_name": {"eq": gpu},
            "verified": {"eq": True},
            "rentable": {"eq": True},
            "type": "on-demand",
            "order": [["dph_total", "asc"]],
            "limit": MOST_MACHINES,
        }
        answer = await http.json(self.url, until, method="POST", payload=query)
        machines = answer.get("offers") if isinstance(answer, dict) else None
        if not isinstance(machines, list):
            raise FetchError("Vast's answer has no offers")
        return machines


def read_machine(row: dict[str, Any], sheet: PriceAccumulator) -> None:
    """Take one machine in. Its instance type is SkyPilot's: GPUs, name, cores and MiB of memory."""
    gpu, count = text(row.get("gpu_name")), number(row.get("num_gpus"))
    price = number(row.get("dph_total"))
    if not gpu or count is None or price is None:
        return
    cores, memory = number(row.get("cpu_cores")), number(row.get("cpu_ram"))
    accelerator = accelerator_of(gpu, number(row.get("gpu_ram")))
    name = re.sub(r"\s", "_", gpu)
    kind = f"{count:g}x-{name}-{cores or 0:.0f}-{memory or 0:.0f}"
    region = text(row.get("geolocation")).rpartition(",")[2].strip()
    sheet.machines[kind] = Machine(
        accelerator=accelerator,
        count=count,
        vcpus=cores,
        memory_gib=None if memory is None else round(memory / 1024, 3),
    )
    sheet.price(region, kind, price, spot=False)
    bid = number(row.get("min_bid"))
    if bid is not None:
        sheet.price(region, kind, bid, spot=True)
