"""A figure with what it must never be without: its numbers as a table, a sentence, and their origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from melange_sky.report.figures.canvas import picture_of_charts, svg_of
from melange_sky.report.figures.chart import Chart, Grid
from melange_sky.report.figures.svg import Words


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart, its numbers and what they are. `name` tells it from others of the same result.

    `caption` is a sentence on what is seen, `origin` says in words how the numbers are known.
    """

    name: str
    title: str
    caption: str
    origin: str
    table: Grid
    chart: Chart

    @cached_property
    def svg(self) -> str:
        """The chart as one SVG element: static, text as text, no script, nothing fetched.

        Colours are CSS variables with a light colour to fall back on (see `FIGURE_CSS`).
        """
        return svg_of(self.chart, self.name, Words(title=self.title, description=self.caption))


def picture_of(figures: Sequence[Figure], kind: str) -> bytes:
    """Return figures one below the other, each under its title, as the bytes of a "png" or "svg" file."""
    return picture_of_charts([(figure.title, figure.chart) for figure in figures], kind)
