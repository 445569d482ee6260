"""Two averages as a workload: sizes spread log-normally around their means, input and output independent.

Request sizes of chat traffic are skewed: many short, few long. Where only a mean is known, they are spread
as those of the Azure conversation trace of 2023 about are (squared variation 0.92 of its inputs, 0.60 of its
outputs, 95th percentile at 2.1 to 3.5 times the mean): with a log-normal's σ of 0.75, its 95th percentile at
2.6 times the mean. A 95th percentile that is given fixes σ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from melange_sky.errors import clip
from melange_sky.spec.edges import MAX_TOKENS
from melange_sky.spec.grid import FINE_EDGES, INPUT_LEVELS, OUTPUT_LEVELS
from melange_sky.spec.histogram import Histogram
from melange_sky.spec.problems import Place

USUAL_SIGMA = 0.75
LONGEST_LEVEL = 0.999
"""Where the sizes end: the level that the longest request is taken at."""

Z95 = 1.6448536269514722
MOST_P95 = math.exp(Z95 * Z95 / 2)
"""Largest ratio of a log-normal's 95th percentile to its mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Token counts of one side: their mean, and σ of their logarithm. `has_p95`: σ was given, not assumed."""

    mean: float
    sigma: float
    has_p95: bool

    def at(self, level: float) -> float:
        """Return the size that this fraction of the requests stays at or under."""
        if not self.sigma:
            return self.mean
        return math.exp(self._mu + self.sigma * NormalDist().inv_cdf(level))

    def below(self, tokens: float) -> tuple[float, float]:
        """Return the fraction of the requests up to a size, and their part of all tokens."""
        if not self.sigma:
            part = float(tokens >= self.mean)
            return part, part
        if tokens <= 0:
            return 0.0, 0.0
        z = (math.log(tokens) - self._mu) / self.sigma
        return NormalDist().cdf(z), NormalDist().cdf(z - self.sigma)

    @property
    def _mu(self) -> float:
        return math.log(self.mean) - self.sigma**2 / 2

    @property
    def text(self) -> str:
        """The sizes for people."""
        if not self.sigma:
            return f"all {self.mean:g}"
        given = "" if self.has_p95 else ", assumed"
        return f"mean {self.mean:g}, p95 {self.at(0.95):.0f}{given}"


def read_sizes(value: Any, place: Place) -> Sizes | None:
    """Return sizes from a number or ``{mean, p95}``; None with the problem noted."""
    if isinstance(value, dict):
        unknown = [str(key) for key in value if key not in ("mean", "p95")]
        if unknown:
            place.add(f"unknown key '{clip(unknown[0])}'; known: mean, p95")
            return None
        mean, p95 = value.get("mean"), value.get("p95")
        if mean is None:
            place.add("mean is missing")
            return None
    else:
        mean, p95 = value, None
    if not _is_size(mean) or (p95 is not None and not _is_size(p95)):
        place.add(
            f"must be a number of tokens from 1 to {MAX_TOKENS}, or {{mean: 1000, p95: 3000}}"
        )
        return None
    if p95 is None:
        return Sizes(mean=float(mean), sigma=USUAL_SIGMA, has_p95=False)
    ratio = p95 / mean
    if ratio < 1:
        place.add(f"p95 is {p95:g}, below the mean {mean:g}")
        return None
    if ratio > MOST_P95:
        place.add(
            f"p95 is {ratio:.2g} times the mean, more than a log-normal's can be ({MOST_P95:.2f}): the sizes are of"
            " several kinds; give a trace or a histogram"
        )
        return None
    sigma = Z95 - math.sqrt(max(0.0, Z95**2 - 2 * math.log(ratio)))
    return Sizes(mean=float(mean), sigma=sigma, has_p95=True)


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= MAX_TOKENS
    )


def histogram_of_averages(inputs: Sizes, outputs: Sizes) -> Histogram:
    """Return the buckets of independent sizes, each with its requests' true mean size."""
    sides = [_buckets(inputs, INPUT_LEVELS), _buckets(outputs, OUTPUT_LEVELS)]
    (in_edges, in_parts), (out_edges, out_parts) = sides
    return Histogram(
        input_edges=in_edges,
        output_edges=out_edges,
        weights=tuple(tuple(p * q for q, _ in out_parts) for p, _ in in_parts),
        input_sizes=tuple(tuple(size for _ in out_parts) for _, size in in_parts),
        output_sizes=tuple(tuple(size for _, size in out_parts) for _ in in_parts),
        warnings=_assumed(inputs, outputs),
        source=f"averages: input {inputs.text}; output {outputs.text} tokens, log-normal and independent",
    )


def _assumed(inputs: Sizes, outputs: Sizes) -> tuple[str, ...]:
    sides = [
        name
        for name, sizes in (("input", inputs), ("output", outputs))
        if sizes.sigma and not sizes.has_p95
    ]
    if not sides:
        return ()
    text = (
        f"only the mean of {' and '.join(sides)} tokens is given: sizes are spread log-normally around it, the 95th"
        " percentile at 2.6 × the mean; {mean, p95} in its place, or a trace, plans for the spread that you have"
    )
    return (text,)


def _buckets(
    sizes: Sizes, levels: tuple[float, ...]
) -> tuple[tuple[int, ...], list[tuple[float, float]]]:
    """Return edges, and for each bucket its fraction of the requests with their mean size.

    What lies beyond the last edge counts in the last bucket.
    """
    if not sizes.sigma:
        return (0, math.ceil(sizes.mean)), [(1.0, sizes.mean)]
    ends = [sizes.at(min(level, LONGEST_LEVEL)) for level in levels]
    edges = sorted(
        {0, *(next(e for e in FINE_EDGES if e >= min(end, MAX_TOKENS)) for end in ends)} - {0}
    )
    parts: list[tuple[float, float]] = []
    known: list[int] = [0]
    low = (0.0, 0.0)
    for edge in edges:
        high = (1.0, 1.0) if edge == edges[-1] else sizes.below(edge)
        fraction, tokens = high[0] - low[0], (high[1] - low[1]) * sizes.mean
        if fraction > 1e-9:
            parts.append((fraction, max(1.0, tokens / fraction)))
            known.append(edge)
            low = high
    return tuple(known), parts
