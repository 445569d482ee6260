"""Requests to send: a trace with its own timing, or a sample of the workload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.simulator import RequestStream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.reuse import PrefixPaths
    from melange_sky.workload import Workload

CONCENTRATION = 2.0
"""a + b of the Beta law of sizes within a bucket: 2 is uniform where the mean is in the middle."""

MAX_REQUESTS = 20_000_000

CLOCK_DIGITS = 4
"""Digits of a second that a trace's times are taken with: dates far from zero hold no more in a float, and
the same requests shall be the same traffic on any clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """How requests are sampled from a workload.

    `burstiness` is the squared coefficient of variation of the times between arrivals: 1 Poisson, above
    1 bursty (Gamma). `rate_scale` multiplies the workload's rate.
    """

    duration_s: float
    rate_scale: float = 1.0
    burstiness: float = 1.0


def sample_stream(workload: Workload, traffic: Traffic, rng: np.random.Generator) -> RequestStream:
    """Draw requests: arrivals by rate and burstiness, bucket by its share, size within the bucket.

    Sizes follow a Beta law on the bucket whose mean is the workload's planning size; where that is
    the upper edge, or beyond the grid, every request has exactly that size.
    """
    rate_rps = workload.rate_rps * traffic.rate_scale
    arrival_s = _arrivals(rate_rps, traffic, rng)
    cells = workload.buckets()
    weights = np.array([workload.rates_rps[i][j] for i, j in cells])
    chosen = rng.choice(len(cells), size=len(arrival_s), p=weights / weights.sum())
    inputs = np.zeros(len(arrival_s), dtype=np.int64)
    outputs = np.zeros(len(arrival_s), dtype=np.int64)
    for number, (i, j) in enumerate(cells):
        here = np.flatnonzero(chosen == number)
        inputs[here] = _sizes(
            workload.input_edges[i : i + 2], workload.input_sizes[i][j], len(here), rng
        )
        outputs[here] = _sizes(
            workload.output_edges[j : j + 2], workload.output_sizes[i][j], len(here), rng
        )
    return RequestStream.of(arrival_s, inputs, outputs)


def _arrivals(rate_rps: float, traffic: Traffic, rng: np.random.Generator) -> NDArray[np.float64]:
    expected = rate_rps * traffic.duration_s
    if expected > MAX_REQUESTS:
        raise ValueError(f"more than {MAX_REQUESTS} requests; shorten the duration")
    shape = 1.0 / traffic.burstiness
    times: list[NDArray[np.float64]] = []
    last = 0.0
    while last < traffic.duration_s:
        count = int((traffic.duration_s - last) * rate_rps * 1.05) + 64
        gaps = rng.gamma(shape, 1.0 / (shape * rate_rps), size=count)
        times.append(last + np.cumsum(gaps))
        last = float(times[-1][-1])
    arrivals_s = np.concatenate(times)
    return arrivals_s[arrivals_s < traffic.duration_s]


def _sizes(
    edges: tuple[int, ...], mean: float, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    low, high = edges[0] + 1, edges[1]
    place = (mean - low) / (high - low) if high > low else 1.0
    if not 0.0 < place < 1.0:
        values = np.full(count, mean)
    else:
        values = low + (high - low) * rng.beta(
            CONCENTRATION * place, CONCENTRATION * (1 - place), size=count
        )
    # Rounding up or down at random keeps the mean.
    whole = np.floor(values + rng.random(count)).astype(np.int64)
    return np.maximum(whole, 1)


def trace_rows(
    arrival_s: NDArray[np.float64],
    input_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
) -> NDArray[np.void]:
    """Return a trace's requests by time as rows of `at` (seconds), `input` and `output` (tokens).

    Those of one moment come by their sizes, so that the order of the rows in a file changes nothing.
    """
    rows = np.empty(len(arrival_s), dtype=[("at", "f8"), ("input", "i8"), ("output", "i8")])
    rows["at"], rows["input"], rows["output"] = arrival_s, input_tokens, output_tokens
    return rows[order_of(rows)]


def order_of(rows: NDArray[np.void]) -> NDArray[np.int64]:
    """Return the order of such rows by time, and at one moment by size, shape (rows,)."""
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    at = np.round(rows["at"] - rows["at"].min(), CLOCK_DIGITS)
    order = np.argsort(at, kind="stable")
    same = np.diff(at[order]) == 0
    is_tied = np.append(same, False) | np.append(False, same)
    tied = order[is_tied]
    by_size = np.lexsort((rows["output"][tied], rows["input"][tied], at[tied]))
    order[is_tied] = tied[by_size]
    return order


def scaled_rows(
    rows: NDArray[np.void],
    rate_scale: float = 1.0,
    duration_s: float | None = None,
    prefixes: PrefixPaths | None = None,
) -> tuple[RequestStream, int]:
    """Return a trace from time 0 with its gaps divided by `rate_scale`, cut after `duration_s`.

    `rows` as of `trace_rows`, with what they share; a request without an output token is sent with one. The
    second value says how many those were.
    """
    arrival_s = np.round(rows["at"] - rows["at"][:1].sum(), CLOCK_DIGITS) / rate_scale
    if duration_s is not None:
        count = int(np.searchsorted(arrival_s, duration_s))
        rows, arrival_s = rows[:count], arrival_s[:count]
        prefixes = None if prefixes is None else prefixes.part(0, count)
    stream = RequestStream.of(
        arrival_s, np.maximum(rows["input"], 1), np.maximum(rows["output"], 1), prefixes
    )
    return stream, int((rows["output"] == 0).sum())
