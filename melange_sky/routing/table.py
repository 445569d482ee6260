"""What the policy knows (a plan as flat sequences) and what it remembers (load, credits, lengths seen).

A *class* is what is known of a request at its arrival: its input bucket and how far `max_tokens`
lets the output go. Class c = i × (O + 1) + m: m < O is the output bucket of `max_tokens`, m = O says
that none was given.

A request's *need* is the part of a replica that it takes while in flight. A replica at its capacity
(λ requests per second) holds λ × D requests (Little's law), where D is how long a request stays at
the edge of the SLO: TTFT limit + TPOT limit × output tokens. So need = 1 / (capacity × D), and a
replica whose needs sum to 1 holds as much as its capacity allows, whatever the mix of sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from melange_sky.routing.minima import side_by_side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.plans import Allocation, ModelPlan
    from melange_sky.routing.vector import Vector
    from melange_sky.slo import SLO

DEFAULT_TTFT_S = 2.0
DEFAULT_TPOT_S = 0.1
UNLIMITED_TOKENS = 1 << 40
FULL_LOAD = 4.0
"""A replica that holds this many times what its capacity allows takes no more (see `need`)."""
QUEUE_LENGTH, QUEUE_WAIT_S = 256, 10.0
"""How many requests wait, and how long, while all replicas that could serve them are full."""


class RoutingTable(NamedTuple):
    """A plan for the policy; never changed. Sizes: I × O buckets, K options, R replicas.

    `share`, `able` (0 or 1) and `need` have an entry per (i, j, k) at ((i × O) + j) × K + k; `need`
    of a bucket that the option cannot serve is its largest known need. `weight` (K) spreads requests
    that the plan did not expect. `limit_tokens` (K) is the longest input + output an option accepts.
    Replicas of option k are first[k] … first[k + 1] − 1; `option_of` (R). Their loads' minima: the leaf
    of its first replica is `leaf` (K), the node above all of them `top` (K), of `nodes` (`minima`).
    """

    inputs: int
    outputs: int
    options: int
    replicas: int
    input_edges: Vector[int]
    output_edges: Vector[int]
    share: Vector[float]
    able: Vector[int]
    need: Vector[float]
    limit_tokens: Vector[int]
    first: Vector[int]
    option_of: Vector[int]
    leaf: Vector[int]
    top: Vector[int]
    nodes: int
    full_load: float


class RoutingState(NamedTuple):
    """What changes. C classes, K options, R replicas.

    Per replica: `load` (sum of needs in flight), `in_flight`, `healthy` (0 or 1); `lowest` are the minima
    of the healthy ones' loads (`minima`; `policy.rank` after a change of either). Per option over its
    healthy replicas: `option_load`, `option_in_flight`, `option_healthy`; `cursor` rotates ties; `usable` is
    scratch.
    Per class: `seen` (C × O) decayed counts of output buckets, `fresh` (C) counts since the last
    refresh, and what follows from them per option (C × K): `mix` (shares), `fit` (0 or 1), `cost`
    (expected need). `credit` (C × K) is how much each option is owed.
    """

    load: Vector[float]
    in_flight: Vector[int]
    healthy: Vector[int]
    lowest: Vector[float]
    option_load: Vector[float]
    option_in_flight: Vector[int]
    option_healthy: Vector[int]
    cursor: Vector[int]
    usable: Vector[int]
    seen: Vector[float]
    fresh: Vector[int]
    mix: Vector[float]
    fit: Vector[int]
    cost: Vector[float]
    credit: Vector[float]
    turn: Vector[int]


def routing_table(
    plan: ModelPlan,
    replicas: Sequence[int] | None = None,
    full_load: float = FULL_LOAD,
    routers: int = 1,
) -> RoutingTable:
    """Return the table of a plan with `replicas` of each allocation (default: as planned).

    With several `routers` over the same replicas each request is counted that many times.
    """
    counts = [a.instances for a in plan.allocations] if replicas is None else list(replicas)
    first = [sum(counts[:k]) for k in range(len(counts) + 1)]
    leaf, top, nodes = side_by_side(counts)
    workload = plan.workload
    inputs, outputs = len(workload.input_edges) - 1, len(workload.output_edges) - 1
    cells = [(i, j) for i in range(inputs) for j in range(outputs)]
    rates = [[_rate_rps(a, i, j) for a in plan.allocations] for i, j in cells]
    needs = [
        [
            routers / (r * stay_s(plan.slo, a, i, j, workload.output_sizes[i][j])) if r else 0.0
            for r, a in zip(row, plan.allocations, strict=True)
        ]
        for row, (i, j) in zip(rates, cells, strict=True)
    ]
    worst = [max((row[k] for row in needs), default=0.0) or 1.0 for k in range(len(counts))]
    engines = [a.candidate.option.engine for a in plan.allocations]
    return RoutingTable(
        inputs=inputs,
        outputs=outputs,
        options=len(counts),
        replicas=first[-1],
        input_edges=list(workload.input_edges),
        output_edges=list(workload.output_edges),
        share=[a.shares[i][j] for i, j in cells for a in plan.allocations],
        able=[int(bool(rate)) for row in rates for rate in row],
        need=[need or worst[k] for row in needs for k, need in enumerate(row)],
        limit_tokens=[UNLIMITED_TOKENS if e is None else e.max_model_len for e in engines],
        first=first,
        option_of=[k for k, count in enumerate(counts) for _ in range(count)],
        leaf=leaf,
        top=top,
        nodes=nodes,
        full_load=full_load,
    )


def _rate_rps(allocation: Allocation, i: int, j: int) -> float | None:
    """Return the rate that an option serves of a bucket, None where it can, or is meant to, serve none.

    The highest that is known: where only few requests of a size are in time beside others of it, that
    says nothing of what one takes of a replica.
    """
    cell = allocation.candidate.cells[i][j]
    if cell.max_rate_rps is None and not allocation.late_share(i, j):
        return None
    return cell.largest_rps


def stay_s(slo: SLO, allocation: Allocation, i: int, j: int, output_tokens: float) -> float:
    """Return how long a request stays in a replica at the edge of its SLO (module docstring).

    One that is late anyway stays for its own time to the first token where that is longer.
    """
    ttft_s = DEFAULT_TTFT_S if slo.ttft_s is None else slo.ttft_s
    tpot_s = DEFAULT_TPOT_S if slo.tpot_s is None else slo.tpot_s
    if allocation.late_share(i, j) > 0:
        ttft_s = max(ttft_s, allocation.candidate.cells[i][j].alone_ttft_s or 0.0)
    return ttft_s + tpot_s * max(output_tokens - 1, 0)
