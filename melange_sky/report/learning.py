"""What `profile learn` shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from melange_sky.learning import Learnt
    from melange_sky.profiles.calibration import Calibration


def observation_document(
    learnt: Learnt, cuts: Mapping[str, int], kept: Calibration | None, path: Path | None
) -> dict[str, Any]:
    """Return what was learnt as JSON; what is kept is null where nothing is."""
    return {
        "rate_rps": learnt.rate_rps if learnt.is_ceiling_seen else None,
        "low_rps": learnt.low_rps,
        "high_rps": learnt.high_rps if learnt.is_ceiling_seen else None,
        "estimated_rps": learnt.estimated_rps,
        "busiest": learnt.busiest,
        "ceiling_observed": learnt.is_ceiling_seen,
        "input_tokens": learnt.input_tokens,
        "output_tokens": learnt.output_tokens,
        "minutes": learnt.windows,
        "fit_error": learnt.fit_error,
        "scales": asdict(learnt.scales),
        "cuts": dict(cuts),
        "kept_low": None if kept is None else kept.low,
        "kept_high": None if kept is None else kept.high,
        "path": None if path is None else str(path),
    }


def observation_text(learnt: Learnt, cuts: Mapping[str, int], kept: Calibration | None) -> str:
    """Say what the traffic told, what it could not tell, and what plans use from now on."""
    sizes = f"{learnt.input_tokens:.0f} input and {learnt.output_tokens:.0f} output tokens"
    lines = [f"{learnt.windows} minutes of traffic, on average {sizes}"]
    scales = learnt.scales
    lines.append(
        f"observed ÷ estimated seconds: host {scales.host:.2f}, products {scales.products:.2f}, "
        f"computing {scales.computing:.2f}, cache {scales.cache:.2f}"
    )
    if learnt.is_ceiling_seen:
        lines.append(
            f"highest rate of such requests on one engine: {learnt.rate_rps:.3g} req/s, "
            f"between {learnt.low_rps:.3g} and {learnt.high_rps:.3g} (observed); estimated: {learnt.estimated_rps:.3g}"
        )
    else:
        lines.append(
            f"ceiling not observed: traffic never came above {learnt.busiest:.0%} of it; at least "
            f"{learnt.low_rps:.3g} req/s on one engine (observed), estimated: {learnt.estimated_rps:.3g}"
        )
    lines.extend(f"left out: {reason} ({count} ×)" for reason, count in cuts.items())
    if kept is None:
        lines.append(
            "nothing is kept: plans go on with the estimate; learn again when traffic is higher"
        )
    else:
        lines.append(
            "capacities of all sizes are now observed: true ÷ stated within "
            f"{kept.low:.2f} to {kept.high:.2f}"
        )
    return "".join(f"{line}\n" for line in lines)
