"""The rules on list prices really read from the clouds' catalogs in 2026 (not shipped)."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest

from melange_sky.offers import Offer
from melange_sky.pricing.hosted_csv import parse_catalog

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
LOW_H100 = {
    "us-central1",
    "us-west1",
    "us-west4",
    "asia-northeast1",
    "asia-southeast1",
    "australia-southeast1",
    "northamerica-northeast2",
}


def facts(name: str, **wanted: str) -> list[dict[str, str]]:
    if not (DATA / name).exists():
        pytest.skip(f"../shared/data/{name} is not here")
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if all(r[k] == v for k, v in wanted.items())]
    assert rows
    return rows


def parsed(cloud: str, rows: list[dict[str, str]]) -> tuple[Offer, ...]:
    lines = [
        "InstanceType,AcceleratorName,AcceleratorCount,Region,AvailabilityZone,Price,SpotPrice\n"
    ]
    keys = (
        "instance_type",
        "accelerator_name",
        "accelerator_count",
        "region",
        "zone",
        "price",
        "spot_price",
    )
    lines += [",".join(row[key] for key in keys) + "\n" for row in rows]
    return parse_catalog(cloud, lines)


def blocked(offers: tuple[Offer, ...]) -> dict[str, set[str]]:
    """Region → codes that keep its on-demand price out."""
    codes: dict[str, set[str]] = defaultdict(set)
    for offer in offers:
        codes[offer.region] |= {flag.code for flag in offer.blocked(use_spot=False)}
    return codes


def test_gcp_h100_regions_with_the_low_price_are_the_ones_blocked():
    rows = facts("price_facts_gcp_host_plus_gpu.csv", instance_type="a3-highgpu-8g")
    codes = blocked(parsed("gcp", rows))
    assert {region for region, found in codes.items() if found} == LOW_H100 & set(codes)
    assert set.union(*codes.values()) == {"below-region-median"}


def test_gcp_types_not_sold_on_demand():
    rows = facts("price_facts_gcp_host_plus_gpu.csv", instance_type="a3-highgpu-1g")
    assert all("not-on-demand" in found for found in blocked(parsed("gcp", rows)).values())


def test_azure_count_of_twelve():
    rows = facts("price_facts.csv", cloud="azure", instance_type="Standard_ND96isr_H100_v5")
    offers = parsed("azure", rows)
    wrong = [o for o in offers if "impossible-count" in {f.code for f in o.blocked(True)}]
    assert [(o.region, o.accelerator_count) for o in wrong] == [("eastus", 12)]


def test_aws_without_on_demand_is_unknown():
    rows = facts("price_facts.csv", cloud="aws", instance_type="p5e.48xlarge")
    for offer in parsed("aws", rows):
        assert offer.price_usd_per_hour is None
        assert [f.code for f in offer.blocked(False)] == ["price-missing"]
        assert not offer.blocked(True)


@pytest.mark.parametrize("cloud", ["aws", "azure", "lambda", "nebius", "oci", "verda"])
def test_true_prices_are_not_blocked(cloud):
    """Beyond the known defects, no on-demand price of these clouds may be kept out."""
    for offer in parsed(cloud, facts("price_facts.csv", cloud=cloud)):
        found = {flag.code for flag in offer.blocked(use_spot=False)}
        assert found <= {"price-missing", "impossible-count"}, (offer.region, offer.instance_type)
