"""Progress of a search and of replays on stderr: one moving line on a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EVERY_S = 10.0
ON_TERMINAL_S = 0.2


@contextlib.contextmanager
def telling_search() -> Iterator[tuple[Callable[[float, float], None], Callable[[int, int], None]]]:
    """Give the functions that hear of a search (its cost and bound) and of replays (done, of how many)."""
    is_terminal = bool(sys.stderr) and sys.stderr.isatty()
    began = last = time.monotonic()
    shown = 0

    def tell(text: str) -> None:
        nonlocal last, shown
        now = time.monotonic()
        if now - last < (ON_TERMINAL_S if is_terminal else EVERY_S):
            return
        last = now
        line = f"{text}, {now - began:.0f} s"
        if is_terminal:
            click.echo("\r" + line.ljust(shown), err=True, nl=False)
            shown = len(line)
        else:
            click.echo(line, err=True)

    def searching(cost: float, bound: float) -> None:
        tell(f"searching: ${cost:,.2f} found, none below ${max(bound, 0.0):,.2f}")

    def proving(done: int, total: int) -> None:
        tell(f"replayed {done} of {total} fleets and hours")

    try:
        yield searching, proving
    finally:
        if is_terminal and shown:
            click.echo("\r" + " " * shown + "\r", err=True, nl=False)
