"""Bucket edges: what is wrong with them, and how a command line gives them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from melange_sky.errors import InputError, clip

MAX_TOKENS = 10_000_000
"""Largest edge: more tokens than any request has."""


def edges_problem(edges: Sequence[int]) -> str | None:
    """Return what is wrong with bucket edges, None for good ones."""
    rising = all(low < high for low, high in itertools.pairwise(edges))
    if len(edges) < 2 or edges[0] < 0 or not rising or edges[-1] > MAX_TOKENS:
        return f"must rise strictly from 0 or more, at most {MAX_TOKENS} tokens"
    return None


def parse_edges(text: str | None, option: str) -> tuple[int, ...] | None:
    """Read ``0,25,100``; None for None. Raises InputError naming `option`."""
    if text is None:
        return None
    try:
        edges = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{option}: '{clip(text)}' must be whole numbers such as 0,25,100"
        ) from None
    wrong = edges_problem(edges)
    if wrong is not None or len(edges) > 201:
        raise InputError(f"{option}: {wrong or 'at most 201 edges'}")
    return edges
