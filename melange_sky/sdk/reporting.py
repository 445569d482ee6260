"""A result as one HTML file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.planner.price_history import price_histories
from melange_sky.report.html import page_html, plan_page
from melange_sky.sdk.arguments import plan_of

if TYPE_CHECKING:
    from melange_sky.sdk.arguments import AnyPlan


def html_report(result: AnyPlan) -> str:
    """Return a result as one HTML file that needs nothing else: figures, tables, the origin of every number.

    Args:
        result: A plan, or the plan.json or folder of one.

    Returns:
        The text of the file; write it in UTF-8.

    Raises:
        InputError: There is no plan, or it is damaged.
    """
    planned = plan_of(result)
    return page_html(plan_page(planned, price_histories(planned)))
