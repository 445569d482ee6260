"""A plan's figures for the page: drawn by the report's own renderer, once per plan file."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from melange_sky.plans import Plan
    from melange_sky.report.figures import Figure

MOST_KEPT = 32
"""Plans whose drawings are kept; the one that was not looked at longest goes."""


class Drawings:
    """Draws in whichever thread asks: half a second for the library, tenths of one for a figure."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[Plan, tuple[Figure, ...]]] = OrderedDict()

    def figures(self, plan: Plan) -> tuple[Figure, ...]:
        """Return a plan's figures; the same plan gets the same ones."""
        with self._lock:
            known = self._kept.get(id(plan))
            if known is None or known[0] is not plan:
                from melange_sky.report.figures import plan_figures

                known = (plan, plan_figures(plan))
                self._kept[id(plan)] = known
            self._kept.move_to_end(id(plan))
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            return known[1]


def figure_document(figure: Figure) -> dict[str, Any]:
    """Return a figure's words and its table; the drawing has a route of its own."""
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "origin": figure.origin,
        "header": list(figure.table.header),
        "rows": [[cell.text for cell in row] for row in figure.table.rows],
    }
