"""The rate of one request size on one tensor-parallel group, found by the capacity search on the simulator."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.capacities import CapacityCell
from melange_sky.capacity_search import SearchOptions, find_max_rate
from melange_sky.profiles.alone import missed_alone
from melange_sky.simulator import SimulatedTarget

if TYPE_CHECKING:
    from melange_sky.slo import SLO, RequestLog
    from melange_sky.steps import ReplicaModel

SEARCH = SearchOptions(
    tolerance=0.05,
    growth=1.2,
    min_requests=300,
    confirm_requests=700,
    max_requests=1500,
    max_probes=16,
    confidence=0.5,
    ceiling_rps=1e6,
)
"""Probes cost milliseconds here, so they are long at once, and a leaning is enough of a verdict:
the seeds are fixed, and the error of the engine model is larger.

Against probes of 12,000 requests, rates are 2 to 4 % too low on average (standard deviation 8 %): a surge of
arrivals looks like a queue that grows. Probes of 700 to 3,000 requests (`min_requests` 700, `confirm_requests` 1500,
`max_requests` 3000) take as long and came within 0.4 % (5 %) on the 80 sizes by which they were chosen, but stand 4 % above all shipped
tables, which have to be made anew with them."""

LOWEST_RPS = 1e-4


def refused_alone(replica: ReplicaModel, size: tuple[int, int], slo: SLO) -> CapacityCell | None:
    """Return the cell of a size that misses the SLO even alone on the replica, None of any other."""
    target = SimulatedTarget(replica=replica, input_tokens=size[0], output_tokens=size[1], room=1)
    return _refused_alone(replica, size, slo, target.probe(1.0, 1, 0))


def _refused_alone(
    replica: ReplicaModel, size: tuple[int, int], slo: SLO, alone: RequestLog
) -> CapacityCell | None:
    if not alone.ok[0]:
        return CapacityCell.unserved(
            f"{sum(size)} tokens do not fit into the KV cache of {replica.pool.longest_tokens}"
        )
    waits = replica.prompt_token_s > 0
    reason = missed_alone(float(alone.ttft_s[0]), float(alone.tpot_s[0]), slo, waits=waits)
    return None if reason is None else CapacityCell.unserved(reason)


def simulated_cell(
    replica: ReplicaModel, size: tuple[int, int], slo: SLO, guess_rps: float
) -> CapacityCell:
    """Return the highest rate of (input, output) tokens, or the reason why the SLO cannot be met.

    `guess_rps` starts the search, 0 where there is no guess.
    """
    target = SimulatedTarget(replica=replica, input_tokens=size[0], output_tokens=size[1])
    alone = target.probe(1.0, 1, 0)
    refused = _refused_alone(replica, size, slo, alone)
    if refused is not None:
        return refused
    start = guess_rps if guess_rps > LOWEST_RPS else 0.2 / float(alone.e2e_s[0])
    # The analytic estimate brackets: it is seldom more than a factor of 2 off.
    near = replace(SEARCH, start_rps=0.92 * start, floor_rps=0.4 * start)
    result = find_max_rate(target, slo, near)
    if result.max_rate_rps is None:
        result = find_max_rate(target, slo, replace(SEARCH, start_rps=0.2 * start))
    if result.max_rate_rps is None:
        return CapacityCell.unserved(
            f"a lone request meets the SLO, a stream of them does not: {result.reason}"
        )
    return CapacityCell.estimated(result.max_rate_rps)
