"""What is asked of the service: request rates on a grid of request sizes.

A request falls in the bucket (lo, hi] of its input and of its output tokens (Mélange,
arXiv 2404.14527, §5.1: "request size buckets").
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.rates import RateProfile  # known while it runs, so that plan.json can be checked
from melange_sky.reuse import Reuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Matrix = tuple[tuple[float, ...], ...]
"""Rows are input buckets, columns are output buckets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """How a user says that a trace is to be read; what is left open is found by evidence.

    `columns` are pairs of role and name; `unit` is that of the time (s, ms, us, ns); `timezone` is the zone
    of stamps that name none. `keep_failed`: requests that failed or have no output token count as well.
    """

    columns: tuple[tuple[str, str], ...] = ()
    unit: str | None = None
    timezone: str | None = None
    keep_failed: bool = False

    def column(self, role: str) -> str | None:
        """Return the column that is named for a role."""
        return dict(self.columns).get(role)


AS_FOUND = TraceOptions()
"""Everything by evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFiles:
    """The files of a trace, and how they are to be read."""

    files: tuple[Path, ...]
    options: TraceOptions = AS_FOUND


Trace = Path | tuple[Path, ...] | TraceFiles
"""The file of a trace, or the files that it is spread over; a name may be a pattern of names."""


DEFAULT_INPUT_EDGES = (0, 25, 100, 250, 500, 1000, 2000, 4000, 8000, 12000, 16000)
DEFAULT_OUTPUT_EDGES = (0, 25, 100, 250, 500, 1000, 2000)


def bucket_index(edges: tuple[int, ...], tokens: float) -> int | None:
    """Return i with edges[i] < tokens <= edges[i + 1]; 0 tokens count as the first bucket.

    None where `tokens` lies beyond the last edge.

    >>> bucket_index((0, 25, 100), 25), bucket_index((0, 25, 100), 26), bucket_index((0, 25, 100), 101)
    (0, 1, None)
    """
    if tokens > edges[-1]:
        return None
    return max(0, bisect.bisect_left(edges, tokens) - 1)


def bucket_places(edges: Sequence[int], tokens: NDArray[Any]) -> NDArray[np.int64]:
    """Return the bucket of each size, (sizes), as `bucket_index` has it; those beyond the last edge are in the last.

    >>> bucket_places((0, 25, 100), np.array([0, 25, 26, 101])).tolist()
    [0, 0, 1, 1]
    """
    places = np.searchsorted(np.asarray(edges), tokens, side="left") - 1
    return np.clip(places, 0, len(edges) - 2).astype(np.int64)


class RateRule(Enum):
    """Which rate a workload is planned at: a number that was given, one of its trace's own rates, or the
    least one at which the SLO holds over the trace (or over bursts), which planning has yet to find.
    """

    GIVEN = "given"
    MEAN = "mean"
    P95 = "p95"
    PEAK = "peak"
    HOLDS = "holds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How requests arrive over time, and by which `rule` the rate to plan at is chosen.

    `mean_rps` is the true mean, whatever rate is planned. `trace` is the file, or files, that the requests
    come from and `profile` its rate over time. `burstiness` is the squared coefficient of variation of the
    times between arrivals where no trace tells it.
    """

    mean_rps: float
    rule: RateRule
    trace: Trace | None = None
    profile: RateProfile | None = None
    burstiness: float = 1.0

    @property
    def is_open(self) -> bool:
        """Whether planning has yet to find the rate."""
        return self.rule is RateRule.HOLDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of the source fell on the grid. `beyond_fraction` lay past the last edges.

    Such requests are planned in the outermost bucket at their true mean size and reported as a warning.
    """

    requests: int | None
    beyond_fraction: float
    longest_input_tokens: int | None = None
    longest_output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Images in prompts: how many a request has on average, and of how many tokens one is."""

    per_request: float
    tokens: int

    @property
    def prompt_tokens(self) -> int:
        """Tokens that they add to the mean prompt."""
        return round(self.per_request * self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Request rates per bucket.

    Shapes: `input_edges` (I + 1), `output_edges` (O + 1), all matrices (I × O).
    `rates_rps` in requests per second; `input_sizes`, `output_sizes` in tokens: the mean size of the
    bucket's requests where known, else its upper edges. A bucket is planned at these sizes.

    `arrivals` say how the rate moves, None where nothing is known but a rate. Input tokens are of text
    alone, as gateways count them; `images` come on top, None where there are none. `reuse` is what prompts
    share, None where none of it is to be counted on.
    """

    input_edges: tuple[int, ...]
    output_edges: tuple[int, ...]
    rates_rps: Matrix
    input_sizes: Matrix
    output_sizes: Matrix
    source: str = "inline"
    coverage: Coverage | None = None
    warnings: tuple[str, ...] = field(default=())
    arrivals: Arrivals | None = None
    images: Images | None = None
    reuse: Reuse | None = None

    def as_prompts(self) -> Workload:
        """Return the workload as engines see it: every input size and edge with its images' tokens."""
        if self.images is None:
            return self
        more = self.images.prompt_tokens
        return replace(
            self,
            input_edges=tuple(edge + more for edge in self.input_edges),
            input_sizes=tuple(tuple(size + more for size in row) for row in self.input_sizes),
            images=None,
        )

    @property
    def rate_rps(self) -> float:
        """Total request rate."""
        return sum(map(sum, self.rates_rps))

    def at_rate(self, rate_rps: float) -> Workload:
        """Return the same mix of sizes at another total rate."""
        factor = rate_rps / self.rate_rps
        return replace(
            self, rates_rps=tuple(tuple(rate * factor for rate in row) for row in self.rates_rps)
        )

    def buckets(self) -> list[tuple[int, int]]:
        """Return (input index, output index) of every bucket with a positive rate, row by row."""
        return [
            (i, j) for i, row in enumerate(self.rates_rps) for j, rate in enumerate(row) if rate > 0
        ]

    def label(self, i: int, j: int) -> str:
        """Return a bucket's name for people, such as ``input 25-100, output 0-25``."""
        return (
            f"input {self.input_edges[i]}-{self.input_edges[i + 1]}, "
            f"output {self.output_edges[j]}-{self.output_edges[j + 1]}"
        )
