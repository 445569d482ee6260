"""What each accelerator is: memory, bandwidth and dense FLOPS, from the project's own sourced table."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache

from melange_sky.errors import InputError, did_you_mean
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


VARIANTS: dict[str, str] = {"H100-SXM": "H100", "H200-SXM": "H200", "A100-80GB-SXM": "A100-80GB"}
"""Names under which some clouds list a GPU apart → the accelerator whose figures it has."""


def accelerator_names() -> tuple[str, ...]:
    """Return every name that may be asked for: accelerators with figures, and their variants."""
    return (*accelerator_table(), *VARIANTS)


@lru_cache(maxsize=256)
def names_of(asked: str) -> tuple[str, ...]:
    """Return the names under which clouds list what is asked for: its own, and its variants'.

    >>> names_of("H100"), names_of("H100-SXM")
    (('H100', 'H100-SXM'), ('H100-SXM',))
    """
    return (asked, *(name for name, kind in VARIANTS.items() if kind == asked))


ALIASES: dict[str, tuple[str, str]] = {
    "a100-40gb": ("A100", "SkyPilot's A100 is the 40 GB card"),
    "a100-sxm4-40gb": ("A100", "SkyPilot's A100 is the 40 GB card"),
    "a100-sxm4-80gb": ("A100-80GB", "SkyPilot's name for it"),
    "a100-80gb-pcie": ("A100-80GB", "SkyPilot's name for it"),
    "h100-sxm5": ("H100", "SkyPilot's H100; the instance type says SXM, PCIe or NVL"),
    "h100-80gb": ("H100", "SkyPilot's H100; the instance type says SXM, PCIe or NVL"),
    "h100nvl": ("H100-NVL", "94 GB"),
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
    """Return the figures of `name`, case aside: of a variant those of its accelerator.

    An unknown name raises InputError with a suggestion.
    """
    table = accelerator_table()
    if name.casefold() in ALIASES:
        raise InputError(
            f"accelerator '{name}' is ambiguous: write '{ALIASES[name.casefold()][0]}' "
            f"({ALIASES[name.casefold()][1]})"
        )
    folded = {known.casefold(): table[VARIANTS.get(known, known)] for known in accelerator_names()}
    spec = folded.get(name.casefold())
    if spec is None:
        raise InputError(
            f"unknown accelerator '{name[:80]}'{did_you_mean(name, accelerator_names())}; "
            f"known: {', '.join(sorted(accelerator_names()))}"
        )
    return spec
