"""Elasticity inside an option: what a spec asks for."""

from __future__ import annotations

from dataclasses import dataclass

UPSCALE_DELAY_S, DOWNSCALE_DELAY_S = 300.0, 1200.0
"""SkyServe's own defaults: its target must be off for so long before replicas are started or stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elastic:
    """Each option keeps between `min` (up to 1) and `max` (from 1 on) times its planned replicas, rounded up.

    The delays are seconds for which SkyServe's target must stay above or below what runs.
    """

    min: float = 1.0
    max: float = 1.0
    upscale_delay_s: float = UPSCALE_DELAY_S
    downscale_delay_s: float = DOWNSCALE_DELAY_S
