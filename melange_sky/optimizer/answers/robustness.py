"""What wrong figures could do: the fleet's cost range, a fleet that bears them, and other fleets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.optimizer.answers.optimum import optimize
from melange_sky.optimizer.program.termination import Termination

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.question import Problem, Robustness, Solution, SolveOptions

Mix = tuple[tuple[str, int], ...]
"""Option names and instances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustReport:
    """Costs in USD per hour.

    `price_low` … `price_high`: the unprotected fleet if every price moves alike. `protected` is the
    cheapest fleet whose shares still fit under the throughput error (Bertsimas & Sim 2004), and
    `premium` what it costs more; None with a `reason` where no fleet bears the error, or none was found
    in time: `status`, a value of `Termination`, says which.
    """

    cost_usd_per_hour: float
    price_low_usd_per_hour: float
    price_high_usd_per_hour: float
    protected_usd_per_hour: float | None
    premium_usd_per_hour: float | None
    protected: Mix
    status: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherFleet:
    """Another fleet: `kind` "simplest" or "alternative", what differs, and its cost."""

    kind: str
    mix: Mix
    cost_usd_per_hour: float
    differs: str


def robust_report(
    problem: Problem, options: SolveOptions, robustness: Robustness, price_error: float
) -> RobustReport:
    """Return what errors of capacities and prices (fractions) could do to the optimum."""
    plain = optimize(problem, replace(options, robustness=None))
    cost = plain.cost_usd_per_hour
    low, high = cost * (1 - price_error), cost * (1 + price_error)
    try:
        safe = optimize(problem, replace(options, robustness=robustness))
    except (InfeasibleError, NoPlanInTimeError) as error:
        late = isinstance(error, NoPlanInTimeError)
        return RobustReport(
            cost_usd_per_hour=cost,
            price_low_usd_per_hour=low,
            price_high_usd_per_hour=high,
            protected_usd_per_hour=None,
            premium_usd_per_hour=None,
            protected=(),
            status=(Termination.LIMIT if late else Termination.INFEASIBLE).value,
            reason=str(error),
        )
    return RobustReport(
        cost_usd_per_hour=cost,
        price_low_usd_per_hour=low,
        price_high_usd_per_hour=high,
        protected_usd_per_hour=safe.cost_usd_per_hour,
        premium_usd_per_hour=safe.cost_usd_per_hour - cost,
        protected=mix_of(safe),
        status=safe.report.status,
    )


def other_fleets(
    problem: Problem, options: SolveOptions, alternatives: int, within_fraction: float
) -> tuple[OtherFleet, ...]:
    """Return the simplest fleet within the band, where one is asked for, then the alternatives."""
    fleets: list[OtherFleet] = []
    if within_fraction > 0:
        simple = optimize(problem, replace(options, within_fraction=within_fraction))
        dearer = simple.cost_usd_per_hour - simple.optimum_usd_per_hour
        mix = mix_of(simple)
        text = ", ".join(f"{n} x {name}" for name, n in mix)
        fleets.append(
            OtherFleet(
                kind="simplest",
                mix=mix,
                cost_usd_per_hour=simple.cost_usd_per_hour,
                differs=f"{text} (${dearer:+.2f}/h)",
            )
        )
    if alternatives > 0:
        solution = optimize(problem, replace(options, alternatives=alternatives))
        fleets += [
            OtherFleet(
                kind="alternative",
                mix=tuple(
                    (a.candidate.option.name, a.instances)
                    for allocations in other.allocations
                    for a in allocations
                ),
                cost_usd_per_hour=other.cost_usd_per_hour,
                differs=other.differs,
            )
            for other in solution.alternatives
        ]
    return tuple(fleets)


def mix_of(solution: Solution) -> Mix:
    """Return a solution's option names and instances."""
    return tuple(
        (a.candidate.option.name, a.instances)
        for allocations in solution.allocations
        for a in allocations
    )
