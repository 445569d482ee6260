"""The histogram that a gateway saw, on disk in the form a spec takes."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.errors import InputError

if TYPE_CHECKING:
    from melange_sky.spec.histogram import HistogramBuilder


class ObservedFile:
    """Counts finished requests by size, per planned model, and writes them; no content, no names.

    With several models each gets a file of its own, its plan's name before the ending.
    """

    def __init__(self, path: Path) -> None:
        """Check that the folder is there, so that the mistake is told at the start."""
        if not path.parent.is_dir() or path.is_dir():
            raise InputError(f"--observed: cannot write {path}: not a file in an existing folder")
        self._path = path
        self._lock = threading.Lock()  # requests are counted while a thread writes
        self._builders: dict[str, HistogramBuilder] = {}

    def add(self, model: str, arrival_s: float, input_tokens: int, output_tokens: int) -> None:
        """Count one request; the first of a model starts its histogram."""
        from melange_sky.spec.histogram import HistogramBuilder

        with self._lock:
            builder = self._builders.get(model)
            if builder is None:
                builder = self._builders[model] = HistogramBuilder()
            builder.add(arrival_s, input_tokens, output_tokens)

    def write(self) -> None:
        """Write each model's file, whole or not at all. Raises InputError where it cannot."""
        from melange_sky.spec.histogram import histogram_yaml

        with self._lock:
            texts = {
                name: histogram_yaml(builder.histogram("observed by the gateway"))
                for name, builder in self._builders.items()
            }
        for name, text in texts.items():
            path = self._path
            if len(texts) > 1:
                path = path.with_name(f"{path.stem}-{name}{path.suffix}")
            _replace(path, text)


def _replace(path: Path, text: str) -> None:
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=".observed-", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        os.replace(temporary, path)  # noqa: PTH105 -- both are the same call
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
