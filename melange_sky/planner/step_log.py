"""What `-v` and `-vv` say of planning: counts of each step, then each offer, option and share.

The optimizer says nothing of itself: what it left out is asked of it once more, only where it is logged.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.search.levels import levelled_forms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer import Demand, Problem, Solution, SolveOptions
    from melange_sky.planner.options import PlannedOffer
    from melange_sky.plans import PlanWarning
    from melange_sky.pricing import OfferBook

log = logging.getLogger(__name__)


def log_offers(
    book: OfferBook, usable: Sequence[PlannedOffer], rejected: Sequence[PlanWarning]
) -> None:
    """Say how many offers match and how many are planned with; then each, and why others are not."""
    log.info(
        "%d offers match, %d planned with (an instance type's cheapest region stands for all)",
        len(book.offers),
        len(usable),
    )
    for warning in rejected:
        log.debug("left out [%s]: %s", warning.code, warning.message)
    for planned in usable:
        offer, kind = planned.offer, "spot" if planned.use_spot else "on demand"
        log.debug(
            "%s/%s %s, %s: $%.4f/h",
            offer.cloud,
            offer.region,
            offer.instance_type,
            kind,
            planned.price_usd_per_hour,
        )


def log_options(demand: Demand) -> None:
    """Say how many options a model has; then each with its rates' range."""
    log.info("%s: %d options built", demand.name, len(demand.options))
    for candidate in demand.options:
        rates = [c.max_rate_rps for row in candidate.cells for c in row if c.max_rate_rps]
        span = f"{min(rates):.3g} to {max(rates):.3g} req/s" if rates else "serves nothing"
        log.debug("%s: %s", candidate.option.name, span)


def log_dominated(problem: Problem, options: SolveOptions) -> None:
    """Say how many options no best plan needs, and which; computed only where it is logged."""
    if not log.isEnabledFor(logging.INFO):
        return
    try:
        forms = levelled_forms(problem, options.started())
    except TimeUpError:
        log.info("no time to say which options are dominated")
        return
    except InfeasibleError:
        return  # the optimizer is about to say so
    kept = {
        (form.canonical.demands[column.demand].name, column.name)
        for form in forms
        for column in form.canonical.columns
    }
    names = sorted((d.name, c.option.name) for d in problem.demands for c in d.options)
    dominated = [name for name in names if name not in kept]
    log.info("%d of %d options dominated", len(dominated), len(names))
    for _, option in dominated:
        log.debug("dominated: %s", option)


def log_solution(solution: Solution) -> None:
    """Say what the solver found, how surely and how fast; then each allocation."""
    report = solution.report
    log.info(
        "solved: $%.4f/h, %s, gap %.3g, %.2f s, %s",
        solution.cost_usd_per_hour,
        report.status,
        report.mip_gap,
        report.solve_seconds,
        report.solver,
    )
    for allocations in solution.allocations:
        for a in allocations:
            log.debug(
                "%d x %s, load %.1f %%", a.instances, a.candidate.option.name, 100 * a.load_fraction
            )
