"""Several models under rules: each with the rules of its own, and what the rules that span models ask of all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.deadline import NEVER, Deadline
from melange_sky.optimizer.problem.question import SolveOptions
from melange_sky.optimizer.rules.groups import Minimum
from melange_sky.optimizer.rules.instances import Limits
from melange_sky.optimizer.rules.registry import RULES, RuleSet
from melange_sky.optimizer.search.levels import MOST_COMBINATIONS, at_levels, checked_levels
from melange_sky.reserve.linear_rules import LinearRules
from melange_sky.reserve.ruled import RuledServed, ruled_by
from melange_sky.reserve.ruled_cone import column_places
from melange_sky.reserve.shared import Ties
from melange_sky.reserve.together import Models

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.optimizer.problem.question import Problem
    from melange_sky.reserve.ruled_cone import Place

_SPAN_MODELS = (Limits, Minimum)
"""Rules whose rows are of the instances of all models together."""


def models_of(
    problem: Problem, places: Mapping[Place, int], options: int, deadline: Deadline = NEVER
) -> Models:
    """Return the models of a problem, in its order, with what ties them; `places` as `ruled_by` has them.

    Make the problem at the highest rate that is asked for of each model. What is paid already is no rule of it.

    Raises InfeasibleError where a size is served by no option or no fleet keeps to the shares, TimeUpError.
    """
    constraints = problem.constraints
    for rule in RULES:
        constraints = rule.untied(constraints) or constraints
    alone, counted = [], 1
    own = np.zeros((len(problem.demands), options))
    for m, demand in enumerate(problem.demands):
        part = replace(problem, demands=(demand,), constraints=constraints)
        alone.append(ruled_by(part, places, options, deadline))
        counted *= len(at_levels(part))
        own[m, [places[demand.name, one.option.name] for one in demand.options]] = 1.0
    rules = RuleSet.of(problem, SolveOptions()).rules
    (form, *_) = checked_levels(problem, deadline)
    ties = LinearRules.of_form(form, rules, _SPAN_MODELS)
    at = column_places(form.canonical, places)

    def whole(shares: tuple[float, ...]) -> RuledServed:
        total = sum(demand.workload.rate_rps for demand in problem.demands)
        demands = tuple(
            replace(demand, workload=demand.workload.at_rate(share * total))
            for demand, share in zip(problem.demands, shares, strict=True)
            if share > 0
        )
        return ruled_by(replace(problem, demands=demands), places, options, deadline)

    return Models(
        alone,
        Ties(rules=ties.at(at, options), own=own),
        whole if counted <= MOST_COMBINATIONS else None,
    )
