"""What each accelerator is: memory, bandwidth and dense FLOPS, from the project's own sourced table."""

from __future__ import annotations

import csv
from functools import lru_cache

from melange_sky.errors import InputError, did_you_mean
from melange_sky.records import dataclass
from melange_sky.resources import catalogs_dir


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorSpec:
    """One GPU, under SkyPilot's canonical name.

    `memory_gib` device memory; `bandwidth_gbps` GB/s (10⁹) of device memory; `dense_tflops` bf16 or
    fp16 tensor rate without sparsity; `fp8_tflops` None where the chip has no fp8; `has_bf16` False
    before Ampere; `interconnect_gbps` GB/s per GPU between the GPUs of an instance (NVLink, else
    PCIe), one direction. `usable_gib` is what a program sees of the memory (driver and ECC take the
    rest). `source` says where the figures come from.
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


@lru_cache(maxsize=1)
def accelerator_table() -> dict[str, AcceleratorSpec]:
    """Return every accelerator with known figures by canonical name (catalogs/accelerators.csv)."""
    with (catalogs_dir() / "accelerators.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {row["name"]: _spec(row) for row in rows}


ALIASES: dict[str, tuple[str, str]] = {
    "a100-40gb": ("A100", "SkyPilot's A100 is the 40 GB card"),
    "a100-sxm4-40gb": ("A100", "SkyPilot's A100 is the 40 GB card"),
    "a100-sxm4-80gb": ("A100-80GB", "SkyPilot's name for it"),
    "a100-80gb-sxm": ("A100-80GB", "the same figures; two clouds list it apart"),
    "a100-80gb-pcie": ("A100-80GB", "SkyPilot's name for it"),
    "h100-sxm": ("H100", "SkyPilot's H100; the instance type says SXM, PCIe or NVL"),
    "h100-sxm5": ("H100", "SkyPilot's H100; the instance type says SXM, PCIe or NVL"),
    "h100-80gb": ("H100", "SkyPilot's H100; the instance type says SXM, PCIe or NVL"),
    "h100nvl": ("H100-NVL", "94 GB"),
    "h200-sxm": ("H200", "SkyPilot's name for it"),
    "rtxa6000": ("A6000", "the same card"),
    "rtx-6000-ada": ("RTX6000-Ada", "the same card"),
    "rtx6000ada": ("RTX6000-Ada", "the same card"),
    "rtx-pro-6000": ("RTXPRO6000", "the same card"),
}
"""Names that other tools use → (canonical name, why). They are refused, never guessed."""


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
    )


def find_accelerator(name: str) -> AcceleratorSpec:
    """Return the figures of `name`, case aside; an unknown name raises InputError with a suggestion."""
    table = accelerator_table()
    if name.casefold() in ALIASES:
        raise InputError(
            f"accelerator '{name}' is ambiguous: write '{ALIASES[name.casefold()][0]}' "
            f"({ALIASES[name.casefold()][1]})"
        )
    folded = {known.casefold(): spec for known, spec in table.items()}
    spec = folded.get(name.casefold())
    if spec is None:
        raise InputError(
            f"unknown accelerator '{name[:80]}'{did_you_mean(name, table)}; "
            f"known: {', '.join(sorted(table))}"
        )
    return spec
