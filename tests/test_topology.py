"""What the table of instance types says of links, and what stands in where it is silent."""

import csv
from fnmatch import fnmatchcase

import pytest

from melange_sky.names.accelerators import find_accelerator
from melange_sky.resources import catalogs_dir
from melange_sky.topology import linked, topology_of


@pytest.mark.parametrize(
    ("cloud", "instance_type", "gpu", "links"),
    [
        ("aws", "g6e.48xlarge", "L40S", "pcie"),
        ("aws", "g5.48xlarge", "A10G", "pcie"),
        ("aws", "p4de.24xlarge", "A100-80GB", "nvlink"),
        ("azure", "Standard_NC96ads_A100_v4", "A100-80GB", "pcie"),
        ("azure", "Standard_ND96amsr_A100_v4", "A100-80GB", "nvlink"),
        ("azure", "Standard_NC80adis_H100_v5", "H100-NVL", "nvlink-pair"),
        ("runpod", "2x_A100-80GB_SECURE", "A100-80GB", "pcie"),
        ("somewhere", "new-shape", "H200", "nvlink"),
        ("somewhere", "new-shape", "A100-80GB", "pcie"),
        ("somewhere", "new-shape", "L4", "pcie"),
    ],
)
def test_links_of_instance_types(cloud: str, instance_type: str, gpu: str, links: str) -> None:
    assert topology_of(cloud, instance_type, find_accelerator(gpu)).links == links


def test_every_multi_gpu_type_of_the_snapshot_on_nvlink_boards_is_listed() -> None:
    with (catalogs_dir() / "topology.csv").open(encoding="utf-8") as file:
        listed = [
            (row["cloud"], row["instance_type"], row["source"])
            for row in csv.DictReader(line for line in file if not line.startswith("#"))
        ]
    assert all(source for _, _, source in listed)
    with (catalogs_dir() / "snapshot.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    unknown = {
        (row["cloud"], row["instance_type"])
        for row in rows
        if row["accelerator"] in ("A100", "A100-80GB")
        and float(row["accelerator_count"]) >= 8
        and not any(
            c == row["cloud"] and fnmatchcase(row["instance_type"], p) for c, p, _ in listed
        )
    }
    assert not unknown


def test_bridges_reach_two_gpus() -> None:
    topology = topology_of("azure", "Standard_NC80adis_H100_v5", find_accelerator("H100-NVL"))
    assert (topology.within(2), topology.within(4)) == ("nvlink", "pcie-peer")


def test_a_card_that_is_sold_on_both_boards_runs_at_the_rate_of_its_link() -> None:
    card = find_accelerator("A100-80GB")
    assert linked(card, None) is card
    assert linked(card, "pcie").interconnect_gbps == 32
    assert linked(card, "nvlink") is card
    assert linked(find_accelerator("L40S"), "pcie-peer").interconnect_gbps == 32
