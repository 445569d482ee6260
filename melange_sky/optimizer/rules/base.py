"""What a rule is: the rows it adds, its words, its check, and what it breaks in the prunings.

A rule that is not asked for has no object: `of` returns None, and nobody needs to ask about it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from melange_sky.capacities import DeploymentOption
    from melange_sky.constraints import Constraints
    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.optimizer.problem.question import Demand, Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.plans import Allocation
    from melange_sky.workload import Matrix

LateShares = tuple[tuple[float, "Matrix"], ...]
"""Shares that are served late, by the attainment that is expected of them."""

TOLERANCE = 2e-6
"""What a check lets pass, as a fraction: more than the solver's tolerances, less than any rule means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """A rule, or one of its parts, that could be given up.

    `loosen(constraints, step)` makes it looser by so many steps; at `steps` it asks for nothing.
    `remedy(step)` says in words what one would have to do. `priced_step` is the smallest step that
    could matter, such as the GPUs of one more instance. `is_budget` marks the one whose least
    step is the least cost without it.
    """

    text: str
    steps: int
    loosen: Callable[[Constraints, int], Constraints]
    remedy: Callable[[int], str]
    priced_step: int = 1
    is_budget: bool = False

    def relaxed(self, problem: Problem, step: int) -> Problem:
        """Return the problem with this clause looser by `step`."""
        return replace(problem, constraints=self.loosen(problem.constraints, step))

    def dropped(self, problem: Problem) -> Problem:
        """Return the problem without this clause."""
        return self.relaxed(problem, self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedFleet:
    """A fleet as it would be returned, for rules to check: nouns only, nothing of the program.

    `goal_usd_per_hour` is what the search made least. `shares_after_loss(demand, lost)` proposes,
    per option name, who serves what, and what of that late, once so many instances of options (by name)
    are gone, None where it knows of no way; whoever asks checks the proposal.
    """

    problem: Problem
    options: SolveOptions
    demands: tuple[Demand, ...]
    allocations: tuple[tuple[Allocation, ...], ...]
    goal_usd_per_hour: float
    shares_after_loss: Callable[
        [int, Mapping[str, int]], Mapping[str, tuple[Matrix, LateShares]] | None
    ]

    def all_allocations(self) -> list[Allocation]:
        """Return the allocations of all demands."""
        return [allocation for of_demand in self.allocations for allocation in of_demand]

    @property
    def cost_usd_per_hour(self) -> float:
        """What is billed."""
        return sum(allocation.cost_usd_per_hour for allocation in self.all_allocations())


def can_serve(allocation: Allocation, demand: Demand) -> bool:
    """Return whether an allocation's option serves any request of its model at all, be it late."""
    return any(
        demand.way_rate(allocation.candidate, i, j, way)
        for i, j in demand.workload.buckets()
        for way in range(1 + len(demand.late_levels))
    )


class Rule(ABC):
    """One kind of constraint, as one problem asks for it.

    What it breaks is said by the members below `violations`; all but `may_replace` have an answer
    for rules that break nothing there.
    """

    __slots__ = ()

    name: ClassVar[str]
    """Its name in the registry, in golden files and in the names of its rows."""

    speaks_of_shares: ClassVar[bool] = False
    """Whether its rows bind shares alone, so that it still binds once the instances are settled."""

    spans_models: ClassVar[bool] = False
    """Whether it binds the models of a problem together, so that none can be planned by itself."""

    weight: ClassVar[int] = 0
    """How much its user means it: where rules clash, lighter ones are tried without first."""

    @classmethod
    @abstractmethod
    def of(cls, problem: Problem, options: SolveOptions) -> Rule | None:
        """Return the rule as the problem or the options ask for it, None where they do not."""

    @classmethod
    def input_problems(cls, problem: Problem) -> Iterable[str]:
        """Return what makes no sense in how a problem asks for the rule, a sentence each."""
        return ()

    @classmethod
    def among(cls, constraints: Constraints, options: Sequence[DeploymentOption]) -> Constraints:
        """Return constraints as they are to be kept by a fleet of only these options.

        Raises InfeasibleError where no such fleet can keep the rule.
        """
        return constraints

    @classmethod
    def untied(cls, constraints: Constraints) -> Constraints | None:
        """Return constraints without a rule that spans models, None where fleets are dearer without it."""
        return constraints

    @abstractmethod
    def add_rows(self, program: IntegerProgram) -> None:
        """Add its variables and rows; the docstring of each rule states the inequality."""

    @abstractmethod
    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return its parts that could be given up. `bounds` are the most instances per column."""

    @abstractmethod
    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield, in words, where a finished fleet breaks it: plain arithmetic, no solver believed."""

    @abstractmethod
    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return whether `copies` instances of `other` may stand for each instance of `column`.

        All instances of the column go at once, whatever else is in the fleet. The copies carry at
        least what one instance of the column does, in every bucket and no later, for no higher price.
        """

    changes_goal: ClassVar[bool] = False
    """Whether the goal is another than Σ price × instances, so that no bound of the cost bounds it."""

    counts_instances: ClassVar[bool] = False
    """Whether it asks for a number of instances, which a fleet cut down to a lower rate may lack."""

    counts_types: ClassVar[bool] = False
    """Whether it counts the options in use, so that one must not become several."""

    names_options: ClassVar[bool] = False
    """Whether it names options, so that the most promising ones by price alone may miss them."""

    tells_options_apart: ClassVar[bool] = True
    """Whether an option may be wanted that another of its accelerator beats at price and every rate."""

    @property
    def tells_places_apart(self) -> bool:
        """Whether it speaks of clouds, regions or instances: then no region stands for the others."""
        return False

    @property
    def rivals_needed(self) -> int:
        """How many options must each be able to replace one before it is needless."""
        return 1

    @property
    def spare_instances(self) -> int:
        """How many instances of a model may be lost, and so come on top of those that serve."""
        return 0

    @property
    def least_instances(self) -> int:
        """How many instances it may want of a column, whatever serves the rate."""
        return 0

    @property
    def usable_fraction(self) -> float:
        """What it leaves of an instance's capacity, headroom apart."""
        return 1.0

    def pins(self, column: Column, demand_name: str) -> bool:
        """Return whether it names this column, which then stays whatever it costs."""
        return False

    def finds_room(self, canonical: Canonical, column: Column, others: Sequence[Column]) -> bool:
        """Return whether each instance of the column finds room on one of the others.

        Asked only where `may_replace` is not enough, of columns that all other rules let replace it.
        """
        return False

    def goal_beyond_cost(self, canonical: Canonical, instances: Sequence[int]) -> float:
        """Return what it adds to the goal of these instances per column, in USD per hour."""
        return 0.0
