"""Which GCP host machine carries which GPUs: the catalog prices them apart, the bill adds them.

Facts of GCP's machine families and of the hosts that SkyPilot 0.14 launches for attachable GPUs
(`sky/catalog/gcp_catalog.py`, read 2026): for those, the cheapest N1 machine with the vCPUs below
and at least 4 GiB per vCPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.pricing.fields import read_number

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIXED: dict[tuple[str, float], tuple[str, ...]] = {
    ("L4", 1): tuple(f"g2-standard-{n}" for n in (4, 8, 12, 16, 32)),
    ("L4", 2): ("g2-standard-24",),
    ("L4", 4): ("g2-standard-48",),
    ("L4", 8): ("g2-standard-96",),
    ("A100", 16): ("a2-megagpu-16g",),
    ("H100-MEGA", 8): ("a3-megagpu-8g",),
    ("H200", 8): ("a3-ultragpu-8g",),
    ("B200", 8): ("a4-highgpu-8g",),
    **{("A100", n): (f"a2-highgpu-{n}g",) for n in (1, 2, 4, 8)},
    **{("A100-80GB", n): (f"a2-ultragpu-{n}g",) for n in (1, 2, 4, 8)},
    **{("H100", n): (f"a3-highgpu-{n}g",) for n in (1, 2, 4, 8)},
    **{("RTXPRO6000", n): (f"g4-standard-{48 * n}",) for n in (1, 2, 4, 8)},
}
_FIXED_NAMES = frozenset(name for name, _ in _FIXED)
_ATTACHED_VCPUS: dict[str, dict[float, int]] = {
    "K80": {1: 4, 2: 8, 4: 16, 8: 32, 16: 64},
    "V100": {1: 8, 2: 16, 4: 32, 8: 64},
    "P100": {1: 8, 2: 16, 4: 32, 8: 64},
    "T4": {1: 4, 2: 8, 4: 48},
}
_OTHER_VCPUS: dict[float, int] = {1: 8, 2: 16, 4: 32, 8: 64, 16: 128}
_MEMORY_PER_VCPU_GIB = 4
_ATTACHABLE = ("n1-standard-", "n1-highmem-", "n1-highcpu-")
_FAMILIES = ("a2-", "a3-", "a4-", "g2-", "g4-", *_ATTACHABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host machine without its GPUs, in USD per hour; 0 where the GPU's price includes it."""

    instance_type: str
    price: float
    spot: float | None
    vcpus: float | None
    memory_gib: float | None

    @classmethod
    def read(cls, instance_type: str, cells: tuple[str, str, str, str]) -> Host | None:
        """Return the host of the cells (price, spot, vCPUs, GiB), None where it has no price."""
        price, spot, vcpus, memory = (read_number(cell) for cell in cells)
        if price is None or price < 0:
            return None
        return cls(
            instance_type=instance_type.strip(),
            price=price,
            spot=None if spot is None or spot < 0 else spot,
            vcpus=vcpus,
            memory_gib=memory,
        )


def is_gpu_host(instance_type: str) -> bool:
    """Return whether GPUs may belong to such a machine."""
    return instance_type.startswith(_FAMILIES)


def hosts_for(accelerator: str, count: float, hosts: Sequence[Host]) -> list[Host]:
    """Return the hosts, of those sold in one zone, that carry so many of the accelerator."""
    if accelerator in _FIXED_NAMES:
        names = _FIXED.get((accelerator, count), ())
        return [host for host in hosts if host.instance_type in names]
    vcpus = _ATTACHED_VCPUS.get(accelerator, _OTHER_VCPUS).get(count)
    if vcpus is None:
        return []
    fitting = [
        host
        for host in hosts
        if host.instance_type.startswith(_ATTACHABLE)
        and (host.vcpus or 0) >= vcpus
        and (host.memory_gib or 0) >= vcpus * _MEMORY_PER_VCPU_GIB
    ]
    return [min(fitting, key=lambda host: host.price)] if fitting else []
