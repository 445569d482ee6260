"""What every kind of trace file is read as: a sample of rows, then chunks of the columns that matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from melange_sky.traces.sample import Column, Sample

MAX_LINE = 1 << 26
"""Longest line in bytes: logs may hold whole prompts."""

BLOCK_BYTES = 1 << 19
MOST_BLOCK_BYTES = 1 << 22
BLOCK_ROWS = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some rows of the asked columns, in their order and named by their place: "0", "1", …

    Cells are text, or numbers where the column is of numbers only. `where` tells a row of the chunk; `wrong`
    is the first row that is not whole, and why.
    """

    frame: pl.DataFrame
    where: Callable[[int], str]
    wrong: tuple[int, str] | None = None


def block_bytes(path: Path) -> int:
    """Return how much of a file is parsed at once: more of a large one, so that each block costs less."""
    return min(max(BLOCK_BYTES, path.stat().st_size // 64), max(BLOCK_BYTES, MOST_BLOCK_BYTES))


class Table(Protocol):
    """A trace file of one kind."""

    @property
    def kind(self) -> str:
        """What it is, for people."""
        ...

    @property
    def begins(self) -> str:
        """The place of its header, as messages begin."""
        ...

    def sample(self) -> Sample:
        """Return its first rows."""
        ...

    def chunks(self, columns: Sequence[Column], numeric: Sequence[bool]) -> Iterator[Chunk]:
        """Yield all rows; `numeric`: whether a column was of numbers in the sample."""
        ...
