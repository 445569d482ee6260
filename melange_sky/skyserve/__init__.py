"""A plan's services on SkyServe: what runs, what would change, and the way from one to the other.

`changes` compares, `rollout` orders the steps, `client` is the only place that talks to SkyPilot.
"""

from __future__ import annotations

from melange_sky.skyserve.changes import (
    Action,
    Claim,
    LiveReplica,
    LiveService,
    Maker,
    ServiceChange,
    Wanted,
    compare,
)
from melange_sky.skyserve.rollout import Rollout, roll_out, take_down
from melange_sky.skyserve.states import ServiceState, service_states

__all__ = [
    "Action",
    "Claim",
    "LiveReplica",
    "LiveService",
    "Maker",
    "Rollout",
    "ServiceChange",
    "ServiceState",
    "Wanted",
    "compare",
    "roll_out",
    "service_states",
    "take_down",
]
