"""Whether a logged request was answered: told by status codes and words, by flags, by what an error holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from melange_sky.traces.sample import Column, is_missing, words_of

if TYPE_CHECKING:
    import polars as pl

_STATES = frozenset(["status", "state", "outcome", "level"])
_ERRORS = frozenset(
    ["error", "errors", "exception", "err", "failure", "failed", "aborted", "cancelled", "canceled"]
)
_SUCCESSES = frozenset(["success", "succeeded", "successful", "ok"])
_NOT_OUTCOMES = frozenset(
    [
        "rate",
        "count",
        "time",
        "at",
        "message",
        "retries",
        "id",
        "budget",
        "log",
        "model",
        "text",
        "trace",
        "tokens",
    ]
)
_FAILED_WORDS = (
    r"error|fail|time[d_ ]*out|cancel|abort|reject|exception|denied|dropped|killed|exhaust|unavailable|overload"
    r"|too[_ ]many|invalid|refused|disconnect|in[_ ]progress|running|queued|pending"
)
_FINE_WORDS = (
    r"succe|^ok$|_ok$|complete|done|finish|stop|length|unset|default|info|debug|warn|notice|tool|end_turn|max_tokens"
    r"|answered|served|created|accepted|active|logged|200"
)
_FALSE = (
    "",
    "0",
    "false",
    "no",
    "none",
    "null",
    "nan",
    "{}",
    "[]",
    "ok",
    "n/a",
    "na",
    "-",
    "0.0",
    "undefined",
    "success",
)


def _kind(column: Column) -> str | None:
    """Return what a column says of the outcome: state, error, success or finish; None for nothing."""
    parts = [part for key in column.path for part in key.split(".")]
    leaf = words_of(parts[-1])
    parent = words_of(parts[-2]) if len(parts) > 1 else []
    words = set(leaf)
    if words & _NOT_OUTCOMES and not (words & _ERRORS and "message" in words):
        return None
    if words & _ERRORS or (set(parent) & _ERRORS and words <= {"code", "type", "message"}):
        return "error"
    if words & _SUCCESSES:
        return "success"
    if words & _STATES or (set(parent) & _STATES and leaf in (["code"], ["status"])):
        return "state"
    if leaf in (["finish", "reason"], ["stop", "reason"]) or (
        parent == ["finish", "reason"] and leaf == ["type"]
    ):
        return "state"
    return None


def is_outcome(column: Column) -> bool:
    """Return whether a column says if its request was answered."""
    if _kind(column) is None or not column.present:
        return False
    return all(
        isinstance(v, str | int | float | bool | dict | list) or is_missing(v)
        for v in column.values
    )


def failed(column: Column, text: pl.Expr) -> pl.Expr:
    """Return whether requests failed by a column's cells, as text; null cells say nothing.

    Codes: HTTP's 400 and more; 2 where all are 0, 1 or 2 (the status of an OpenTelemetry span).
    """
    import polars as pl

    kind = _kind(column) or "state"
    cell = text.str.strip_chars().str.to_lowercase()
    if kind == "error":
        found = ~cell.is_in(list(_FALSE))
    elif kind == "success":
        found = cell.is_in(["false", "0", "no", "0.0", "failure", "failed", "error"])
    else:
        code = cell.cast(pl.Float64, strict=False)
        found = cell.str.contains(_FAILED_WORDS) | (code >= 400) | (code == _span_error(column))
    return found.fill_null(value=False)


def not_understood(column: Column, text: pl.Expr) -> pl.Expr:
    """Return the cells that no rule knows; they count as answered and are told."""
    import polars as pl

    cell = text.str.strip_chars().str.to_lowercase()
    if _kind(column) in ("error", "success"):
        return pl.lit(value=False)
    code = cell.cast(pl.Float64, strict=False)
    known = (code >= 100) | ((code >= 0) & (code <= 2)) | cell.is_in(list(_FALSE))
    known |= cell.str.contains(_FAILED_WORDS) | cell.str.contains(_FINE_WORDS)
    return ~known.fill_null(value=True)


def _span_error(column: Column) -> float:
    codes = set(map(_code, column.present))
    return 2.0 if codes <= {0.0, 1.0, 2.0} else -1.0


def _code(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return -1.0
