"""How the GPUs of an instance reach each other: a fact of the instance type (catalogs/topology.csv)."""

from __future__ import annotations

import csv
import dataclasses
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, cast

from melange_sky.resources import catalogs_dir

if TYPE_CHECKING:
    from melange_sky.accelerators import AcceleratorSpec, Links

PCIE_GPUS = 2
"""Most GPUs of a tensor-parallel group over PCIe that a plan takes unasked: beyond, all-reduces
through the host were measured at a tenth of the link (L40S, 4 GPUs: 27 ms for 67 MB)."""

_PCIE_GBPS = {"A100": 32.0, "A100-80GB": 32.0, "V100": 16.0, "V100-32GB": 16.0}
"""PCIe rate of cards that exist on NVLink boards and on PCIe cards; 64 (PCIe 5) where not listed."""

_TWO_BOARDS = frozenset({"A100", "A100-80GB", "V100", "V100-32GB", "A30", "H100-NVL"})
"""Cards sold with and without NVLink under one name: an instance type must say which."""

InstanceLinks = Literal["nvlink", "nvlink-pair", "pcie-peer", "pcie"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Links between the GPUs of an instance type, its NUMA nodes (None: unknown), and who says so."""

    links: InstanceLinks
    numa_nodes: int | None
    source: str

    def within(self, gpus: int) -> Links:
        """Return the links inside a group of so many GPUs: bridges reach two."""
        if self.links == "nvlink-pair":
            return "nvlink" if gpus <= 2 else "pcie-peer"
        return self.links


def topology_of(cloud: str, instance_type: str, accelerator: AcceleratorSpec) -> Topology:
    """Return the topology of an instance type with such GPUs.

    What the table does not list follows from the card where it exists on NVLink boards alone; else it
    is PCIe without peer access.
    """
    for row_cloud, pattern, topology in _table():
        if row_cloud == cloud and fnmatchcase(instance_type, pattern):
            return topology
    if accelerator.links == "nvlink" and accelerator.name not in _TWO_BOARDS:
        return Topology(links="nvlink", numa_nodes=None, source="the card is sold on NVLink boards")
    return Topology(links="pcie", numa_nodes=None, source="unknown, so taken as PCIe without peer")


def linked(accelerator: AcceleratorSpec, links: Links | None) -> AcceleratorSpec:
    """Return the GPU as it is linked in some instance; None: as the card usually is."""
    if links is None or links == accelerator.links:
        return accelerator
    rate = accelerator.interconnect_gbps
    if links != "nvlink" and accelerator.links == "nvlink":
        rate = _PCIE_GBPS.get(accelerator.name, 64.0)
    return dataclasses.replace(accelerator, links=links, interconnect_gbps=rate)


@lru_cache(maxsize=1)
def _table() -> tuple[tuple[str, str, Topology], ...]:
    with (catalogs_dir() / "topology.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return tuple(
            (
                row["cloud"],
                row["instance_type"],
                Topology(
                    links=cast("InstanceLinks", row["links"]),
                    numa_nodes=int(row["numa"]) if row["numa"] else None,
                    source=row["source"],
                ),
            )
            for row in rows
        )
