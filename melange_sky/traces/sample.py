"""The first rows of a trace as values by column: the evidence that everything else is told from."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SAMPLE_ROWS = 2000
MISSING = frozenset({"", "null", "none", "nan", "n/a", "na", "-", "\\n", "nil", "undefined"})
"""How a cell says that it holds nothing, in lower case."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: where it is in a record (one key, or several of nested ones), and its first values."""

    path: tuple[str, ...]
    values: tuple[Any, ...] = field(hash=False)  # lists may be among them

    @property
    def name(self) -> str:
        """Its name for people."""
        return ".".join(self.path)

    @property
    def present(self) -> list[Any]:
        """Its values without those that say nothing."""
        return [value for value in self.values if not is_missing(value)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The first rows, by column."""

    columns: tuple[Column, ...]

    def named(self, name: str) -> Column | None:
        """Return the column of a name, letters' case aside where none fits exactly."""
        folded = name.strip().casefold()
        exact = [c for c in self.columns if c.name == name or c.path[-1] == name]
        alike = [c for c in self.columns if c.name.strip().casefold() == folded]
        return next(iter(exact + alike), None)


def is_missing(value: Any) -> bool:
    """Return whether a cell holds nothing."""
    if isinstance(value, str):
        return value.strip().casefold() in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def words_of(name: str) -> list[str]:
    """Return the words of a name in lower case.

    >>> words_of("startTimeUnixNano"), words_of("ContextTokens"), words_of("gen_ai.usage.input_tokens")
    (['start', 'time', 'unix', 'nano'], ['context', 'tokens'], ['gen', 'ai', 'usage', 'input', 'tokens'])
    """
    return [word.lower() for word in _WORD.findall(name)]


def sample_of(rows: Sequence[dict[tuple[str, ...], Any]]) -> Sample:
    """Return rows of flattened records as columns, in the order in which their keys come up."""
    paths = dict.fromkeys(path for row in rows for path in row)
    return Sample(
        columns=tuple(
            Column(path=path, values=tuple(row.get(path) for row in rows)) for path in paths
        )
    )
