"""The histogram that a gateway saw, on disk in the form a spec takes."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.planner.output_files import write_text
from melange_sky.reuse import ReuseCounter
from melange_sky.spec.histogram import histogram_yaml
from melange_sky.spec.histogram_builder import HistogramBuilder

if TYPE_CHECKING:
    from melange_sky.reuse import Reuse, SeenPrompt

_SOURCE = "observed by the gateway"


class ObservedFile:
    """Counts finished requests by size, per planned model, and writes them; no content, no names.

    With several models each gets a file of its own, its plan's name before the ending.
    """

    def __init__(self, path: Path) -> None:
        """Check that the folder is there, so that a mistake shows at the start."""
        if not path.parent.is_dir() or path.is_dir():
            raise InputError(f"--observed: cannot write {path}: not a file in an existing folder")
        self._path = path
        self._lock = threading.Lock()  # requests are counted while a thread writes
        self._builders: dict[str, HistogramBuilder] = {}
        self._shared: dict[str, ReuseCounter] = {}

    def add(
        self,
        model: str,
        arrival_s: float,
        input_tokens: int,
        output_tokens: int,
        prompt: SeenPrompt | None = None,
    ) -> None:
        """Count one request, and what its `prompt` shares; the first of a model starts its histogram."""
        with self._lock:
            builder = self._builders.get(model)
            if builder is None:
                builder = self._builders[model] = HistogramBuilder()
            builder.add(arrival_s, input_tokens, output_tokens)
            if prompt is not None:
                shared = self._shared.setdefault(model, ReuseCounter())
                shared.add(arrival_s, input_tokens, output_tokens, prompt)

    def _reuse_of(self, model: str) -> Reuse | None:
        counter = self._shared.get(model)
        return None if counter is None else counter.reuse(_SOURCE)

    def write(self) -> None:
        """Write each model's file, whole or not at all. Raises InputError where it cannot."""
        with self._lock:
            texts = {
                name: histogram_yaml(
                    replace(builder.histogram(_SOURCE), reuse=self._reuse_of(name))
                )
                for name, builder in self._builders.items()
            }
        for name, text in texts.items():
            path = self._path
            if len(texts) > 1:
                path = path.with_name(f"{path.stem}-{name}{path.suffix}")
            write_text(path, text)
