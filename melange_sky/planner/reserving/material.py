"""What a reservation is reckoned from: the mixes of sizes, and what was read of demand, prices and terms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.optimizer.answers.rate_sweep import at_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.capacities import OptionCapacity
    from melange_sky.commitments import Commitment, Owned
    from melange_sky.optimizer import Problem
    from melange_sky.planner.found_offers import FoundOffers
    from melange_sky.planner.options import PlannedOffer
    from melange_sky.planner.prepare import PreparedProblem
    from melange_sky.spec import Spec
    from melange_sky.spec.histogram import Histogram
    from melange_sky.spec.hourly import HourlyDemand
    from melange_sky.spec.scenarios import ScenarioChanges
    from melange_sky.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """One mix of sizes: its label, its workload at the highest rate asked of it, and what was prepared for it.

    `problem` holds only options that are weighed. Of several models `workload` is the first's.
    """

    label: str
    workload: Workload
    prepared: PreparedProblem
    problem: Problem

    def at_rate(self, rate_rps: float) -> Mix:
        """Return it with its problem at a total rate, of which each model keeps its part."""
        return replace(self, problem=at_rate(self.problem, rate_rps))

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """The workload of each model, in the order of the spec."""
        if len(self.problem.demands) == 1:
            return (self.workload,)
        return tuple(demand.workload for demand in self.problem.demands)

    @property
    def parts(self) -> tuple[float, ...]:
        """The part of the total rate that each model has, in the order of the spec."""
        rates = [workload.rate_rps for workload in self.workloads]
        return tuple(rate / sum(rates) for rate in rates)

    @property
    def options(self) -> tuple[OptionCapacity, ...]:
        """The options that are weighed, with their capacities for these sizes, model by model."""
        return tuple(option for demand in self.problem.demands for option in demand.options)

    @property
    def keys(self) -> dict[str, tuple[str, str]]:
        """Model and option by the name that the question knows an option by: its own, after the model's of several."""
        several = len(self.problem.demands) > 1
        return {
            f"{demand.name}: {one.option.name}" if several else one.option.name: (
                demand.name,
                one.option.name,
            )
            for demand in self.problem.demands
            for one in demand.options
        }

    @property
    def named(self) -> dict[str, OptionCapacity]:
        """The options by the names that the question knows them by."""
        return dict(zip(self.keys, self.options, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was read for a question: spec, demand with the sizes of its mixes, scenarios, offers, terms, owned units.

    `found` are the offers with those of terms pinned to their region, `offers` as a plan would have them.
    """

    spec: Spec
    demand: HourlyDemand
    sizes: Mapping[str, Histogram]
    changes: tuple[ScenarioChanges, ...]
    found: FoundOffers
    offers: tuple[PlannedOffer, ...]
    terms: tuple[Commitment, ...]
    owned: tuple[Owned, ...]
    notes: tuple[str, ...] = ()
