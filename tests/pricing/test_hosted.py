"""Parsing catalogs of every cloud's shape, compared with what SkyPilot itself makes of them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from melange_sky.accelerators import accelerator_table
from melange_sky.names.clouds import HOSTED_CLOUDS
from melange_sky.offers import gpu_of
from melange_sky.pricing.hosted_csv import CatalogRefusedError, parse_catalog
from tests.factories import make_offer
from tests.pricing.catalogs import plain, synthetic
from tests.pricing.server import body, loopback

LIST_WITH_SKY = """
import json, sys
import sky.skylet.constants as constants
constants.HOSTED_CATALOG_DIR_URL = constants.HOSTED_CATALOG_DIR_URL_S3_MIRROR = sys.argv[1]
from sky import catalog
rows = []
for cloud in sys.argv[2].split(","):
    listed = catalog.list_accelerators(clouds=cloud, all_regions=True)
    rows += [[cloud, *i] for items in listed.values() for i in items]
with open(sys.argv[3], "w") as file:
    json.dump(rows, file)
"""


@pytest.fixture(scope="module")
def sky_rows(tmp_path_factory: pytest.TempPathFactory) -> list[list[object]]:
    """What `sky.catalog.list_accelerators` lists, with the synthetic catalogs on loopback."""
    pytest.importorskip("sky", reason="SkyPilot is not installed")
    folder: Path = tmp_path_factory.mktemp("sky")
    with loopback() as server:
        for cloud in HOSTED_CLOUDS:
            server.catalog(cloud, body(synthetic(cloud)))
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "SKY", "GOOGLE", "AZURE", "OCI"))
            and "proxy" not in name.lower()
        }
        environment |= {"HOME": str(folder), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
        arguments = [f"{server.url}", ",".join(HOSTED_CLOUDS), str(folder / "rows.json")]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", LIST_WITH_SKY, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((folder / "rows.json").read_text())
    assert isinstance(rows, list)
    return rows


@pytest.mark.parametrize("cloud", HOSTED_CLOUDS)
def test_same_offers_as_skypilot(cloud, sky_rows):
    ours = {
        (o.instance_type, o.catalog_accelerator or o.accelerator, o.accelerator_count, o.region): o
        for o in parse_catalog(cloud, synthetic(cloud).splitlines(keepends=True))
    }
    theirs = [row[2:] for row in sky_rows if row[0] == cloud and not str(row[3]).startswith("tpu")]
    assert theirs
    for kind, name, count, vcpus, _, memory, price, spot, region in theirs:
        offer = ours[kind, name, count, region]
        assert offer.price_usd_per_hour == (
            pytest.approx(price, abs=1e-6) if known(price) else None
        )
        assert offer.spot_usd_per_hour == (pytest.approx(spot, abs=1e-6) if known(spot) else None)
        assert (offer.vcpus, offer.memory_gib) == (vcpus, memory)
    if cloud != "gcp":  # SkyPilot lists one host machine per GPU and zone; the catalog sells more
        assert len(ours) == len(theirs)


def known(value: object) -> bool:
    return isinstance(value, float) and not math.isnan(value)


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def test_gcp_host_and_gpu_are_added():
    offers = {
        (o.instance_type, o.accelerator, o.accelerator_count, o.region): o
        for o in parse_catalog("gcp", lines(synthetic("gcp")))
    }
    small = offers["g2-standard-4", "L4", 1, "us-central1"]
    assert small.price_usd_per_hour == pytest.approx(0.15 + 0.56)
    assert small.spot_usd_per_hour == pytest.approx(0.15 * 0.3 + 0.56 * 0.35)
    assert (small.vcpus, small.memory_gib) == (4, 16)
    assert offers["g2-standard-8", "L4", 1, "us-central1"].price_usd_per_hour == pytest.approx(0.85)
    assert offers["n1-highmem-4", "T4", 1, "us-central1"].price_usd_per_hour == pytest.approx(0.59)
    assert ("n2-standard-8", "V100", 1, "us-central1") not in offers
    b200 = offers["a4-highgpu-8g", "B200", 8, "us-central1"]
    assert b200.price_usd_per_hour == pytest.approx(90.2), "a host at 0 is included in its GPUs"
    assert not any(o.accelerator.startswith("tpu") for o in offers.values())
    assert not any(o.accelerator_count == 16 for o in offers.values()), "no host carries them here"


def test_names_are_canonical_and_the_cloud_s_own_spelling_is_kept():
    text = plain(
        "v.1,RTX-PRO-6000,1,1.5,r1,", "v.2,RTX PRO 6000 96GB,1,1.5,r1,", "v.3,A100,1,2.0,r1,"
    )
    offers = {o.instance_type: o for o in parse_catalog("seeweb", lines(text))}
    assert {o.accelerator for o in offers.values()} == {"RTXPRO6000", "A100-80GB"}
    assert offers["v.1"].catalog_accelerator == "RTX-PRO-6000"
    assert offers["v.3"].catalog_accelerator == "A100"


def test_duplicates_and_zones_become_one_offer_at_the_cheapest_zone():
    rows = [
        f"x,L4,1,{p},r1,{s}" for p, s in (("0.8", "0.3"), ("0.8", "0.3"), ("0.8", "0.2"), ("", ""))
    ]
    (offer,) = parse_catalog("nebius", lines(plain(*rows)))
    assert (offer.price_usd_per_hour, offer.spot_usd_per_hour, offer.flags) == (0.8, 0.2, ())


def test_a_cut_last_line_is_refused_and_a_whole_one_is_not():
    text = plain("x,L4,1,0.8,r1,0.3", "y,L4,1,0.8,r1,0.3")
    with pytest.raises(CatalogRefusedError, match="truncated"):
        parse_catalog("nebius", lines(text[:-30]))
    assert len(parse_catalog("nebius", lines(text[:-1]))) == 2
    with pytest.raises(CatalogRefusedError, match="truncated"):
        parse_catalog("nebius", lines(text[:-1]), ends_whole=False)


def test_a_catalog_of_too_many_offers_is_refused(monkeypatch):
    monkeypatch.setattr("melange_sky.pricing.hosted_csv.LARGEST_OFFERS", 10)
    rows = [f"t{i},L4,1,0.8,r1,0.3" for i in range(11)]
    assert len(parse_catalog("nebius", lines(plain(*rows[:10])))) == 10
    with pytest.raises(CatalogRefusedError, match="more than 10 offers"):
        parse_catalog("nebius", lines(plain(*rows)))


@pytest.mark.parametrize(
    ("cloud", "instance_type", "accelerator", "figures"),
    [
        ("lambda", "gpu_1x_h100_pcie", "H100", "H100-PCIe"),
        ("lambda", "gpu_1x_h100_sxm5", "H100", "H100"),
        ("azure", "Standard_NC40ads_H100_v5", "H100", "H100-NVL"),
        ("azure", "Standard_ND96isr_H100_v5", "H100", "H100"),
        ("runpod", "1x_H100_SECURE", "H100", "H100-PCIe"),
        ("runpod", "1x_H100-SXM_SECURE", "H100-SXM", "H100"),
        ("aws", "p5.48xlarge", "H100", "H100"),
        ("aws", "g6.xlarge", "L4", "L4"),
    ],
)
def test_the_figures_of_the_very_gpu(cloud, instance_type, accelerator, figures):
    offer = make_offer(cloud=cloud, instance_type=instance_type, accelerator=accelerator)
    assert gpu_of(offer) == figures
    assert figures in accelerator_table()
