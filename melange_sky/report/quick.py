"""What `profile run --quick` shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.profiles.calibration import Calibration


def point_text(input_tokens: int, output_tokens: int, share: float) -> str:
    """Say what is sent next."""
    return (
        f"{input_tokens} input, {output_tokens} output tokens at "
        f"{share:.0%} of the estimated highest rate"
    )


def quick_document(kept: Calibration, path: Path) -> dict[str, Any]:
    """Return the calibration as it is kept."""
    return {**asdict(kept), "path": str(path)}


def quick_text(kept: Calibration) -> str:
    """Say by how much the estimates were off, and how sure they are now."""
    scales, where = kept.scales, f"{kept.accelerator}:{kept.tensor_parallel}"
    return (
        f"{kept.model} on {where}, {kept.probes} probes in {kept.seconds:.0f} s\n"
        f"measured ÷ estimated seconds: host {scales.host:.2f}, products {scales.products:.2f}, "
        f"cache {scales.cache:.2f}, request {scales.request:.2f}\n"
        f"capacities of all sizes are now calibrated: true ÷ estimated within {kept.low:.2f} to "
        f"{kept.high:.2f}\n"
    )
