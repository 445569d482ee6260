"""Which losses a fleet does not survive: found fleet by fleet, so that only those enter the program."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

from melange_sky.optimizer.rules.attainment import Attainment
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.rules.serving import Serve
from melange_sky.optimizer.search.shares import TOLERANCE, peak_load, peak_shares

if TYPE_CHECKING:
    from collections.abc import Iterator

    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import Scenario
    from melange_sky.optimizer.search.shares import Shares

_AFTER_LOSS = frozenset({Serve.name, Attainment.name})
"""What must hold after a loss; shares per region or cloud are a rule for the whole fleet."""


def worst_loss(
    canonical: Canonical, problem: Problem, options: SolveOptions, instances: list[int]
) -> Scenario | None:
    """Return the loss of `spare` instances of one model that overloads the rest most, if any does.

    Raises TimeUpError where not every loss could be looked at.
    """
    spare = RuleSet.of(problem, options).spare_instances
    worst: tuple[float, Scenario] | None = None
    for demand in range(len(canonical.demands)):
        of_demand = canonical.of_demand(demand)
        if spare == 0 or not canonical.buckets[demand]:
            continue
        counts = {k: instances[k] for k in of_demand if instances[k]}
        for scenario in _losses(counts, spare):
            alone, remaining = _after(canonical, instances, scenario)
            peak = peak_load(alone, problem, options, remaining, _AFTER_LOSS)
            peak = math.inf if peak is None else peak
            if peak > (1 - problem.headroom) * (1 + 10 * TOLERANCE) and (
                worst is None or peak > worst[0]
            ):
                worst = peak, scenario
    return None if worst is None else worst[1]


def shares_after_loss(
    canonical: Canonical,
    problem: Problem,
    options: SolveOptions,
    instances: list[int],
    scenario: Scenario,
) -> Shares | None:
    """Return who serves what after a loss, None where nothing does.

    Of the demand of the lost instances alone, its buckets numbered from 0. Raises TimeUpError.
    """
    alone, left = _after(canonical, instances, scenario)
    return peak_shares(alone, problem, options, left, _AFTER_LOSS)


def _losses(counts: dict[int, int], spare: int) -> Iterator[Scenario]:
    """Yield every way to lose `spare` instances, or all where there are fewer."""
    size = min(spare, sum(counts.values()))
    for lost in combinations_with_replacement(sorted(counts), size):
        scenario = tuple((k, lost.count(k)) for k in sorted(set(lost)))
        if all(n <= counts[k] for k, n in scenario):
            yield tuple((k, spare) for k, _ in scenario) if size < spare else scenario


def _after(
    canonical: Canonical, instances: list[int], scenario: Scenario
) -> tuple[Canonical, list[int]]:
    """Return the problem of the demand that loses instances, and what is left of that demand's."""
    lost = dict(scenario)
    demand = canonical.columns[scenario[0][0]].demand
    left = [
        max(0, count - lost.get(k, 0)) if canonical.columns[k].demand == demand else 0
        for k, count in enumerate(instances)
    ]
    return _only_demand(canonical, demand), left


def _only_demand(canonical: Canonical, demand: int) -> Canonical:
    """Return the problem with the buckets of one demand, its columns in their places."""
    return type(canonical)(
        demands=canonical.demands,
        buckets=tuple(b if d == demand else () for d, b in enumerate(canonical.buckets)),
        columns=canonical.columns,
    )
