"""Requests counted by their tokens, in fixed memory."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_LISTED = 1 << 17
"""Tokens of the longest requests that are counted in a list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenQuantiles:
    """Tokens per request at which half, 95 and 99 % of the requests are covered, and the most."""

    p50: int
    p95: int
    p99: int
    longest: int


@dataclass(slots=True)
class TokenCounts:
    """Requests by their tokens: four bytes per size up to `MOST_LISTED`, the few beyond by name."""

    listed: array[int] = field(default_factory=lambda: array("I"))
    beyond: Counter[int] = field(default_factory=Counter)

    def add(self, tokens: int) -> None:
        """Count one request."""
        if tokens > MOST_LISTED:
            self.beyond[tokens] += 1
            return
        if tokens >= len(self.listed):
            self.listed.frombytes(bytes(4 * (tokens + 1 - len(self.listed))))
        self.listed[tokens] += 1

    def add_all(self, tokens: NDArray[np.int64]) -> None:
        """Count many requests."""
        if int(tokens.max(initial=0)) > MOST_LISTED:
            listed = tokens <= MOST_LISTED
            self.beyond.update(tokens[~listed].tolist())
            tokens = tokens[listed]
        counts = np.bincount(tokens).astype(np.uint32)
        if len(counts) > len(self.listed):
            self.listed.frombytes(bytes(4 * (len(counts) - len(self.listed))))
        np.frombuffer(self.listed, dtype=np.uint32)[: len(counts)] += counts

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yield tokens and requests, by rising tokens."""
        yield from ((tokens, count) for tokens, count in enumerate(self.listed) if count)
        yield from sorted(self.beyond.items())

    @property
    def longest(self) -> int:
        """Most tokens of a request, 0 of none."""
        return max(self.beyond, default=max(0, len(self.listed) - 1))

    def at_levels(self, levels: tuple[float, ...]) -> list[int]:
        """Return the tokens that these rising fractions of the requests stay at or under; empty of none."""
        total = sum(self.listed) + self.beyond.total()
        found: list[int] = []
        seen = 0
        for tokens, count in self.pairs():
            seen += count
            while len(found) < len(levels) and seen >= levels[len(found)] * total - 1e-9:
                found.append(tokens)
        return found

    def quantiles(self) -> TokenQuantiles | None:
        """Return the quantiles, None of no request."""
        found = self.at_levels((0.5, 0.95, 0.99))
        if not found:
            return None
        return TokenQuantiles(p50=found[0], p95=found[1], p99=found[2], longest=self.longest)
