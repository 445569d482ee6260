"""A fleet that changes while it serves: replicas come and go, and the gateway takes one plan after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.routing import Homes, carried_over, policy
from melange_sky.simulator.dispatch import AFFINITY, DRAIN, GATEWAY, UP, Routed, Rules
from melange_sky.simulator.fleet import (
    NOBODY_AT_HOME,
    FleetOption,
    FleetRules,
    FleetRun,
    arrays_of,
    empty_book,
    result_of,
    session_hashes,
)
from melange_sky.simulator.state import fleet_state

if TYPE_CHECKING:
    from melange_sky.routing import RoutingState, RoutingTable
    from melange_sky.simulator.runs import RequestStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """A replica gets requests from `start_s` to `end_s`, and then ends those that it has."""

    replica: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """From `start_s` on the gateway routes by `table`, `state` being that before any request.

    `adopts`: it keeps what it learned of output lengths. `homes` where it keeps sessions together.
    """

    start_s: float
    table: RoutingTable
    state: RoutingState
    adopts: bool = True
    homes: Homes | None = field(default=None)


def simulate_stepped_fleet(
    options: Sequence[FleetOption],
    phases: Sequence[Phase],
    stays: Sequence[Stay],
    stream: RequestStream,
    rules: FleetRules | None = None,
) -> FleetRun:
    """Serve `stream`, whose times are from 0 on, while replicas come and go.

    `options` hold every replica that there ever is, as all tables number them; the first phase starts at 0. A
    replica serves in its stays only, and begins each with an empty prefix cache unless it still works off the one
    before. Only the gateway's own policy is known here. Same arguments, same result, bit for bit.
    """
    from melange_sky.simulator import compiled

    rules = rules or FleetRules()
    if rules.policy != "gateway" or rules.outages:
        raise ValueError("only the gateway's own policy, without outages")
    engines = [o.engine for o in options for _ in range(o.replicas * o.engines_per_replica)]
    state = fleet_state(engines, len(stream), stream.longest_tokens, stream.prefixes)
    compiled.set_requests(state, stream.arrival_s, stream.input_tokens, stream.output_tokens)
    last_s = float(stream.arrival_s[-1]) if len(stream) else 0.0
    book = empty_book(options, len(stream), last_s, _turns(stays), rules)
    keeps = stream.prefixes is not None and any(phase.homes is not None for phase in phases)
    if keeps and stream.prefixes is not None:
        book = book._replace(session=session_hashes(stream.prefixes.session))
    limits = Rules(
        AFFINITY if keeps else GATEWAY, min(rules.queue_room, 1 << 30), rules.queue_patience_s
    )
    ends = [*(phase.start_s for phase in phases[1:]), last_s + rules.queue_patience_s + 1.0]
    known: Routed | None = None
    now = 0.0
    for phase, until in zip(phases, ends, strict=True):
        known = _routed(phase, known)
        first, end = np.searchsorted(stream.arrival_s, [phase.start_s, until]).tolist()
        compiled.run_part(state, known, book, (first, end), (now, max(until, now)), limits)
        now = max(until, now)
    compiled.advance_all(state, float("inf"))
    return result_of(options, state, book, stream)


def _turns(stays: Sequence[Stay]) -> list[tuple[float, int, int]]:
    """Return (time, replica, what) of every change in order; one that ends and starts at a time just goes on."""
    return sorted(
        [(stay.start_s, stay.replica, UP) for stay in stays]
        + [(stay.end_s, stay.replica, DRAIN) for stay in stays if stay.end_s < float("inf")],
        key=lambda turn: (turn[0], turn[1], turn[2] == UP),
    )


def _routed(phase: Phase, before: Routed | None) -> Routed:
    """Return what the gateway knows as a phase begins; before the first no replica serves."""
    table, state = phase.table, phase.state
    if before is None:
        for replica in range(table.replicas):
            policy.set_health(table, state, replica, 0)
    else:
        was = before.state._replace(
            **{name: getattr(before.state, name).tolist() for name in before.state._fields}
        )
        carried_over(table, state, was, adopts=phase.adopts)
    homes = phase.homes or NOBODY_AT_HOME
    return Routed(arrays_of(table), arrays_of(state), arrays_of(homes))
