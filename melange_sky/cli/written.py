"""Options that write a result to a file besides showing it: as HTML, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from melange_sky.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.report.figures import Figure
    from melange_sky.report.html import Page

html_option = click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the result as one HTML file that needs nothing else.",
)
figure_option = click.option(
    "--figure",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also draw the result: FILE.png or FILE.svg.",
)
KINDS = (".png", ".svg")


def check_written(html: Path | None = None, figure: Path | None = None) -> None:
    """Raise InputError before any work where one of the files cannot be written."""
    from melange_sky.planner.output_files import check_target

    if html is not None:
        check_target(html, report=True)
    if figure is not None:
        if figure.suffix.lower() not in KINDS:
            raise InputError(f"--figure {figure}: the name must end in {' or '.join(KINDS)}")
        check_target(figure)


def write_page(path: Path, page: Page) -> None:
    """Write a report, told on stderr."""
    from melange_sky.planner.output_files import check_target, write_text
    from melange_sky.report.html import page_html

    text = page_html(page)
    check_target(path, report=True)
    write_text(path, text)
    click.echo(f"wrote {path}", err=True)


def write_figures(path: Path, figures: Sequence[Figure]) -> None:
    """Write figures one below the other as a picture, told on stderr."""
    from melange_sky.planner.output_files import write_bytes
    from melange_sky.report.figures import picture_of

    write_bytes(path, picture_of(figures, path.suffix.lower().removeprefix(".")))
    click.echo(f"wrote {path}", err=True)
