"""The one table of `make bench`: every script notes its figures here, `summary.py` draws them up.

A figure is ours, beside it what a rival takes for the same work and what the work could take at best
(the limit: the solver alone, the reader alone, a proxy in C). Growth is a series over sizes, told as the
power of the size by which it grows. Rows are kept as JSON lines, so that a script that is cut off leaves
what it had found.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "build" / "bench"
ROWS = FOLDER / "rows.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What stands beside our figure: whose, and how much, None where it was not had (and why)."""

    name: str
    value: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row; `at_most` is the target for ours (or, with `of_limit`, for ours ÷ limit)."""

    what: str
    ours: float | None
    unit: str = "s"
    rival: Beside | None = None
    limit: Beside | None = None
    at_most: float | None = None
    at_least: float | None = None
    of_limit: float | None = None
    more_is_better: bool = False
    note: str = ""
    script: str = field(default_factory=lambda: Path(sys.argv[0]).stem)

    @property
    def met(self) -> bool | None:
        """Whether every target holds; None where there is none or no figure."""
        if self.ours is None:
            return None
        ratio = over(self.ours, self.limit)
        checks = [
            None if self.at_most is None else self.ours <= self.at_most,
            None if self.at_least is None else self.ours >= self.at_least,
            None
            if self.of_limit is None or ratio is None
            else (ratio >= self.of_limit if self.more_is_better else ratio <= self.of_limit),
        ]
        known = [check for check in checks if check is not None]
        return all(known) if known else None

    @property
    def target(self) -> str:
        """The targets in words, empty without."""
        sign = "≥" if self.more_is_better else "≤"
        told = [
            "" if self.at_most is None else f"≤ {shown(self.at_most, self.unit)}",
            "" if self.at_least is None else f"≥ {shown(self.at_least, self.unit)}",
            "" if self.of_limit is None else f"{sign} {self.of_limit:g} × limit",
        ]
        return ", ".join(filter(None, told))


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How something grows: values at sizes, None where one was cut off."""

    what: str
    over: str
    sizes: tuple[float, ...]
    values: tuple[float | None, ...]
    unit: str = "s"
    script: str = field(default_factory=lambda: Path(sys.argv[0]).stem)

    @property
    def exponent(self) -> float | None:
        """The power of the size by which it grows: the slope of a straight line through the logarithms."""
        pairs = [
            (math.log(n), math.log(v)) for n, v in zip(self.sizes, self.values, strict=True) if v
        ]
        if len(pairs) < 2:
            return None
        x0, y0 = (sum(axis) / len(pairs) for axis in zip(*pairs, strict=True))
        spread = sum((x - x0) ** 2 for x, _ in pairs)
        return sum((x - x0) * (y - y0) for x, y in pairs) / spread


def over(ours: float, beside: Beside | None) -> float | None:
    """Return ours ÷ theirs, None where theirs is not known."""
    return None if beside is None or not beside.value else ours / beside.value


def shown(value: float | None, unit: str) -> str:
    """Return a figure in words: three digits that count."""
    if value is None:
        return "–"
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{number} {unit}".strip()


def note(row: Figure | Growth) -> None:
    """Print a row and keep it for the table."""
    print(line(row), flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with ROWS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": type(row).__name__, **asdict(row)}) + os.linesep)


def line(row: Figure | Growth) -> str:
    """Return a row as one line of text."""
    if isinstance(row, Growth):
        power = "not known" if row.exponent is None else f"{row.exponent:.2f}"
        points = ", ".join(
            f"{n:g}: {shown(v, row.unit)}" for n, v in zip(row.sizes, row.values, strict=True)
        )
        return f"{row.what} grows with {row.over} as its power of {power} ({points})"
    parts = [f"{row.what}: {shown(row.ours, row.unit)}"]
    for beside in (row.rival, row.limit):
        if beside is not None:
            ratio = None if row.ours is None else over(row.ours, beside)
            told = beside.note if beside.value is None else shown(beside.value, row.unit)
            parts.append(f"{beside.name} {told}" + ("" if ratio is None else f" ({ratio:.2f} ×)"))
    if row.target:
        parts.append(f"target {row.target}{'' if row.met is not False else ': MISSED'}")
    return "; ".join([*parts, *([row.note] if row.note else [])])


def rows() -> Sequence[Figure | Growth]:
    """Return every row kept since the last `make bench` began."""
    return [_row(json.loads(text)) for text in ROWS.read_text(encoding="utf-8").splitlines()]


def _row(document: dict[str, Any]) -> Figure | Growth:
    kind = document.pop("kind")
    if kind == "Growth":
        return Growth(**{k: tuple(v) if isinstance(v, list) else v for k, v in document.items()})
    for key in ("rival", "limit"):
        document[key] = document[key] and Beside(**document[key])
    return Figure(**document)
