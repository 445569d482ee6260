"""Why no fleet was found that holds: limits too tight for every option, or rules that leave too few."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.constraints import Constraints
from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.planner.replay_loop.replan import accelerator_count
from melange_sky.planner.replay_loop.search import kinds_of
from melange_sky.planner.replay_loop.tighten import LARGEST_FACTOR, holds_grown

if TYPE_CHECKING:
    from melange_sky.planner.replay_loop.replan import Replanner
    from melange_sky.planner.replay_loop.search import Search
    from melange_sky.plans import ModelPlan
    from melange_sky.replay import Simulation


def why_none(search: Search, k: int, missed: Simulation) -> str:
    """Return why no fleet of model `k` was found that holds; `missed` is the replay to tell of.

    Raises StopSearchError.
    """
    free = replace(search.replanner.first, constraints=Constraints(spot=missed.plan.spot))
    one = replace(search.replanner, first=free).part(k)
    fleets = [f for kind in sorted(kinds_of(missed.plan)) if (f := _of_kind(one, kind)) is not None]
    for fleet in [*fleets, missed.plan]:
        search.journal.check()
        if holds_grown(fleet, LARGEST_FACTOR, search.simulation):
            return (
                f"{missed.plan.name}: no fleet that keeps to the spec's own rules was found to hold, yet one "
                f"{LARGEST_FACTOR} times as large as {fleet.fleet_text()} does: the limits of the SLO can be "
                "met, so allow more (resources.limits, budget, other rules)"
            )
    worst = min(missed.verdict.buckets, key=lambda b: (b.attainment - 1) * b.requests)
    tried = ", ".join(dict.fromkeys(f.fleet_text().split(" × ")[1] for f in fleets)) or "none"
    return (
        f"{missed.plan.name}: the SLO is missed even by fleets {LARGEST_FACTOR} times as large, of each option "
        f"alone that can serve all sizes ({tried}) and of the plan, most in "
        f"{missed.plan.workload.label(*worst.bucket)} ({worst.attainment:.0%} within limits): the limits are "
        "too tight for these accelerators rather than the fleet too small"
    )


def _of_kind(one: Replanner, kind: tuple[str, int]) -> ModelPlan | None:
    """Return the model's fleet of one accelerator and count alone, None where there is none."""
    (model,) = one.first.models
    options = tuple(c for c in model.candidates if accelerator_count(c) == kind)
    alone = replace(one.first, models=(replace(model, candidates=options, allocations=()),))
    try:
        return replace(one, first=alone).plan([{}]).models[0]
    except (InfeasibleError, NoPlanInTimeError):
        return None
