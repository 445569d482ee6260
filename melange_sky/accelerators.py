"""What each accelerator is: memory, bandwidth and dense FLOPS, from the project's own sourced table."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from melange_sky.resources import catalogs_dir

Links = Literal["nvlink", "pcie-peer", "pcie"]
"""What joins the GPUs of a group: NVLink or Infinity Fabric, PCIe with peer access, PCIe through the
host."""

_NVLINK_GBPS = 100.0
"""Interconnects from here on are NVLink or Infinity Fabric; below, PCIe."""

_LEAST_FLOAT32 = 16.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorSpec:
    """One GPU, under SkyPilot's canonical name.

    `memory_gib` device memory; `bandwidth_gbps` GB/s (10⁹) of device memory; `dense_tflops` bf16 or
    fp16 tensor rate without sparsity; `fp8_tflops` None where the chip has no fp8; `has_bf16` False
    before Ampere; `capability` NVIDIA's compute capability, None for other makers; `interconnect_gbps` GB/s per GPU between the GPUs of an instance (NVLink, else
    PCIe), one direction. `usable_gib` is what a program sees of the memory (driver and ECC take the
    rest). `links` is how the card is usually linked; an instance type may say otherwise. `fp32_tflops` is
    the float32 rate outside of the tensor cores, None where it is not known. `source` says where the
    figures come from.
    """

    name: str
    memory_gib: float
    bandwidth_gbps: float
    dense_tflops: float
    fp8_tflops: float | None
    has_bf16: bool
    interconnect_gbps: float
    source: str
    usable_gib: float = 0.0
    links: Links = "pcie"
    fp32_tflops: float | None = None
    capability: float | None = None

    @property
    def float32_tflops(self) -> float:
        """The float32 rate; where it is not known, the least share of the dense rate among those that are."""
        least = self.dense_tflops / _LEAST_FLOAT32
        return least if self.fp32_tflops is None else self.fp32_tflops


@lru_cache(maxsize=1)
def accelerator_table() -> dict[str, AcceleratorSpec]:
    """Return every accelerator with known figures by canonical name (catalogs/accelerators.csv)."""
    with (catalogs_dir() / "accelerators.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {row["name"]: _spec(row) for row in rows}


def _spec(row: dict[str, str]) -> AcceleratorSpec:
    return AcceleratorSpec(
        name=row["name"],
        memory_gib=float(row["memory_gib"]),
        bandwidth_gbps=float(row["bandwidth_gbps"]),
        dense_tflops=float(row["dense_tflops"]),
        fp8_tflops=float(row["fp8_tflops"]) if row["fp8_tflops"] else None,
        has_bf16=row["has_bf16"] == "yes",
        interconnect_gbps=float(row["interconnect_gbps"]),
        source=row["source"],
        usable_gib=float(row["usable_gib"]),
        fp32_tflops=float(row["fp32_tflops"]) if row["fp32_tflops"] else None,
        capability=float(row["capability"]) if row["capability"] else None,
        links="nvlink" if float(row["interconnect_gbps"]) >= _NVLINK_GBPS else "pcie",
    )
