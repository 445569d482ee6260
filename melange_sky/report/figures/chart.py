"""What figures are made of: cells of a table, entries of a legend, and how a chart is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.report.figures.style import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Cell:
    """What a reader sees, and the number or word behind it as the document has it (None: no such)."""

    text: str
    value: float | str | None = None

    @property
    def is_number(self) -> bool:
        """Whether it is aligned as numbers are."""
        return isinstance(self.value, int | float)


UNKNOWN = Cell("-")
"""What is shown where a number is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table: a header, and rows of as many cells."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def number_columns(self) -> frozenset[int]:
        """The columns in which some cell holds a number."""
        return frozenset(n for row in self.rows for n, cell in enumerate(row) if cell.is_number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One entry of a legend; `mark` is "area", "line", "point", "diamond", "cross" or "late" (a corner)."""

    label: str
    colour: str = INK
    hatch: str = ""
    mark: str = "area"
    dashed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """How a figure is drawn. Sizes in CSS pixels: `height` is that of its axes, `left` and `right` of the space beside them.

    The longest of `row_labels` adds to the space on the left; `draw` puts marks on prepared axes.
    """

    draw: Callable[[Axes], None]
    height: float
    row_labels: tuple[str, ...] = ()
    x_label: str | None = None
    y_label: str | None = None
    left: float = 0.0
    right: float = 14.0
    top: float = 8.0
    keys: tuple[Key, ...] = ()
