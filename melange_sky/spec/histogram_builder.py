"""Requests counted on the bucket grid."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.rates import RateCounter
from melange_sky.spec.histogram import Histogram, OptionalMatrix
from melange_sky.spec.token_counts import MOST_LISTED, TokenCounts
from melange_sky.workload import DEFAULT_INPUT_EDGES, DEFAULT_OUTPUT_EDGES, Coverage

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(slots=True)
class HistogramBuilder:
    """Counts requests one by one. Requests beyond the grid go to the outermost bucket."""

    input_edges: tuple[int, ...] = DEFAULT_INPUT_EDGES
    output_edges: tuple[int, ...] = DEFAULT_OUTPUT_EDGES
    requests: int = 0
    beyond: int = 0
    empty_outputs: int = 0
    inputs: TokenCounts = field(default_factory=TokenCounts)
    outputs: TokenCounts = field(default_factory=TokenCounts)
    rates: RateCounter = field(default_factory=RateCounter)
    counts: list[list[int]] = field(default_factory=list)
    input_sums: list[list[int]] = field(default_factory=list)
    output_sums: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows, columns = len(self.input_edges) - 1, len(self.output_edges) - 1
        for table in (self.counts, self.input_sums, self.output_sums):
            table.extend([0] * columns for _ in range(rows))

    def add(self, arrival_s: float | None, input_tokens: int, output_tokens: int) -> None:
        """Count one request; `arrival_s` None where its time is unknown."""
        i = bisect.bisect_left(self.input_edges, input_tokens) - 1
        j = bisect.bisect_left(self.output_edges, output_tokens) - 1
        rows, columns = len(self.counts), len(self.counts[0])
        if i >= rows or j >= columns:
            self.beyond += 1
        i, j = min(max(i, 0), rows - 1), min(max(j, 0), columns - 1)
        self.requests += 1
        self.counts[i][j] += 1
        self.input_sums[i][j] += input_tokens
        self.output_sums[i][j] += output_tokens
        self.inputs.add(input_tokens)
        self.outputs.add(output_tokens)
        self.empty_outputs += output_tokens == 0
        if arrival_s is not None:
            self.rates.add(arrival_s)

    def add_all(
        self,
        arrival_s: NDArray[np.float64],
        input_tokens: NDArray[np.int64],
        output_tokens: NDArray[np.int64],
    ) -> None:
        """Count many requests; arrays of shape (requests,)."""
        rows, columns = len(self.counts), len(self.counts[0])
        i = _buckets_of(self.input_edges, input_tokens)
        j = _buckets_of(self.output_edges, output_tokens)
        if i.max(initial=0) >= rows or j.max(initial=0) >= columns:
            self.beyond += int(np.count_nonzero((i >= rows) | (j >= columns)))
        places = np.clip(i, 0, rows - 1, out=i)
        places *= columns
        places += np.clip(j, 0, columns - 1, out=j)
        for table, weights in (
            (self.counts, None),
            (self.input_sums, input_tokens),
            (self.output_sums, output_tokens),
        ):
            sums = np.bincount(places, weights=weights, minlength=rows * columns)
            for place in np.flatnonzero(sums).tolist():
                table[place // columns][place % columns] += int(sums[place])
        self.requests += len(input_tokens)
        self.inputs.add_all(input_tokens)
        self.outputs.add_all(output_tokens)
        self.empty_outputs += int(np.count_nonzero(output_tokens == 0))
        if not np.isnan(arrival_s[:1]).any():
            self.rates.add_all(arrival_s)

    def on(self, input_edges: tuple[int, ...], output_edges: tuple[int, ...]) -> HistogramBuilder:
        """Return the same counts on a coarser grid, whose edges are among this one's.

        The last edges must hold every request.
        """
        coarse = HistogramBuilder(
            input_edges=input_edges,
            output_edges=output_edges,
            requests=self.requests,
            beyond=self.beyond,
            empty_outputs=self.empty_outputs,
            inputs=self.inputs,
            outputs=self.outputs,
            rates=self.rates,
        )
        rows, columns = (
            _places(self.input_edges, input_edges),
            _places(self.output_edges, output_edges),
        )
        for name in ("counts", "input_sums", "output_sums"):
            fine, table = getattr(self, name), getattr(coarse, name)
            for i, row in enumerate(fine):
                for j, value in enumerate(row):
                    if value:
                        table[rows[i]][columns[j]] += value
        return coarse

    @property
    def rate_rps(self) -> float | None:
        """Mean rate over the time observed, None where it spans no time."""
        span_s = self.rates.span_s
        return (self.requests - 1) / span_s if span_s > 0 else None

    def histogram(
        self, source: str, *, is_wall_clock: bool = False, zone_shift_s: float = 0.0
    ) -> Histogram:
        """Return the relative frequencies with the mean size of each bucket's requests."""
        total = max(self.requests, 1)
        return Histogram(
            input_edges=self.input_edges,
            output_edges=self.output_edges,
            weights=tuple(tuple(count / total for count in row) for row in self.counts),
            input_sizes=_means(self.input_sums, self.counts),
            output_sizes=_means(self.output_sums, self.counts),
            coverage=Coverage(
                requests=self.requests,
                beyond_fraction=self.beyond / total,
                longest_input_tokens=self.inputs.longest,
                longest_output_tokens=self.outputs.longest,
            ),
            source=source,
            rate_rps=self.rate_rps,
            rate_profile=self.rates.profile(is_wall_clock=is_wall_clock, zone_shift_s=zone_shift_s),
            input_quantiles=self.inputs.quantiles(),
            output_quantiles=self.outputs.quantiles(),
        )


@lru_cache(maxsize=4)
def _bucket_table(edges: tuple[int, ...]) -> NDArray[np.int64]:
    tokens = np.arange(MOST_LISTED + 1)
    return (np.searchsorted(edges, tokens, side="left") - 1).astype(np.int64)


def _buckets_of(edges: tuple[int, ...], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bucket of each size, −1 below the first: of many from a table, else by search."""
    if int(tokens.max(initial=0)) <= MOST_LISTED and len(tokens) > MOST_LISTED // 16:
        return _bucket_table(edges)[tokens]
    return (np.searchsorted(edges, tokens, side="left") - 1).astype(np.int64)


def _places(fine: Sequence[int], coarse: Sequence[int]) -> list[int]:
    """Return, for each bucket between `fine` edges, which one between `coarse` edges holds it."""
    return [min(bisect.bisect_left(coarse, high), len(coarse) - 1) - 1 for high in fine[1:]]


def _means(sums: list[list[int]], counts: list[list[int]]) -> OptionalMatrix:
    return tuple(
        tuple(
            max(1.0, total / count) if count else None
            for total, count in zip(row, count_row, strict=True)
        )
        for row, count_row in zip(sums, counts, strict=True)
    )


def build_histogram(
    requests: Iterable[tuple[float | None, int, int]],
    source: str,
    input_edges: tuple[int, ...] = DEFAULT_INPUT_EDGES,
    output_edges: tuple[int, ...] = DEFAULT_OUTPUT_EDGES,
) -> Histogram:
    """Count requests, each (arrival_s, input_tokens, output_tokens), in any order."""
    rows = list(requests)
    first_s = min((at for at, _, _ in rows if at is not None), default=None)
    builder = HistogramBuilder(
        input_edges=input_edges, output_edges=output_edges, rates=RateCounter(anchor_s=first_s)
    )
    for arrival_s, input_tokens, output_tokens in rows:
        builder.add(arrival_s, input_tokens, output_tokens)
    return builder.histogram(source)
