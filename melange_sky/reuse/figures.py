"""How much of a workload's prompts was seen before, and how long ago in tokens: the stack-distance curve.

Engines keep the KV cache of ended requests and give up what was used longest ago. A token of a prompt is
then found in a cache of M tokens exactly if no more than M other tokens have been used since it was used
last (Mattson et al., IBM Systems Journal 9, 1970): its *stack distance*. So one curve, the fraction of
prompt tokens whose distance is at most M, tells the hit rate of every size of cache.
"""

from __future__ import annotations

import bisect
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The mean and the 95th percentile of something that varies."""

    mean: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """What prompts share. `stack_distance`: rising (tokens of cache, fraction of all prompt tokens found).

    `infinite_hit` is what an endless cache finds, `block_tokens` how finely the source tells what is
    shared, `shared_prefix_tokens` the beginning that most prompts have in common and `shared_fraction` its part of all prompt
    tokens. `session_turns` are the requests of a session, `think_time_s` the seconds between two of them (None where not known);
    `source` says in words how all this is known.
    """

    stack_distance: tuple[tuple[int, float], ...]
    infinite_hit: float
    block_tokens: int
    shared_prefix_tokens: int = 0
    shared_fraction: float = 0.0
    session_turns: Spread | None = None
    think_time_s: Spread | None = None
    source: str = "stated"

    @property
    def document(self) -> dict[str, Any]:
        """The figures by name, without those that are not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def hit_fraction(self, cache_tokens: float) -> float:
        """Return the fraction of prompt tokens that one cache of so many tokens finds.

        Straight between the points of the curve, 0 below the first.
        """
        points = self.stack_distance
        at = bisect.bisect_right(points, cache_tokens, key=lambda point: point[0])
        if at == 0:
            return 0.0
        low, found = points[at - 1]
        if at == len(points):
            return found
        high, more = points[at]
        return found + (more - found) * (cache_tokens - low) / (high - low)
