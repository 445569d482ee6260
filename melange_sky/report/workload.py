"""How a trace's workload is summed up."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.spec import Histogram


def histogram_note(histogram: Histogram) -> str:
    """Return how many requests a histogram counts, at which rate, and what lies beyond its grid."""
    coverage = histogram.coverage
    assert coverage is not None, "a counted histogram has its coverage"
    rate = "no rate known" if histogram.rate_rps is None else f"{histogram.rate_rps:.3g} req/s"
    within = 1 - coverage.beyond_fraction
    return (
        f"{coverage.requests} requests, {rate}; {within:.2%} on the grid; longest "
        f"{coverage.longest_input_tokens} input, {coverage.longest_output_tokens} output tokens"
        + ("; the rest is counted in the outermost buckets" if coverage.beyond_fraction else "")
    )
