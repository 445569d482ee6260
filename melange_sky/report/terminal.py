"""How wide a terminal is, and how tables are written to it."""

from __future__ import annotations

import io
import shutil
import sys

from rich.console import Console

PLAIN_WIDTH = 118
"""Columns where the output is no terminal, so that a captured table is always the same."""

LEAST_WIDTH = 110
"""In fewer columns a table would lose its numbers: better that the terminal wraps its lines."""


def terminal_width() -> int:
    """Return the columns to use: those of the terminal, a fixed number where there is none."""
    if sys.stdout is None or not sys.stdout.isatty():  # closed by the caller, or no terminal
        return PLAIN_WIDTH
    return max(shutil.get_terminal_size().columns, LEAST_WIDTH)


def plain_console(buffer: io.StringIO, width: int | None) -> Console:
    """Return a console that writes plain text: no colours, and `:smile:` in a name stays what it is."""
    return Console(
        file=buffer, width=width or PLAIN_WIDTH, highlight=False, color_system=None, emoji=False
    )
