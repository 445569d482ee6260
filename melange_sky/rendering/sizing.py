"""Disk, start-up delay and stream time-out of a service, from the model and its engine alone.

None depends on the plan's rate or shares: two plans with the same option must render the same
replica, else an update would replace it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.capacities import DeploymentOption
    from melange_sky.plans import ModelPlan

_GB = 1e9

SYSTEM_DISK_GB = 80
"""Operating system with CUDA, the engine's Python environment and its compile caches."""

DOWNLOAD_BYTES_PER_S = 100e6
"""A cautious sustained rate from Hugging Face to a cloud instance."""

LOAD_BYTES_PER_S = 200e6
"""Reading weights back from a network disk of the default tier into the GPU."""

INSTALL_AND_WARM_UP_S = 900
"""Engine install, process start, compilation and CUDA graph capture."""

UNKNOWN_MODEL_BYTES = 150e9
"""Assumed where a plan carries no model sizes: a 70B model in 16 bits."""

SLOW_TOKEN_S = 0.25
"""Time per output token assumed for the stream time-out where the SLO sets none."""


def download_bytes(plan: ModelPlan, option: DeploymentOption) -> float:
    """Return the bytes that a replica of an option downloads."""
    shape = plan.shape_of(option)
    return UNKNOWN_MODEL_BYTES if shape is None else shape.download_bytes


def disk_gb(plan: ModelPlan, option: DeploymentOption) -> int:
    """Return the boot disk in GB: 1.2 × weights + system, in steps of 50, at least 100."""
    needed = 1.2 * download_bytes(plan, option) / _GB + SYSTEM_DISK_GB
    return max(100, 50 * math.ceil(needed / 50))


def initial_delay_s(plan: ModelPlan, option: DeploymentOption) -> int:
    """Return how long SkyServe waits for the first healthy answer, in whole minutes.

    Install and warm-up + weights ÷ download rate + weights ÷ load rate.
    """
    size = download_bytes(plan, option)
    delay = INSTALL_AND_WARM_UP_S + size / DOWNLOAD_BYTES_PER_S + size / LOAD_BYTES_PER_S
    return 60 * math.ceil(delay / 60)


def stream_timeout_s(plan: ModelPlan) -> int:
    """Return the load balancer's time-out: twice the longest answer at the SLO, in whole minutes.

    Longest answer = TTFT limit + largest output edge × TPOT limit; at least 10 minutes.
    """
    tpot_s = SLOW_TOKEN_S if plan.slo.tpot_s is None else plan.slo.tpot_s
    longest_s = (plan.slo.ttft_s or 0.0) + plan.workload.output_edges[-1] * tpot_s
    return max(600, 60 * math.ceil(2 * longest_s / 60))
