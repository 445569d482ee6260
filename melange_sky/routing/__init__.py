"""The routing policy that gateway and simulator share: which option, which replica, and why.

Pure: no I/O, no clock, randomness handed in. `Router` is the form for Python callers; the functions of
`policy` work on plain sequences, lists here or arrays in compiled code, so that both run one source.
"""

from melange_sky.routing.carrying import carried_over
from melange_sky.routing.first_state import routing_state
from melange_sky.routing.homes import Homes, session_homes
from melange_sky.routing.replica_slots import slots
from melange_sky.routing.router import Router
from melange_sky.routing.skyserve import SKYSERVE_POLICIES, skyserve_weights
from melange_sky.routing.table import (
    FULL_LOAD,
    QUEUE_LENGTH,
    QUEUE_WAIT_S,
    RoutingState,
    RoutingTable,
    routing_table,
)

__all__ = [
    "FULL_LOAD",
    "QUEUE_LENGTH",
    "QUEUE_WAIT_S",
    "SKYSERVE_POLICIES",
    "Homes",
    "Router",
    "RoutingState",
    "RoutingTable",
    "carried_over",
    "routing_state",
    "routing_table",
    "session_homes",
    "skyserve_weights",
    "slots",
]
