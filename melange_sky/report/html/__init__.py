"""Reports as self-contained HTML files: `document` is what a page is, the modules beside it what each result tells."""

from melange_sky.report.html.document import (
    Page,
    Section,
    Table,
    Tile,
    Verdict,
    figures_html,
    page_html,
)
from melange_sky.report.html.of_answers import comparison_page, simulation_page, sweep_page
from melange_sky.report.html.of_plan import plan_page
from melange_sky.report.html.of_reserve import reserve_page

__all__ = [
    "Page",
    "Section",
    "Table",
    "Tile",
    "Verdict",
    "comparison_page",
    "figures_html",
    "page_html",
    "plan_page",
    "reserve_page",
    "simulation_page",
    "sweep_page",
]
