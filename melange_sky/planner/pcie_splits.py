"""Tensor-parallel groups over PCIe: kept out of plans beyond two GPUs unless the spec lets them in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.offers import accelerator_spec_text
from melange_sky.plans import PlanWarning
from melange_sky.topology import PCIE_GPUS, InstanceLinks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.profiles import ReplicaShape

Gpus = tuple[str, int, InstanceLinks]
"""The GPUs of an instance: their name, how many, and how they are linked."""


def over_pcie_splits(
    shapes: Mapping[Gpus, tuple[ReplicaShape, ...]],
) -> dict[Gpus, tuple[ReplicaShape, ...]]:
    """Return the splits that exchange data in every layer over more PCIe cards than is taken unasked."""
    slow = {
        gpus: tuple(
            shape
            for shape in group
            if shape.split.linked_gpus > PCIE_GPUS and shape.links in ("pcie", "pcie-peer")
        )
        for gpus, group in shapes.items()
    }
    return {gpus: group for gpus, group in slow.items() if group}


def left_out_splits(left_out: Mapping[Gpus, tuple[ReplicaShape, ...]]) -> list[PlanWarning]:
    """Say which instances are left out with them, why, and what lets them in."""
    if not left_out:
        return []
    texts = _texts(left_out)
    message = (
        f"needs tensor parallelism over PCIe on more than {PCIE_GPUS} GPUs, whose all-reduces take "
        f"most of each step, so left out: {', '.join(sorted(texts))}; "
        "resources.pcie_tensor_parallel: true plans with it"
    )
    return [PlanWarning(code="pcie-tensor-parallel", message=message)]


def other_splits(missed: Mapping[Gpus, tuple[ReplicaShape, ...]]) -> list[PlanWarning]:
    """Say which instances are planned with other splits in their place, and what lets them in."""
    if not missed:
        return []
    message = (
        f"tensor parallelism over PCIe on more than {PCIE_GPUS} GPUs is left out, other splits are "
        f"planned instead: {', '.join(sorted(_texts(missed)))}; resources.pcie_tensor_parallel: true "
        "plans with it"
    )
    return [PlanWarning(code="pcie-tensor-parallel", message=message)]


def _texts(splits: Mapping[Gpus, tuple[ReplicaShape, ...]]) -> set[str]:
    return {
        f"{accelerator_spec_text(name, count)} (tp {min(s.tensor_parallel for s in group)})"
        for (name, count, _), group in splits.items()
    }
