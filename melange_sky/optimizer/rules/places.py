"""Rules that spread a model's rate: over regions, over clouds, and between spot and on demand."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from melange_sky.optimizer.program.linear import LE
from melange_sky.optimizer.rules.base import TOLERANCE, Clause, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from melange_sky.capacities import DeploymentOption
    from melange_sky.constraints import Constraints
    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.rules.base import FinishedFleet

_SHARE_STEPS = 1000
"""Shares are loosened in thousandths."""

_PRICED_STEP = 100
"""The price of a share is that of a tenth more of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share(Rule):
    """Σ rate_b × y_bk over the columns of one group ≤ most × the model's rate."""

    speaks_of_shares = True
    weight = 1
    where: ClassVar[str]

    most: float

    @staticmethod
    @abstractmethod
    def group(option: DeploymentOption) -> str | None:
        """Return the group whose share an option's rate counts to, None for none."""

    @staticmethod
    @abstractmethod
    def change(constraints: Constraints, most: float) -> Constraints:
        """Return the constraints with another share."""

    def add_rows(self, program: IntegerProgram) -> None:
        """Add one row per model and group, unless a group may serve all."""
        if self.most >= 1:
            return
        columns = program.canonical.columns
        groups = [self.group(column.capacity.option) for column in columns]
        for d, buckets in enumerate(program.canonical.buckets):
            rate_rps = sum(bucket.rate_rps for bucket in buckets)
            of_demand = program.canonical.of_demand(d)
            for n, label in enumerate(
                sorted({g for k in of_demand if (g := groups[k]) is not None})
            ):
                terms = [
                    (y, buckets[b - program.offsets[d]].rate_rps / rate_rps)
                    for (b, k, _), y in program.y.items()
                    if columns[k].demand == d and groups[k] == label
                ]
                if terms:
                    bound = self.most * program.slices
                    program.row(terms, LE, bound, f"{self.name}_of_model_{d}_{n}")

    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return the share, loosened in thousandths up to all."""
        most, where = self.most, self.where
        if most >= 1:
            return []
        steps = max(1, math.ceil((1 - most) * _SHARE_STEPS))

        def at(step: int) -> float:
            return 1.0 if step >= steps else most + step / _SHARE_STEPS

        return [
            Clause(
                text=f"a share {where} of at most {most:g}",
                steps=steps,
                loosen=lambda constraints, step: self.change(constraints, at(step)),
                remedy=lambda step: f"raise the share {where} to {at(step):.3g}",
                priced_step=_PRICED_STEP,
            )
        ]

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield every group of a model that serves more than its share."""
        for demand, allocations in zip(fleet.demands, fleet.allocations, strict=True):
            served: dict[str, float] = {}
            for allocation in allocations:
                label = self.group(allocation.candidate.option)
                if label is not None:
                    served[label] = served.get(label, 0.0) + sum(
                        allocation.shares[i][j] * demand.workload.rates_rps[i][j]
                        for i, j in demand.workload.buckets()
                    )
            for label, rate_rps in sorted(served.items()):
                share = rate_rps / demand.workload.rate_rps
                if share > self.most + TOLERANCE:
                    yield (
                        f"model '{demand.name}' has {share:.9f} of its rate on {label} "
                        f"where at most {self.most:g} is allowed"
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionShare(_Share):
    """Σ rate_b × y_bk over a region's columns ≤ max_share_per_region × the model's rate."""

    name = "region_share"
    where = "per region"

    usable: float

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> RegionShare | None:
        """Return the rule where a share per region is asked for."""
        most = problem.constraints.max_share_per_region
        return None if most is None else cls(most=most, usable=1 - problem.headroom)

    @staticmethod
    def group(option: DeploymentOption) -> str | None:
        """Return ``cloud/region``."""
        return None if option.offer is None else f"{option.offer.cloud}/{option.offer.region}"

    @staticmethod
    def change(constraints: Constraints, most: float) -> Constraints:
        """Return the constraints with another share per region."""
        return replace(constraints, max_share_per_region=most)

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return whether both are of one region, whose share then stays."""
        return column.region == other.region

    def finds_room(self, canonical: Canonical, column: Column, others: Sequence[Column]) -> bool:
        """Return whether there are so many other regions that one always has room.

        One instance carries at most c of the rate. Were each of n other regions fuller than
        most − c, they would carry more than n × (most − c), which is impossible from
        n × (most − c) ≥ 1 − c on; 2 / most regions are as many where c ≤ most / 2.
        """
        carried = _carried_fraction(canonical, column, self.usable)
        regions = {other.region for other in others}
        if carried >= self.most:
            return False
        needed = max(2 / self.most, (1 - carried) / (self.most - carried))
        return len(regions) >= math.ceil(needed)

    @property
    def tells_places_apart(self) -> bool:
        """True: it speaks of regions."""
        return True


class CloudShare(_Share):
    """Σ rate_b × y_bk over a cloud's columns ≤ max_share_per_cloud × the model's rate."""

    __slots__ = ()

    name = "cloud_share"
    where = "per cloud"

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> CloudShare | None:
        """Return the rule where a share per cloud is asked for."""
        most = problem.constraints.max_share_per_cloud
        return None if most is None else cls(most=most)

    @staticmethod
    def group(option: DeploymentOption) -> str | None:
        """Return the cloud."""
        return None if option.offer is None else option.offer.cloud

    @staticmethod
    def change(constraints: Constraints, most: float) -> Constraints:
        """Return the constraints with another share per cloud."""
        return replace(constraints, max_share_per_cloud=most)

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return whether both are of one cloud, whose share then stays."""
        return column.cloud == other.cloud

    @property
    def tells_places_apart(self) -> bool:
        """True: it speaks of clouds."""
        return True


class SpotShare(_Share):
    """Σ rate_b × y_bk over a model's spot columns ≤ max_fraction × the model's rate."""

    __slots__ = ()

    name = "spot_share"
    where = "on spot"

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> SpotShare | None:
        """Return the rule where a spot policy is given."""
        spot = problem.constraints.spot
        return None if spot is None else cls(most=spot.max_fraction)

    @staticmethod
    def group(option: DeploymentOption) -> str | None:
        """Return one group for all spot options."""
        return "spot" if option.use_spot else None

    @staticmethod
    def change(constraints: Constraints, most: float) -> Constraints:
        """Return the constraints with another share on spot; its derating stays."""
        spot = constraints.spot
        return replace(constraints, spot=None if spot is None else replace(spot, max_fraction=most))

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return whether no spot instance comes in place of one on demand."""
        return column.use_spot or not other.use_spot


def _carried_fraction(canonical: Canonical, column: Column, usable: float) -> float:
    """Return the most of its model's rate that one instance carries: the lightest requests first."""
    buckets, left, carried = canonical.buckets[column.demand], usable, 0.0
    able = [
        (load / bucket.rate_rps, load, bucket.rate_rps)
        for bucket, load in zip(buckets, column.least_loads.tolist(), strict=True)
        if load < math.inf
    ]
    for _, load, rate_rps in sorted(able):
        taken = min(1.0, left / load)
        carried += taken * rate_rps
        left -= taken * load
        if left <= 0:
            break
    return carried / sum(bucket.rate_rps for bucket in buckets)
