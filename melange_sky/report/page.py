"""One description of a result, printed as plain text or as HTML for notebooks.

A result is shown by a function `(printer, result)`; `text_of` and `html_of` give it a printer. HTML
holds text and tables alone, every word escaped: a name can never become markup.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from rich.table import Table
from rich.text import Text

from melange_sky.report.terminal import plain_console

T = TypeVar("T")

_CELL = "padding:0 0.8em 0 0;text-align:{align};vertical-align:top"


class Printer(Protocol):
    """What is printed on: rich's Console or an `HtmlPage`."""

    def print(self, *objects: str | Table, markup: bool = ..., soft_wrap: bool = ...) -> None:
        """Print text, with rich's markup unless `markup` is False, or a table."""


def text_of(show: Callable[[Printer, T], None], result: T, *, width: int | None = None) -> str:
    """Return what `show` prints as plain text of `width` columns, None for a fixed number."""
    buffer = io.StringIO()
    show(_PlainPrinter(buffer, width), result)
    return buffer.getvalue()


def html_of(show: Callable[[Printer, T], None], result: T) -> str:
    """Return what `show` prints as one HTML element."""
    page = HtmlPage()
    show(page, result)
    return page.html()


class _PlainPrinter:
    def __init__(self, buffer: io.StringIO, width: int | None) -> None:
        self._console = plain_console(buffer, width)

    def print(self, *objects: str | Table, markup: bool = True, soft_wrap: bool = False) -> None:
        self._console.print(*objects, markup=markup, soft_wrap=soft_wrap)


class HtmlPage:
    """Takes what a console would print; see `html`."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def print(self, *objects: str | Table, markup: bool = True, soft_wrap: bool = False) -> None:
        """Add text or tables; without an object, an empty line."""
        del soft_wrap  # a browser wraps by itself
        for thing in objects or ("",):
            if isinstance(thing, Table):
                self._parts.append(_table_html(thing))
            else:
                self._parts.append(_line_html(_plain(thing) if markup else thing))

    def html(self) -> str:
        """Return everything printed as one element."""
        return f"<div>{''.join(self._parts)}</div>"


def rows_html(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return a table of a header and rows of plain text; `right` are columns aligned to the right."""
    aligns = ["right" if i in right else "left" for i in range(len(rows[0]))]
    return f"<div>{_grid_html(rows, aligns)}</div>"


def lines_html(text: str) -> str:
    """Return plain text with its columns and line breaks kept."""
    return f"<pre>{_safe(text)}</pre>"


def _table_html(table: Table) -> str:
    header = [_plain(str(column.header)) for column in table.columns]
    columns = [[_plain(str(cell)) for cell in column.cells] for column in table.columns]
    aligns = ["right" if column.justify == "right" else "left" for column in table.columns]
    return _grid_html([header, *zip(*columns, strict=True)], aligns)


def _grid_html(rows: Sequence[Sequence[str]], aligns: Sequence[str]) -> str:
    head, *body = [
        "".join(
            f'<{tag} style="{_CELL.format(align=align)}">{_safe(cell)}</{tag}>'
            for cell, align in zip(row, aligns, strict=True)
        )
        for row, tag in ((row, "td" if n else "th") for n, row in enumerate(rows))
    ]
    lines = "".join(f"<tr>{row}</tr>" for row in body)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _line_html(text: str) -> str:
    return f'<div style="white-space:pre-wrap">{_safe(text) or "&nbsp;"}</div>'


def _plain(marked: str) -> str:
    """Return the text of rich's markup."""
    return Text.from_markup(marked, emoji=False).plain


def _safe(text: str) -> str:
    """Escape text for HTML; control characters, which a browser might act on, become question marks."""
    from html import escape  # text does without

    return escape("".join(c if c.isprintable() or c == "\n" else "?" for c in text))
