"""Which instances serve which share of the traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.workload import Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """So many instances of one option, and the share of each bucket's rate that they serve.

    `shares` has shape (input buckets × output buckets); over all allocations they sum to 1 where a
    bucket has a rate, and are 0 elsewhere. `load_fraction` is load ÷ raw capacity of the instances.
    `fixed_instances` are already paid for (reservations) and are not billed again: instances of the
    cloud, of which a replica over several nodes takes as many.

    `level` is the attainment at which its capacities are counted, None for the SLO's own. `late` are the
    parts of `shares` that are served late, by the attainment that is expected of them: often 0.
    """

    candidate: OptionCapacity
    instances: int
    load_fraction: float
    rate_rps: float
    shares: Matrix
    fixed_instances: int = 0
    level: float | None = None
    late: tuple[tuple[float, Matrix], ...] = ()

    def late_share(self, i: int, j: int) -> float:
        """Return the share of bucket (i, j) that is served late."""
        return sum(shares[i][j] for _, shares in self.late)

    def missed_share(self, i: int, j: int) -> float:
        """Return the share of bucket (i, j) that is served late and expected to miss its limits."""
        return sum((1 - attained) * shares[i][j] for attained, shares in self.late)

    @property
    def cost_usd_per_hour(self) -> float:
        """What the instances of this allocation are billed, beyond those already paid for."""
        return self.billed_replicas * self.candidate.option.price_usd_per_hour

    @property
    def billed_replicas(self) -> float:
        """How many replicas are billed: a part of one where only some of its nodes are paid for."""
        return self.instances - self.fixed_instances / self.candidate.option.nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedMiss:
    """A size of which requests are served late: outside the SLO's limits, all of them or in part.

    Bucket (`i`, `j`): so is `share` of its requests, and those expected to miss are `fraction` of all
    requests. `alone_ttft_s` is the time to the first token of one of them on an idle replica, the
    slowest where several options serve them.
    """

    i: int
    j: int
    share: float
    fraction: float
    alone_ttft_s: float | None
