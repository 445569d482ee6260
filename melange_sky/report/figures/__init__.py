"""Figures of results: static SVG, each with its table, a caption and the origin of its numbers.

`plans` gathers those of a plan; each module beside it draws one. `canvas` alone knows Matplotlib, `style` the colours
and hatches. Import this package only where figures are wanted: it takes half a second.
"""

from melange_sky.report.figures.chart import Cell, Grid
from melange_sky.report.figures.figure import Figure, picture_of
from melange_sky.report.figures.history import history_figure
from melange_sky.report.figures.plans import model_figures, plan_figures
from melange_sky.report.figures.style import FIGURE_CSS

__all__ = [
    "FIGURE_CSS",
    "Cell",
    "Figure",
    "Grid",
    "history_figure",
    "model_figures",
    "picture_of",
    "plan_figures",
]
