"""The most that simulation may find of a request size, told by the closed form alone.

The closed form without limits is a replica's throughput: simulation exceeds it by what a finite stream
of requests lets through. With limits it errs on both sides where requests barely meet these; with limits
that are a little looser it errs far less above. The factors are the largest seen over 29,000 simulated
sizes (five models, 25 SLOs and all shipped tables) with room; `tests/profiles/test_bounds.py` holds
them against what is shipped.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.slo import SLO
    from melange_sky.steps import Estimate

LOOSER_TPOT, LOOSER_TTFT = 1.1, 1.2
"""By how much looser limits are held against the closed form."""

OVER_FREE = 1.05
"""Simulated over closed form without limits."""

OVER_LOOSE, OVER_LOOSE_NEAR_LIMITS = 1.08, 1.6
"""Simulated over closed form at looser limits: where these hardly bind, and else."""

HARDLY_BINDS = 0.9
"""Looser limits that leave so much of the rate without limits hardly bind."""

OVER_TARGET = 3.2
"""Simulated over closed form at the target, where that sees any rate."""


def slos_of_bounds(slo: SLO) -> tuple[SLO, SLO]:
    """Return the SLO with looser limits, and without limits."""
    looser = dataclasses.replace(
        slo,
        tpot_s=None if slo.tpot_s is None else LOOSER_TPOT * slo.tpot_s,
        ttft_s=None if slo.ttft_s is None else LOOSER_TTFT * slo.ttft_s,
    )
    return looser, dataclasses.replace(slo, tpot_s=None, ttft_s=None, attainment=0.5)


def upper_bounds(target: Estimate, looser: Estimate, free: Estimate) -> NDArray[np.float64]:
    """Return the most that simulation may find, shape (cells,); 0 where it finds nothing."""
    binds = looser.rate_rps < HARDLY_BINDS * free.rate_rps
    by_looser = np.where(binds, OVER_LOOSE_NEAR_LIMITS, OVER_LOOSE) * looser.rate_rps
    by_target = np.where(target.rate_rps > 0, OVER_TARGET * target.rate_rps, np.inf)
    bounds: NDArray[np.float64] = np.minimum(
        np.minimum(by_looser, by_target), OVER_FREE * free.rate_rps
    )
    return bounds
