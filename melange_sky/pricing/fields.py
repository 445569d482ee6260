"""Cells of a price table: text to numbers, with a flag where a cell cannot be used."""

from __future__ import annotations

import math

from melange_sky.offers import Flag, FlagScope, Severity

_EMPTY = frozenset({"", "nan", "none", "null", "n/a", "na"})


def read_number(text: str | None) -> float | None:
    """Return the number in a cell, None where it is empty, unreadable or not finite.

    >>> read_number("1.5"), read_number(""), read_number("inf"), read_number("x")
    (1.5, None, None, None)
    """
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    # float() takes "1_0" and non-ASCII digits, which no price table writes
    return value if math.isfinite(value) and "_" not in text and text.isascii() else None


def read_price(text: str | None, touches: FlagScope) -> tuple[float | None, Flag | None]:
    """Return a positive price in USD per hour, or None and the flag that says why not.

    An empty spot price is normal (no spot is sold) and carries no flag.
    """
    value = read_number(text)
    if value is not None and value > 0:
        return value, None
    kind = "spot" if touches is FlagScope.SPOT else "on-demand"
    stripped = (text or "").strip().casefold()
    if stripped in _EMPTY:
        if touches is FlagScope.SPOT:
            return None, None
        return None, _block(
            "price-missing", touches, "no on-demand price: not sold on demand, or unknown"
        )
    if value is None:
        return None, _block("price-unreadable", touches, f"the {kind} price is not a finite number")
    if value == 0:
        return None, _block("price-zero", touches, f"the {kind} price is zero")
    return None, _block("price-negative", touches, f"the {kind} price is negative")


def _block(code: str, touches: FlagScope, message: str) -> Flag:
    return Flag(code=code, severity=Severity.BLOCK, touches=touches, message=message)
