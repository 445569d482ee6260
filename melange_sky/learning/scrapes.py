"""One look at a server's figures: counters, gauges and the sizes of the requests that it finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

GAUGES = ("running", "waiting", "kv_use")
COUNTERS = ("decode_s", "decoded", "prompted", "first_tokens", "ttft_s")
"""Figures without which nothing is learnt: seconds between tokens and how many such gaps, tokens of prompts,
requests that got a first token, and the seconds they waited for it."""

FOUND = "prefix_found"
"""Tokens of prompts that a prefix cache held: none where a server does not count them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A histogram of requests' tokens: how many lie at most at each of rising `edges`, and their sum.

    `counts` are cumulative, one per edge, as Prometheus writes them; the last edge is infinite.
    """

    edges: tuple[float, ...]
    counts: tuple[float, ...]
    tokens: float

    @property
    def requests(self) -> float:
        """How many requests were counted."""
        return self.counts[-1] if self.counts else 0.0

    @property
    def mean(self) -> float | None:
        """Tokens a request, None where none was counted."""
        return self.tokens / self.requests if self.requests > 0 else None

    def since(self, earlier: Sizes) -> Sizes | None:
        """Return what came after an earlier look, None where the edges or counts do not follow it."""
        if self.edges != earlier.edges or self.tokens < earlier.tokens:
            return None
        counts = tuple(b - a for a, b in zip(earlier.counts, self.counts, strict=True))
        if any(count < 0 for count in counts):
            return None
        return Sizes(edges=self.edges, counts=counts, tokens=self.tokens - earlier.tokens)

    def drawn(self, rng: np.random.Generator, count: int) -> Whole:
        """Return sizes as counted: even in the logarithm within a bucket, with the mean that was seen."""
        mean = self.mean
        if mean is None:
            raise ValueError("no request was counted")
        if len(self.edges) < 3:  # no histogram but a count and a sum
            values = rng.lognormal(-0.5 * _SPREAD**2, _SPREAD, count)
        else:
            shares = np.diff((0.0, *self.counts)) / self.requests
            chosen = rng.choice(len(shares), size=count, p=shares)
            ends = np.array((*self.edges[:-1], self.edges[-2] * 2))
            starts = np.maximum(np.array((0.0, *self.edges[:-1])), 0.5)
            low, high = np.log(starts[chosen]), np.log(np.maximum(ends[chosen], 1.0))
            values = np.exp(low + (high - low) * rng.random(count))
        scaled = values * (mean / float(values.mean()))
        drawn: Whole = np.maximum(np.round(scaled), 1).astype(np.int64)
        return drawn


_SPREAD = 0.7
"""Spread of the logarithms of sizes of which only the mean is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """What one server said at one time, in seconds of a clock that may have been set in between.

    `figures`: the gauges and counters by their short names, those of several engines on one page added up
    (`kv_use`: their mean). `engines` is how many there were. `prompts` and `answers` are sizes of requests.
    """

    time_s: float
    figures: Mapping[str, float]
    engines: int = 1
    prompts: Sizes | None = None
    answers: Sizes | None = None
