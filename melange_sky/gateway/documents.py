"""JSON of clients and replicas, read by the fastest reader that takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable


def parsed(text: bytes, otherwise: Callable[[bytes], Any]) -> Any:
    """Return a JSON text as it reads; `otherwise` reads what orjson does not take, and raises ValueError.

    orjson is the stricter: no NaN, no half of a character of two, no number beyond all floats. Whole
    numbers beyond 64 bits come out as floats.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return otherwise(text)
