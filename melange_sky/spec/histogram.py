"""Requests on the bucket grid, turned into a workload, and written as a spec can read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from melange_sky.spec.reuse import reuse_lines
from melange_sky.workload import Coverage, Matrix, Workload

if TYPE_CHECKING:
    from melange_sky.rates import RateProfile
    from melange_sky.reuse import Reuse
    from melange_sky.spec.intake import Intake
    from melange_sky.spec.token_counts import TokenQuantiles

OptionalMatrix = tuple[tuple["float | None", ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Relative frequencies on a grid, shapes (I × O); sizes are mean tokens, None where unknown.

    `rate_rps` is the mean rate observed and `rate_profile` how it moves, None where no time is known.
    `warnings` are of its source; `intake` says how a trace was read, `reuse` what its prompts share, None where
    that is not known or was not asked for.
    """

    input_edges: tuple[int, ...]
    output_edges: tuple[int, ...]
    weights: Matrix
    input_sizes: OptionalMatrix | None = None
    output_sizes: OptionalMatrix | None = None
    coverage: Coverage | None = None
    source: str = "inline histogram"
    rate_rps: float | None = None
    rate_profile: RateProfile | None = None
    input_quantiles: TokenQuantiles | None = None
    output_quantiles: TokenQuantiles | None = None
    warnings: tuple[str, ...] = ()
    intake: Intake | None = field(default=None, compare=False)
    reuse: Reuse | None = None


def to_workload(histogram: Histogram, rate_rps: float) -> Workload:
    """Spread `rate_rps` over the buckets by weight; unknown sizes become the upper edges."""
    total = sum(map(sum, histogram.weights))
    coverage = histogram.coverage
    warnings = list(histogram.warnings)
    if coverage is not None and coverage.beyond_fraction > 0:
        warnings.append(
            f"{coverage.beyond_fraction:.2%} of the requests of {histogram.source} lie beyond the "
            f"grid ({histogram.input_edges[-1]} input, {histogram.output_edges[-1]} output tokens"
            f"{_longest(coverage)}): they are planned in the outermost bucket at its mean size, and "
            "replicas refuse requests longer than the grid allows in all; widen the grid to plan them separately"
        )
    return Workload(
        input_edges=histogram.input_edges,
        output_edges=histogram.output_edges,
        rates_rps=tuple(tuple(rate_rps * w / total for w in row) for row in histogram.weights),
        input_sizes=_sizes(histogram, histogram.input_sizes, of_input=True),
        output_sizes=_sizes(histogram, histogram.output_sizes, of_input=False),
        source=histogram.source,
        coverage=coverage,
        warnings=tuple(warnings),
    )


def _longest(coverage: Coverage) -> str:
    known = (coverage.longest_input_tokens, coverage.longest_output_tokens)
    return f"; longest {known[0]} and {known[1]}" if None not in known else ""


def _sizes(histogram: Histogram, known: OptionalMatrix | None, *, of_input: bool) -> Matrix:
    def size(i: int, j: int) -> float:
        mean = known[i][j] if known is not None else None
        edge = histogram.input_edges[i + 1] if of_input else histogram.output_edges[j + 1]
        return float(edge) if mean is None else mean

    rows, columns = len(histogram.input_edges) - 1, len(histogram.output_edges) - 1
    return tuple(tuple(size(i, j) for j in range(columns)) for i in range(rows))


def histogram_yaml(histogram: Histogram, comment: str = "") -> str:
    """Return a `workload:` section that a spec can use as it stands.

    Deterministic text; weights are rounded to 8 digits and still sum to 1 within the spec's
    tolerance, sizes to 0.1 token.
    """
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines.append("workload:")
    if histogram.rate_rps is not None:
        lines.append(f"  rate_rps: {_number(histogram.rate_rps, 6)}")
    lines += [
        "  histogram:",
        f"    source: {_quoted(histogram.source)}",
        f"    input_edges: [{', '.join(map(str, histogram.input_edges))}]",
        f"    output_edges: [{', '.join(map(str, histogram.output_edges))}]",
        *_rows("weights", histogram.weights, 8),
        *_rows("input_sizes", histogram.input_sizes, 1),
        *_rows("output_sizes", histogram.output_sizes, 1),
        *_coverage_lines(histogram.coverage),
        *reuse_lines(histogram.reuse),
    ]
    return "\n".join(lines) + "\n"


def _rows(key: str, matrix: Any, digits: int) -> list[str]:
    if matrix is None:
        return []
    rows = [f"      - [{', '.join(_number(v, digits) for v in row)}]" for row in matrix]
    return [f"    {key}:  # rows input, columns output", *rows]


def _coverage_lines(coverage: Coverage | None) -> list[str]:
    if coverage is None:
        return []
    known = {
        "requests": coverage.requests,
        "beyond_fraction": coverage.beyond_fraction,
        "longest_input_tokens": coverage.longest_input_tokens,
        "longest_output_tokens": coverage.longest_output_tokens,
    }
    rows = [f"      {key}: {_number(v, 6)}" for key, v in known.items() if v is not None]
    return ["    coverage:", *rows]


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "null"
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _quoted(text: str) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in text[:400])
    return "'" + shown.replace("'", "''") + "'"
