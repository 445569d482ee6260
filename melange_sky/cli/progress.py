"""Progress of a refresh on stderr: a live line per cloud on a terminal, nothing elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from melange_sky.cli.harmless import bar_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from melange_sky.planner.hooks import Event

_MARKS = {"fetched": ("✓", "green"), "unchanged": ("=", "cyan"), "failed": ("✗", "red")}


class RefreshProgress:
    """Shows what each cloud is doing; done ones are counted, the rest are listed."""

    def __init__(self) -> None:
        self._events: dict[str, Event] = {}
        self._start = time.monotonic()
        self._spinner = Spinner("dots")
        self._console = Console(file=bar_stream())
        self._live = Live(
            console=self._console, refresh_per_second=10, transient=True, get_renderable=self._view
        )

    def __enter__(self) -> Callable[[Event], None]:
        if self._console.is_terminal:
            self._live.start()
        return self.show

    def __exit__(self, *_: object) -> None:
        if self._live.is_started:
            self._live.stop()

    def show(self, event: Event) -> None:
        """Take one event in."""
        self._events[event.cloud] = event

    def _view(self) -> RenderableType:
        done = [e for e in self._events.values() if e.state not in ("waiting", "reading")]
        running = [e for e in self._events.values() if e.state in ("waiting", "reading")]
        line = Text()
        for event in done:
            mark, style = _MARKS.get(event.state, ("·", "dim"))
            line.append(f"{mark} {event.cloud}  ", style=style)
        seconds = time.monotonic() - self._start
        text = f"{len(done)} of {len(self._events)} clouds after {seconds:.0f} s"
        self._spinner.update(text=text)
        rows = [Text(f"  {e.cloud:<15}{e.state} {e.detail}", style="dim") for e in running[:12]]
        return Group(self._spinner, *rows, line)
