"""Plan on the capacities that estimates reach with a given probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

from melange_sky.capacities import INFERRED, CapacityCell, OptionCapacity

MEDIAN = 0.5
_END = NormalDist().inv_cdf(0.95)
"""Bands end where the truth lies beyond in one of twenty cases."""


def at_confidence(
    options: Sequence[OptionCapacity], confidence: float
) -> tuple[OptionCapacity, ...]:
    """Return the options with every estimate lowered to what is reached with this probability.

    On each side of the estimate the logarithm of the truth is taken as normal, the band's end at 5 %.
    Measured cells stay, and so do the bands' ends.
    """
    if confidence == MEDIAN:
        return tuple(options)
    z = NormalDist().inv_cdf(confidence) / _END
    return tuple(
        replace(option, cells=tuple(tuple(_lowered(c, z) for c in row) for row in option.cells))
        for option in options
    )


def _lowered(cell: CapacityCell, z: float) -> CapacityCell:
    end = cell.low_rps if z > 0 else cell.high_rps
    rate = cell.banded_rps
    if cell.origin not in INFERRED or not rate or not end:
        return cell
    factor = math.exp(abs(z) * math.log(end / rate))
    return replace(cell.scaled(factor), low_rps=cell.low_rps, high_rps=cell.high_rps)
