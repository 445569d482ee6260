"""The traffic of a backtest: a trace's own requests, or requests drawn at the rates of a demand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timezone
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InputError
from melange_sky.replay.traffic import CLOCK_DIGITS, Traffic, sample_stream
from melange_sky.simulator import RequestStream
from melange_sky.spec.hourly import read_demand
from melange_sky.spec.intake import EPOCH_OF_DATES_S
from melange_sky.spec.trace_files import blocks_of, trace_name
from melange_sky.spec.yaml_source import read_text
from melange_sky.workload import bucket_places

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from melange_sky.spec.hourly import HourlyDemand
    from melange_sky.spec.intake import Intake
    from melange_sky.workload import Trace, Workload

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

BASE_S = 20.0
"""Requests are counted in so many seconds: SkyServe's autoscaler looks as often."""
SMOOTH_S = 900.0
"""Rates given in longer steps run on evenly from the middle of one to the next: no traffic leaps on the hour."""
LEAST_S = 3600.0
_HEADER_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlayedTraffic:
    """Traffic over time. `start` in seconds since 1970; `counts`, (parts of `BASE_S`), the requests of each.

    `rates_rps`, (parts), is the rate that they came at: that of the demand, or of a trace its counts over five
    minutes. `stream` holds a trace's own requests, None where they are drawn by `workload` and `seed`.
    """

    source: str
    start: float
    counts: Whole
    rates_rps: Floats
    workload: Workload
    seed: int
    stream: RequestStream | None = None
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.counts) * BASE_S

    @property
    def requests(self) -> int:
        """How many requests there are."""
        return int(self.counts.sum())

    def seen(self, every_s: float) -> Floats:
        """Return the rate of every look, (looks): the requests since the look before ÷ the time."""
        parts = self._parts(every_s)
        whole = self.counts[: len(self.counts) // parts * parts].reshape(-1, parts)
        seen: Floats = whole.sum(axis=1) / (parts * BASE_S)
        return seen

    def sizes_seen(self, every_s: float) -> Floats | None:
        """Return the rates of every look by size, (looks × inputs × outputs); None where all have the plan's sizes."""
        if self.stream is None:
            return None
        looks = len(self.counts) // self._parts(every_s)
        rows = bucket_places(self.workload.input_edges, self.stream.input_tokens)
        columns = bucket_places(self.workload.output_edges, self.stream.output_tokens)
        shape = looks, len(self.workload.input_edges) - 1, len(self.workload.output_edges) - 1
        look = (self.stream.arrival_s // every_s).astype(np.int64)
        within = look < looks
        flat = np.ravel_multi_index((look[within], rows[within], columns[within]), shape)
        counted = np.bincount(flat, minlength=math.prod(shape)).reshape(shape)
        rates: Floats = counted / every_s
        return rates

    @staticmethod
    def _parts(every_s: float) -> int:
        return max(1, round(every_s / BASE_S))

    def between(self, first: int, end: int) -> RequestStream:
        """Return the requests of parts `first` to `end`, times from the first on; the same for every contender."""
        start_s, end_s = first * BASE_S, end * BASE_S
        if self.stream is not None:
            places = np.searchsorted(self.stream.arrival_s, [start_s, end_s])
            part = self.stream.part(int(places[0]), int(places[1]))
            return RequestStream.of(
                part.arrival_s - start_s, part.input_tokens, part.output_tokens, part.prefixes
            )
        rng = np.random.default_rng((self.seed, first))
        counts = self.counts[first:end]
        within = np.repeat(np.arange(len(counts)) * BASE_S, counts)
        arrival_s = np.sort(within + rng.random(len(within)) * BASE_S)
        sizes = _sizes(self.workload, len(arrival_s), rng)
        return RequestStream.of(arrival_s, sizes.input_tokens, sizes.output_tokens)


def _sizes(workload: Workload, count: int, rng: np.random.Generator) -> RequestStream:
    """Return so many requests of a workload's sizes, in no order."""
    drawn = sample_stream(
        workload.at_rate(1.0), Traffic(duration_s=count + 8 * math.sqrt(count) + 50), rng
    )
    return drawn.part(0, count)


def played_traffic(trace: Trace, path: Path, workload: Workload, seed: int) -> PlayedTraffic:
    """Read a CSV of time,rate_rps, or a trace of requests.

    Raises InputError for one that cannot be read, or that covers less than an hour.
    """
    traffic = (
        _of_demand(read_demand(path), workload, seed)
        if _is_demand(path)
        else _of_requests(trace, workload, seed)
    )
    if traffic.seconds < LEAST_S:
        raise InputError(f"{path}: covers less than an hour; watching needs more to learn from")
    return traffic


def _is_demand(path: Path) -> bool:
    """Return whether the first line that is no comment names a rate."""
    if path.suffix not in (".csv", ".txt", ""):
        return False
    lines = (line for line in read_text(path, _HEADER_BYTES).splitlines() if line.strip())
    first = next((line for line in lines if not line.startswith("#")), "")
    return "rate_rps" in first


def _of_demand(demand: HourlyDemand, workload: Workload, seed: int) -> PlayedTraffic:
    if demand.of_models:
        raise InputError(
            f"{demand.source}: names rates of single models; a fleet of one model is watched, so give its rate as rate_rps"
        )
    parts = max(1, round(demand.step_s / BASE_S))
    if abs(parts * BASE_S - demand.step_s) > 1e-6:
        raise InputError(
            f"{demand.source}: steps of {demand.step_s:g} s; give steps of {BASE_S:g} s or multiples"
        )
    rates = np.array(demand.rate_rps)
    notes: tuple[str, ...] = demand.notes
    if demand.labels and any(demand.labels):
        notes += ("its mixes are not played: all requests have the sizes of the plan",)
    fine = np.repeat(rates, parts)
    if demand.step_s > SMOOTH_S:
        middles = (np.arange(len(rates)) + 0.5) * parts
        fine = np.interp(np.arange(len(fine)) + 0.5, middles, rates)
        notes += (f"rates run on evenly between the middles of its {demand.step_s / 60:g} minutes",)
    rng = np.random.default_rng((seed, 0x7A7C))
    counts = rng.poisson(fine * BASE_S).astype(np.int64)
    start = demand.starts[0].astimezone(timezone.utc).timestamp() if demand.is_dated else 0.0
    return PlayedTraffic(
        source=demand.source,
        start=start,
        counts=counts,
        rates_rps=fine,
        workload=workload,
        seed=seed,
        notes=notes,
    )


def _of_requests(trace: Trace, workload: Workload, seed: int) -> PlayedTraffic:
    intakes: list[Intake] = []
    blocks = list(blocks_of(trace, told=intakes.append))
    at_s = np.concatenate([block.arrival_s for block in blocks])
    if not len(at_s):
        raise InputError(f"{trace_name(trace)}: {intakes[0].why_empty}")
    order = np.argsort(at_s, kind="stable")
    first = math.floor(float(at_s[order[0]]) / BASE_S) * BASE_S
    arrival_s = np.round(at_s[order] - first, CLOCK_DIGITS)
    inputs = np.concatenate([block.input_tokens for block in blocks])[order]
    outputs = np.concatenate([block.output_tokens for block in blocks])[order]
    counts = np.bincount((arrival_s // BASE_S).astype(np.int64))
    window = np.ones(round(300.0 / BASE_S))
    spread = np.convolve(np.ones(len(counts)), window, "same")
    rates = np.convolve(counts, window, "same") / spread / BASE_S
    start = first - EPOCH_OF_DATES_S if intakes[0].is_wall_clock else 0.0
    return PlayedTraffic(
        source=trace_name(trace),
        start=start,
        counts=counts,
        rates_rps=rates,
        workload=workload,
        seed=seed,
        stream=RequestStream.of(arrival_s, np.maximum(inputs, 1), np.maximum(outputs, 1)),
    )
