"""What a router takes over from the one before it, when the gateway takes another plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.routing import policy

if TYPE_CHECKING:
    from melange_sky.routing.table import RoutingState, RoutingTable


def restore(
    table: RoutingTable, state: RoutingState, replica: int, load: float, in_flight: int
) -> None:
    """Set what is in flight at a replica that another router knew before."""
    k = table.option_of[replica]
    if state.healthy[replica]:
        state.option_load[k] += load - state.load[replica]
        state.option_in_flight[k] += in_flight - state.in_flight[replica]
    state.load[replica], state.in_flight[replica] = load, in_flight
    policy.rank(table, state, replica)


def adopt(table: RoutingTable, state: RoutingState, old: RoutingState) -> None:
    """Take over the output lengths that an earlier router with the same buckets saw."""
    for at in range(len(state.seen)):
        state.seen[at] = old.seen[at]
    for c in range(len(state.fresh)):
        policy.refresh(table, state, c)


def carried_over(
    table: RoutingTable, state: RoutingState, old: RoutingState, *, adopts: bool
) -> None:
    """Take over load and health of the same replicas, and with `adopts` what was learned of output lengths."""
    if adopts:
        adopt(table, state, old)
    for replica in range(table.replicas):
        restore(table, state, replica, old.load[replica], old.in_flight[replica])
        policy.set_health(table, state, replica, old.healthy[replica])
