"""A grid of buckets that fits a trace: fine where its requests are, up to its longest one."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.spec.token_counts import TokenCounts

_STEPS = (10, 15, 20, 25, 30, 40, 50, 60, 80)
FINE_EDGES = (0, *(step * 10**power for power in range(6) for step in _STEPS), 10_000_000)
"""Edges that people read with ease, at most half as far apart again as the one before: 0, 10, 15 … 10^7."""

INPUT_LEVELS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
OUTPUT_LEVELS = (0.25, 0.5, 0.75, 0.9, 0.97, 1.0)
"""Fractions of the requests at or below an edge: as many buckets as the grid of the distributions."""


def fitting_edges(counts: TokenCounts, levels: tuple[float, ...]) -> tuple[int, ...]:
    """Return edges out of `FINE_EDGES` such that about these fractions of the requests lie below each.

    The last one holds the longest request. Fewer where requests are alike.

    >>> from melange_sky.spec.token_counts import TokenCounts
    >>> counts = TokenCounts()
    >>> for tokens in range(1, 1001):
    ...     counts.add(tokens)
    >>> fitting_edges(counts, (0.25, 0.5, 1.0))
    (0, 250, 500, 1000)
    """
    edges = {0}
    for tokens in counts.at_levels(levels):
        place = bisect.bisect_left(FINE_EDGES, max(tokens, 1))
        edges.add(FINE_EDGES[min(place, len(FINE_EDGES) - 1)])
    return tuple(sorted(edges)) if len(edges) > 1 else (0, FINE_EDGES[1])
