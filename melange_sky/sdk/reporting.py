"""A result as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.planner.price_history import price_histories
from melange_sky.planner.saved_results import saved_reservation
from melange_sky.plans import Plan
from melange_sky.report.html import (
    comparison_page,
    page_html,
    plan_page,
    reserve_page,
    simulation_page,
    sweep_page,
)
from melange_sky.sdk.answering import Sweep
from melange_sky.sdk.arguments import plan_of
from melange_sky.sdk.replaying import Comparison, Simulations
from melange_sky.sdk.reserving import Advised

if TYPE_CHECKING:
    from melange_sky.report.html import Page
    from melange_sky.sdk.arguments import AnyPlan


def html_report(result: AnyPlan | Simulations | Comparison | Sweep | Advised) -> str:
    """Return a result as one HTML file that needs nothing else: figures, tables, the origin of every number.

    Args:
        result: What `plan`, `simulate`, `compare`, `sweep` or `reservation` returned, or the folder of a plan or of a
            reservation.

    Returns:
        The text of the file; write it in UTF-8.

    Raises:
        InputError: There is no plan, or it is damaged.
    """
    return page_html(_page(result))


def _page(result: AnyPlan | Simulations | Comparison | Sweep | Advised) -> Page:
    if isinstance(result, Simulations):
        return simulation_page(result, " and ".join(one.plan.name for one in result))
    if isinstance(result, Comparison):
        return comparison_page(result, "Comparison")
    if isinstance(result, Sweep):
        return sweep_page(result, "Sweep")
    if isinstance(result, Advised):
        return reserve_page(result.document)
    saved = None if isinstance(result, Plan) else saved_reservation(Path(result))
    if saved is not None:
        return reserve_page(saved)
    planned = plan_of(result)
    return plan_page(planned, price_histories(planned))
