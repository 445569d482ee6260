"""A report as one HTML file: nothing is fetched, nothing runs, every word is escaped.

It is read offline, from a mail's attachment as from a disk, so it has no script, no font and no picture from
elsewhere: charts are SVG within it, and a policy in its head forbids all else. Addresses of sources are text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from melange_sky.report.figures import FIGURE_CSS, Cell, Figure, Grid
from melange_sky.report.figures.numbers import printable
from melange_sky.resources import templates_dir

_OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")
_NAMESPACE = ' xmlns="http://www.w3.org/2000/svg"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One of the numbers on top, with what it is and what to know of it."""

    label: str
    cell: Cell
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The one thing to know first. `mood` is "good", "bad" or "open", and only colours what `word` says."""

    word: str
    text: str
    mood: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of a section; a folded one is opened by its reader, and by print."""

    grid: Grid
    title: str = ""
    folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of a page, in the order of its fields. Names of figures are unique within the page."""

    title: str
    paragraphs: tuple[str, ...] = ()
    facts: tuple[tuple[str, Cell], ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A report: `kind` says of what, `lead` are lines under the title, `foot` those at the end."""

    title: str
    kind: str
    lead: tuple[str, ...] = ()
    verdict: Verdict | None = None
    tiles: tuple[Tile, ...] = ()
    sections: tuple[Section, ...] = ()
    foot: tuple[str, ...] = ()


def page_html(page: Page) -> str:
    """Return the whole file. Same page, same bytes."""
    css = Markup(f"{FIGURE_CSS}\n{_shipped('style.css')}")  # both ship with the project
    return _environment().get_template("page.html").render(page=page, css=css)


def figures_html(figures: Sequence[Figure]) -> str:
    """Return figures with their tables for a notebook, which shows many results: ids are a result's own."""
    named = [replace(one, name=f"{one.name}-{_digest(one)}") for one in figures]
    parts: Any = _environment().get_template("parts.html").module
    return str(parts.notebook(named))


def _digest(figure: Figure) -> str:
    return hashlib.sha256(repr((figure.caption, figure.table)).encode()).hexdigest()[:8]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(templates_dir() / "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_inert,
    )
    environment.filters["told"] = _told
    environment.globals |= {"exact": _exact, "drawn": _drawn}
    return environment


def _shipped(name: str) -> str:
    return (templates_dir() / "report" / name).read_text(encoding="utf-8")


def _inert(value: object) -> object:
    """Return what a template shows: text without characters that a browser might act on."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value.replace("\n", " "))
    return value


def _told(text: str) -> Markup:
    """Return a sentence for a template, escaped; options within (`--verify`) are not broken after their dashes."""
    return Markup(_OPTION.sub(r'<span class="s">\g<0></span>', str(escape(_inert(text)))))


def _exact(value: float | str) -> str:
    """Return a number as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value, allow_nan=False)


def _drawn(figure: Figure) -> Markup:
    """Return a chart for a page, where SVG needs no namespace; its words were escaped as it was written."""
    return Markup(figure.svg.replace(_NAMESPACE, "", 1))
