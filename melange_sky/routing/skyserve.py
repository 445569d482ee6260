"""SkyServe's own policies on the same state, for comparison: they see no request sizes.

Facts from SkyPilot 0.14.1, sky/serve/load_balancing_policies.py: `round_robin`, `least_load` (fewest
requests in flight) and `instance_aware_least_load` (in flight ÷ the accelerator's target rate), ties
in turn over all replicas. Its keys must match ``[A-Z0-9]+(:[0-9]+)?`` (sky/utils/schemas.py), are
matched by accelerator name only, and a replica that no key matches counts 1.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from melange_sky.routing.table import RoutingState, RoutingTable
from melange_sky.routing.vector import Vector

_KEY = re.compile(r"[A-Z0-9]+")

Policy = Callable[[RoutingTable, RoutingState, Vector[float]], int]
"""(table, state, weight per option) → replica, −1 where none is healthy."""


def round_robin(t: RoutingTable, s: RoutingState, _weights: Vector[float]) -> int:
    """Return the next healthy replica in turn."""
    for step in range(t.replicas):
        r = (s.turn[0] + step) % t.replicas
        if s.healthy[r]:
            s.turn[0] = (r + 1) % t.replicas
            return r
    return -1


def least_load(t: RoutingTable, s: RoutingState, _weights: Vector[float]) -> int:
    """Return the healthy replica with the fewest requests in flight."""
    best, lowest = -1, 1 << 60
    for step in range(t.replicas):
        r = (s.turn[0] + step) % t.replicas
        if s.healthy[r] and s.in_flight[r] < lowest:
            best, lowest = r, s.in_flight[r]
            if lowest == 0:
                break
    if best >= 0:
        s.turn[0] = (best + 1) % t.replicas
    return best


def instance_aware_least_load(t: RoutingTable, s: RoutingState, weights: Vector[float]) -> int:
    """Return the healthy replica with the fewest requests in flight ÷ weight of its option."""
    best, lowest = -1, 1e300
    for step in range(t.replicas):
        r = (s.turn[0] + step) % t.replicas
        if s.healthy[r]:
            load = s.in_flight[r] / weights[t.option_of[r]]
            if load < lowest:
                best, lowest = r, load
                if lowest <= 0:
                    break
    if best >= 0:
        s.turn[0] = (best + 1) % t.replicas
    return best


SKYSERVE_POLICIES: dict[str, Policy] = {
    "round_robin": round_robin,
    "least_load": least_load,
    "instance_aware_least_load": instance_aware_least_load,
}


def skyserve_weights(
    accelerators: Sequence[tuple[str, int]], rates_rps: Sequence[float]
) -> list[float]:
    """Return the weight that SkyServe would use per option, if it knew each option's rate.

    `accelerators` are (name, count). The first option of a name gives the weight of all its counts;
    a name that is no valid key counts 1.0.

    >>> skyserve_weights([("A10G", 1), ("A10G", 4), ("A100-80GB", 1)], [2.0, 8.0, 9.0])
    [2.0, 2.0, 1.0]
    """
    known: dict[str, float] = {}
    for (name, _count), rate in zip(accelerators, rates_rps, strict=True):
        if _KEY.fullmatch(name) and rate > 0:
            known.setdefault(name, rate)
    return [known.get(name, 1.0) for name, _count in accelerators]
