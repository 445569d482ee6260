"""Matplotlib, and nothing of it elsewhere: charts become SVG elements or picture files, the same each time.

Taken because it is the kept library that hatches (Vega has no pattern), renders without a browser's engine
(Vega's renderer ships one, 84 MB) and keeps text as text. It takes half a second to import: no module that plans may.
"""

from __future__ import annotations

import io
import math
import operator
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import matplotlib as mpl
from matplotlib.figure import Figure as Sheet
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle
from matplotlib.transforms import Affine2D

from melange_sky.rendering.shown import MAKER
from melange_sky.report.figures.numbers import printable, shortened
from melange_sky.report.figures.style import INK, LINE, MUTED, ON, PAPER
from melange_sky.report.figures.svg import Words, tidy

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from melange_sky.report.figures.chart import Chart, Key

T = TypeVar("T")

WIDTH = 372.0
"""CSS pixels: what a phone shows at its full size."""

TEXT = 10.5
"""Size of the letters in pixels; that of titles in picture files is half as large again."""

DASHES = (0, (3, 2))
"""How a line is broken that is a limit or a target."""

_ROW, _GAP, _SWATCH, _TITLE = 16.0, 12.0, 12.0, 30.0
_MARKERS = {"point": "o", "diamond": "D", "cross": "x"}
_LOCK = threading.RLock()
"""Matplotlib's settings are the process's: one chart at a time."""

_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "melange-sky",
    "font.family": "DejaVu Sans",
    "font.size": TEXT,
    "text.parse_math": False,
    "text.color": INK,
    "hatch.linewidth": 0.7,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": TEXT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": TEXT,
    "ytick.labelsize": TEXT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "path.simplify": False,
}


@contextmanager
def _settings() -> Iterator[None]:
    """Hold Matplotlib's own defaults with ours, whatever the user's file of settings says."""
    with _LOCK, mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from"
        )  # the reader's fonts have it
        mpl.rcdefaults()
        settings: Any = mpl.rcParams
        settings.update(_SETTINGS)
        yield


def text_width(text: str, size: float = TEXT) -> float:
    """Return how many pixels a line of text is wide."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        font = get_font(findfont(FontProperties(family="DejaVu Sans")))
        font.set_size(size, 72)
        font.set_text(text, 0.0)
        return float(font.get_width_height()[0]) / 64


def _fitted(text: str, width: float) -> str:
    """Return a text that takes at most so many pixels, the middle of a long one left out."""
    shown = printable(text)
    length = len(shown)
    while length > 1 and text_width(shown) > width:
        length = min(length - 1, int(length * width / text_width(shown)))
        shown = shortened(printable(text), max(length, 3))
    return shown


def _key_label(key: Key) -> str:
    return _fitted(key.label, WIDTH - 16 - _SWATCH - 5)


def svg_of(chart: Chart, name: str, words: Words) -> str:
    """Return a chart as one SVG element, its colours as variables; `name` begins its ids."""
    with _settings():
        sheet = _sheet([("", chart)], titled=False)
        buffer = io.StringIO()
        sheet.savefig(buffer, format="svg", metadata=_NOTHING)
    words = Words(title=printable(words.title), description=printable(words.description))
    return tidy(buffer.getvalue(), name, words)


def picture_of_charts(charts: Sequence[tuple[str, Chart]], kind: str) -> bytes:
    """Return charts one below the other, each under its title, as the bytes of a "png" or "svg" file."""
    with _settings():
        sheet = _sheet(charts, titled=True)
        buffer = io.BytesIO()
        if kind == "svg":
            made = {**_NOTHING, "Creator": MAKER}
            sheet.savefig(buffer, format="svg", metadata=made, facecolor=PAPER)
        else:
            made = {"Software": MAKER}
            sheet.savefig(buffer, format="png", metadata=made, facecolor=PAPER, dpi=144)
    return buffer.getvalue()


_NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}


def _sheet(charts: Sequence[tuple[str, Chart]], *, titled: bool) -> Sheet:
    """Return charts with their titles on one sheet, measured in pixels: 72 to Matplotlib's inch."""
    head = _TITLE if titled else 0.0
    heights = [_height(chart) + head for _, chart in charts]
    total = sum(heights)
    sheet = Sheet(figsize=(WIDTH / 72, total / 72), dpi=72)
    sheet.patch.set_alpha(1.0 if titled else 0.0)
    top = total
    for (title, chart), height in zip(charts, heights, strict=True):
        if titled:
            at = 8 / WIDTH, (top - 20) / total
            sheet.text(
                *at, _fitted(title, (WIDTH - 16) / 1.4), fontsize=TEXT * 1.2, fontweight="bold"
            )
        _place(sheet, chart, (top - head, total))
        top -= height
    return sheet


def _height(chart: Chart) -> float:
    labels = 18.0 + (14.0 if chart.x_label else 0.0)
    rows = len(_legend_rows(chart.keys))
    return chart.top + chart.height + labels + (rows * _ROW + 8.0 if rows else 0.0)


def _place(sheet: Sheet, chart: Chart, at: tuple[float, float]) -> None:
    """Draw one chart below `at`: its upper end, in pixels from the bottom of a sheet so high."""
    top, total = at
    left = 10.0 + max((text_width(printable(label)) for label in chart.row_labels), default=0.0)
    left += chart.left + (14.0 if chart.y_label else 0.0)
    low = top - chart.top - chart.height
    width = WIDTH - left - chart.right
    axes = sheet.add_axes((left / WIDTH, low / total, width / WIDTH, chart.height / total))
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    if chart.x_label:
        axes.set_xlabel(chart.x_label, labelpad=3)
    if chart.y_label:
        x = (7.0 - left) / width
        axes.text(
            x, 0.5, chart.y_label, rotation=90, ha="center", va="center", color=MUTED,
            transform=axes.transAxes,
        )  # fmt: skip
    chart.draw(axes)
    bottom = low - 18.0 - (14.0 if chart.x_label else 0.0) - 8.0
    for row in _legend_rows(chart.keys):
        x = 8.0
        for key in row:
            for mark in _marks(key, x, bottom):
                mark.set_transform(Affine2D().scale(1 / 72) + sheet.dpi_scale_trans)
                sheet.add_artist(mark)
            sheet.text(
                (x + _SWATCH + 5) / WIDTH, (bottom - 9) / total, _key_label(key), va="baseline"
            )
            x += _key_width(key)
        bottom -= _ROW


def _key_width(key: Key) -> float:
    return _SWATCH + 5 + text_width(_key_label(key)) + _GAP


def _legend_rows(keys: Sequence[Key]) -> list[list[Key]]:
    """Return the entries of a legend row by row, as many as fit into each."""
    rows: list[list[Key]] = []
    used = math.inf
    for key in keys:
        width = _key_width(key)
        if used + width - _GAP > WIDTH - 8:
            rows.append([])
            used = 8.0
        rows[-1].append(key)
        used += width
    return rows


def _marks(key: Key, x: float, top: float) -> list[Artist]:
    """Return the sample of a legend's entry, in pixels of the sheet."""
    middle = top - 5.5
    if key.mark == "line":
        dashes: Any = DASHES if key.dashed else "-"
        return [
            Line2D(
                [x, x + _SWATCH], [middle] * 2, color=key.colour, linewidth=1.8, linestyle=dashes
            )
        ]
    if key.mark in _MARKERS:
        place = [x + _SWATCH / 2], [middle]
        return [
            Line2D(*place, color=key.colour, marker=_MARKERS[key.mark], markersize=6, linestyle="")
        ]
    box = (x, top - 11), _SWATCH, 11
    if key.mark == "late":
        corner = [(x + _SWATCH - 7, top), (x + _SWATCH, top), (x + _SWATCH, top - 7)]
        return [
            Rectangle(*box, facecolor=MUTED, linewidth=0),
            Polygon(corner, facecolor=ON, edgecolor=MUTED, linewidth=0.6),
        ]
    return [Rectangle(*box, facecolor=key.colour, edgecolor=ON, hatch=key.hatch, linewidth=0)]


def bar(axes: Axes, box: tuple[float, float, float, float], colour: str, hatch: str = "") -> None:
    """Draw a bar: `box` is left, bottom, width and height in the axes' own units."""
    left, bottom, width, height = box
    axes.add_patch(
        Rectangle(
            (left, bottom), width, height, facecolor=colour, edgecolor=ON, hatch=hatch, linewidth=0
        )
    )


def bar_rows(axes: Axes, labels: Sequence[str], most: float) -> None:
    """Prepare axes for horizontal bars: a row per label, the first on top, from 0 to `most`."""
    axes.set_xlim(0, most or 1.0)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), [printable(label) for label in labels])
    axes.spines["bottom"].set_visible(False)
    axes.grid(visible=True, axis="x")
    few_ticks(axes)


def name_ticks(axes: Axes, words: Callable[[float], str], *, axis: Literal["x", "y"] = "x") -> None:
    """Write words at the ticks within an axis' limits, which stay."""
    low, high = axes.get_xlim() if axis == "x" else axes.get_ylim()
    places = axes.get_xticks() if axis == "x" else axes.get_yticks()
    shown = [float(place) for place in places if min(low, high) <= place <= max(low, high)]
    if axis == "x":
        axes.set_xticks(shown, [words(place) for place in shown])
        axes.set_xlim(low, high)
    else:
        axes.set_yticks(shown, [words(place) for place in shown])
        axes.set_ylim(low, high)


def apart(marks: Sequence[tuple[T, float]], gap: float) -> list[tuple[T, float]]:
    """Return marks with heights that are at least `gap` from each other, lowest first, none lower than it was."""
    below, placed = -math.inf, []
    for mark, height in sorted(marks, key=operator.itemgetter(1)):
        below = max(height, below + gap)
        placed.append((mark, below))
    return placed


def few_ticks(axes: Axes) -> None:
    """Leave room between the ticks of the horizontal axis for words of up to five letters."""
    width = axes.get_position().width * WIDTH
    axes.locator_params(axis="x", nbins=max(2, int(width // 48)))
