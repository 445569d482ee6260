"""Token counts as logs write them: 751, 751.0, "1,234"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from melange_sky.traces.sample import MISSING, is_missing

if TYPE_CHECKING:
    import polars as pl

MAX_TOKENS = 10_000_000
RULE = f"token counts must be whole numbers from 0 to {MAX_TOKENS}"

_GROUPED = re.compile(r"[+]?\d{1,3}(?:[,'’ \u00a0\u202f_]\d{3})+(?:\.0*)?\Z")
_GROUPED_BY_DOTS = re.compile(r"\d{1,3}(?:\.\d{3})+\Z")


def as_count(value: Any) -> float | None:
    """Return a cell as the number that it writes, None where it writes none (or a fraction of a token).

    >>> as_count("1,234"), as_count("751.0"), as_count("7.5"), as_count(" 12 ")
    (1234.0, 751.0, None, 12.0)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        if _GROUPED.match(text):
            text = re.sub(r"[^\d.]", "", text)
        elif not re.match(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z", text):
            return None
        value = float(text)
    if not isinstance(value, int | float) or not abs(value) < 1e18:
        return None
    return float(value) if value == int(value) else None


def counts(text: pl.Expr) -> pl.Expr:
    """Return text cells as numbers, null for cells that are missing and for those that are no number."""
    import polars as pl

    stripped = text.str.strip_chars()
    grouped = stripped.str.contains(r"^\+?\d{1,3}([,'’ \u{a0}\u{202f}_]\d{3})+(\.0*)?$")
    plain = pl.when(grouped).then(stripped.str.replace_all(r"[^\d.]", "")).otherwise(stripped)
    return plain.cast(pl.Float64, strict=False)


def is_blank(text: pl.Expr) -> pl.Expr:
    """Return whether text cells hold nothing."""
    return text.is_null() | text.str.strip_chars().str.to_lowercase().is_in(list(MISSING))


def looks_like_counts(values: tuple[Any, ...]) -> bool:
    """Return whether a column's values are counts of tokens, as far as they are there."""
    given = [value for value in values if not is_missing(value)]
    good = sum(as_count(value) is not None for value in given)
    return not given or good >= 0.9 * len(given)
