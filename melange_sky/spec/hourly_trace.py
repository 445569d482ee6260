"""A trace as demand by the hour, and its hours in a few mixes of request sizes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InputError
from melange_sky.spec.hourly import HourlyDemand
from melange_sky.spec.intake import EPOCH_OF_DATES_S
from melange_sky.spec.trace_files import blocks_of, histogram_of_trace, trace_name
from melange_sky.workload import bucket_places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.spec.histogram import Histogram
    from melange_sky.spec.intake import Intake
    from melange_sky.workload import Trace

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

HOUR_S = 3600
LEAST_COVERED_S = 600
"""An hour at an end of the trace of which less is covered tells no rate."""

MOST_MIXES = 3
CLOSE_ENOUGH = 0.05
"""Hours' mean sizes that differ from their mix's by no more, on average, need no further mix."""

_ROUNDS = 100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TraceDemand:
    """A trace's demand by the hour, and the sizes of each mix that its hours are of.

    `size_error` is how far the mean tokens (prompt, answer) of an hour lie from those of its mix, as a fraction
    of these, averaged over requests; `noise` what chance alone would make of it with so few requests an hour.
    """

    demand: HourlyDemand
    mixes: dict[str, Histogram]
    size_error: tuple[float, float]
    noise: tuple[float, float]


def demand_of_trace(trace: Trace, most_mixes: int = MOST_MIXES) -> TraceDemand:
    """Count a trace's requests by the hour; hours of like sizes make a mix.

    Raises InputError for a trace that cannot be read, or that covers fewer than two hours.
    """
    whole = histogram_of_trace(trace)
    intakes: list[Intake] = []
    blocks = list(blocks_of(trace, told=intakes.append))
    at_s = np.concatenate([block.arrival_s for block in blocks])
    inputs = np.concatenate([block.input_tokens for block in blocks])
    outputs = np.concatenate([block.output_tokens for block in blocks])
    hour = (at_s // HOUR_S).astype(np.int64)
    first, kept, rate_rps = _rates(at_s, hour, trace_name(trace))
    here = (hour >= first) & (hour < first + len(rate_rps))
    hour, inputs, outputs = hour[here] - first, inputs[here], outputs[here]
    parts, error, noise = _in_mixes(hour, inputs, outputs, whole, most_mixes)
    names = [f"mix-{k + 1}" for k in range(int(parts.max()) + 1)] if parts.max() else [""]
    intake = intakes[0]
    start = datetime(1970, 1, 1, tzinfo=timezone.utc)
    zone = (
        timezone(timedelta(seconds=intake.zone_shift_s)) if intake.is_wall_clock else start.tzinfo
    )
    if intake.is_wall_clock:
        start += timedelta(seconds=int(first) * HOUR_S - EPOCH_OF_DATES_S)
    demand = HourlyDemand(
        source=trace_name(trace),
        starts=tuple(
            (start + n * timedelta(hours=1)).astimezone(zone) for n in range(len(rate_rps))
        ),
        step_s=float(HOUR_S),
        rate_rps=tuple(rate_rps.tolist()),
        mix=tuple(names[k] for k in parts.tolist()),
        is_dated=intake.is_wall_clock,
        notes=(*kept, *whole.warnings, *_told(names, error, noise)),
    )
    of_request = parts[hour]
    mixes = {
        name: _histogram(whole, inputs[of_request == k], outputs[of_request == k], name)
        for k, name in enumerate(names)
    }
    return TraceDemand(demand=demand, mixes=mixes, size_error=error, noise=noise)


def _rates(at_s: Floats, hour: Whole, name: str) -> tuple[int, tuple[str, ...], Floats]:
    """Return the first hour, what was left out, and each hour's rate; an end hour's over the part covered."""
    first, last = int(hour.min()), int(hour.max())
    counts = np.bincount(hour - first, minlength=last - first + 1).astype(np.float64)
    covered = np.full(len(counts), float(HOUR_S))
    covered[0] -= float(at_s.min()) - first * HOUR_S
    covered[-1] -= (last + 1) * HOUR_S - float(at_s.max())
    notes = []
    while len(counts) and covered[-1] < LEAST_COVERED_S:
        counts, covered = counts[:-1], covered[:-1]
        notes.append("the last hour is left out: the trace covers less than ten minutes of it")
    if len(counts) and covered[0] < LEAST_COVERED_S:
        counts, covered, first = counts[1:], covered[1:], first + 1
        notes.append("the first hour is left out: the trace covers less than ten minutes of it")
    if len(counts) < 2:
        raise InputError(f"{name}: covers fewer than two hours; a demand over time needs more")
    return first, tuple(notes), counts / covered


def _in_mixes(
    hour: Whole, inputs: Whole, outputs: Whole, whole: Histogram, most: int
) -> tuple[Whole, tuple[float, float], tuple[float, float]]:
    """Return each hour's mix, as few as come close enough, and how far hours lie from theirs."""
    hours = int(hour.max()) + 1
    shares, counts = _shares(hour, inputs, outputs, whole, hours)
    sums = [
        np.bincount(hour, weights=tokens, minlength=hours).astype(np.float64)
        for tokens in (inputs, outputs)
    ]
    noise = (_noise(hour, inputs, counts), _noise(hour, outputs, counts))
    parts, error = np.zeros(hours, dtype=np.int64), (0.0, 0.0)
    for count in range(1, most + 1):
        parts = _clustered(shares, counts, count)
        error = (_error(sums[0], counts, parts), _error(sums[1], counts, parts))
        if all(e <= max(CLOSE_ENOUGH, n) for e, n in zip(error, noise, strict=True)):
            break
    return _in_order(parts), error, noise


def _shares(
    hour: Whole, inputs: Whole, outputs: Whole, whole: Histogram, hours: int
) -> tuple[Floats, Floats]:
    """Return each hour's requests by bucket as fractions, (hours × buckets), and their number."""
    i = bucket_places(whole.input_edges, inputs)
    j = bucket_places(whole.output_edges, outputs)
    columns = len(whole.output_edges) - 1
    buckets = (len(whole.input_edges) - 1) * columns
    cells = np.bincount(hour * buckets + i * columns + j, minlength=hours * buckets)
    table = cells.reshape(hours, buckets).astype(np.float64)
    counts: Floats = table.sum(axis=1)
    return table / np.maximum(counts, 1)[:, None], counts


def _noise(hour: Whole, tokens: Whole, counts: Floats) -> float:
    """Return how far an hour's mean tokens lie from the true mean by chance, averaged over requests.

    The mean distance of a normal value from its mean is √(2/π) of its deviation.
    """
    spread = float(tokens.std()) / float(tokens.mean())
    filled = counts[counts > 0]
    return float((filled * np.sqrt(2 / np.pi) * spread / np.sqrt(filled)).sum() / filled.sum())


def _error(sums: Floats, counts: Floats, parts: Whole) -> float:
    total = np.bincount(parts, weights=sums)
    mean = total / np.maximum(np.bincount(parts, weights=counts), 1)
    off = np.abs(sums / np.maximum(counts, 1) - mean[parts]) / np.maximum(mean[parts], 1e-9)
    return float((off * counts).sum() / counts.sum())


def _clustered(shares: Floats, counts: Floats, count: int) -> Whole:
    """Return each row's cluster: Lloyd's iterations over rows weighted by `counts`, farthest rows first."""
    centres = [np.average(shares, axis=0, weights=counts)]
    while len(centres) < count:
        near = np.min([((shares - c) ** 2).sum(axis=1) for c in centres], axis=0)
        centres.append(shares[int(np.argmax(near * counts))])
    parts = np.zeros(len(shares), dtype=np.int64)
    for turn in range(_ROUNDS):
        fresh = np.argmin([((shares - c) ** 2).sum(axis=1) for c in centres], axis=0)
        if (fresh == parts).all() and turn:
            break
        parts = fresh.astype(np.int64)
        centres = [
            np.average(shares[parts == k], axis=0, weights=counts[parts == k])
            if counts[parts == k].sum() > 0
            else centre
            for k, centre in enumerate(centres)
        ]
    return parts


def _in_order(parts: Whole) -> Whole:
    """Return clusters numbered in the order in which they come, none left out."""
    order = {int(k): n for n, k in enumerate(dict.fromkeys(parts.tolist()))}
    return np.array([order[int(k)] for k in parts], dtype=np.int64)


def _histogram(whole: Histogram, inputs: Whole, outputs: Whole, name: str) -> Histogram:
    from melange_sky.spec.histogram_builder import HistogramBuilder

    builder = HistogramBuilder(input_edges=whole.input_edges, output_edges=whole.output_edges)
    builder.add_all(np.full(len(inputs), np.nan), inputs, outputs)
    return builder.histogram(f"{whole.source}, {name}" if name else whole.source)


def _told(
    names: Sequence[str], error: tuple[float, float], noise: tuple[float, float]
) -> tuple[str, ...]:
    what = "one mix of sizes" if len(names) == 1 else f"{len(names)} mixes of sizes"
    text = (
        f"hours are planned with {what}; an hour's mean prompt and answer differ from its mix's by {error[0]:.1%} and "
        f"{error[1]:.1%} on average (chance alone makes {noise[0]:.1%} and {noise[1]:.1%})"
    )
    return (text,)
