"""Progress of a replay on stderr: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from melange_sky.cli.harmless import bar_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from melange_sky.planner.hooks import ReplayProgress


class ReplayBar:
    """How near the attainment's interval is to the width asked for: its square goes with requests."""

    def __init__(self) -> None:
        console = Console(file=bar_stream())
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("replaying", total=1.0)

    def __enter__(self) -> Callable[[ReplayProgress], None]:
        self._bar.start()
        return self.show

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: ReplayProgress) -> None:
        """Take one state in."""
        done = min(1.0, (progress.aim / max(progress.half_width, 1e-9)) ** 2)
        text = (
            f"replayed {progress.requests:,} requests, attainment known to "
            f"±{progress.half_width:.2g} of ±{progress.aim:g}"
        )
        self._bar.update(self._task, completed=done, description=text)
