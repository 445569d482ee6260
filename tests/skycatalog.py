"""Price files as SkyPilot keeps them under its home, made from offers: what the planner saw, sky sees."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from melange_sky.offers import Offer

COLUMNS = (
    "InstanceType",
    "AcceleratorName",
    "AcceleratorCount",
    "vCPUs",
    "MemoryGiB",
    "GpuInfo",
    "Price",
    "SpotPrice",
    "Region",
    "AvailabilityZone",
    "Arch",
)
_IMAGE_TAGS = {
    "aws": (
        "skypilot:custom-gpu-ubuntu-cuda13",
        "skypilot:custom-gpu-ubuntu",
        "skypilot:custom-cpu-ubuntu",
    ),
    "gcp": (
        "skypilot:gpu-ubuntu-2004",
        "skypilot:custom-gpu-ubuntu-2204",
        "skypilot:custom-cpu-ubuntu-2204",
    ),
    "azure": ("skypilot:custom-gpu-ubuntu-v2", "skypilot:custom-gpu-ubuntu-v1"),
}
_GCP_HOST_SHARE = 0.25
"""GCP's file prices host and accelerator apart; any split will do, the sum is what is billed."""


def write_catalogs(home: Path, offers: Iterable[Offer]) -> None:
    """Write `home`/.sky/catalogs/v8 with one file per cloud that holds these offers and no other."""
    root = home / ".sky" / "catalogs" / "v8"
    by_cloud: dict[str, list[Offer]] = defaultdict(list)
    for offer in offers:
        by_cloud[offer.cloud].append(offer)
    for cloud, sold in by_cloud.items():
        _write(root / cloud / "vms.csv", COLUMNS, [row for offer in sold for row in _rows(offer)])
        regions = sorted({offer.region for offer in sold})
        images = [
            (tag, region, "ubuntu", "22.04", f"image-{cloud}", "20260101")
            for tag in _IMAGE_TAGS.get(cloud, ())
            for region in regions
        ]
        head = ("Tag", "Region", "OS", "OSVersion", "ImageId", "CreationDate")
        _write(root / cloud / "images.csv", head, images)
    names = sorted({offer.accelerator for sold in by_cloud.values() for offer in sold})
    clouds = {
        name: [
            c.upper() for c, sold in by_cloud.items() if any(o.accelerator == name for o in sold)
        ]
        for name in names
    }
    _write(
        root / "common" / "accelerators.csv",
        ("AcceleratorName", "Clouds"),
        [(name, str(clouds[name])) for name in names],
    )


def _rows(offer: Offer) -> list[tuple[object, ...]]:
    zone = f"{offer.region}-a"
    gpu = (offer.accelerator, offer.accelerator_count)
    host = (offer.vcpus or 8, offer.memory_gib or 32, "")
    prices = (offer.price_usd_per_hour, offer.spot_usd_per_hour)
    place = (offer.region, zone, "x86_64")
    if offer.cloud != "gcp":
        return [(offer.instance_type, *gpu, *host, *_priced(prices, 1.0), *place)]
    return [
        (offer.instance_type, "", "", *host, *_priced(prices, _GCP_HOST_SHARE), *place),
        ("", *gpu, "", "", "", *_priced(prices, 1 - _GCP_HOST_SHARE), *place),
    ]


def _priced(prices: tuple[float | None, float | None], share: float) -> tuple[object, object]:
    on_demand, spot = (None if price is None else price * share for price in prices)
    return ("" if on_demand is None else on_demand, "" if spot is None else spot)


def _write(path: Path, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
