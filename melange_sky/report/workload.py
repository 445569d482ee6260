"""How a trace's workload is summed up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from melange_sky.rates import DISPERSION_S, WINDOW_S

if TYPE_CHECKING:
    from melange_sky.rates import RateProfile
    from melange_sky.reuse import Reuse
    from melange_sky.spec import Histogram
    from melange_sky.spec.token_counts import TokenQuantiles

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def histogram_note(histogram: Histogram) -> str:
    """Return how many requests a histogram counts, at which rate, and what lies beyond its grid."""
    coverage = histogram.coverage
    assert coverage is not None, "a counted histogram has its coverage"
    rate = "no rate known" if histogram.rate_rps is None else f"{histogram.rate_rps:.3g} req/s"
    within = 1 - coverage.beyond_fraction
    lines = [
        f"{coverage.requests} requests, {rate}; {within:.2%} on the grid; longest "
        f"{coverage.longest_input_tokens} input, {coverage.longest_output_tokens} output tokens"
        + ("; the rest is counted in the outermost buckets" if coverage.beyond_fraction else "")
    ]
    if histogram.reuse is not None:
        lines += reuse_note(histogram.reuse)
    if histogram.rate_profile is not None:
        lines += _rate_lines(histogram.rate_profile)
    return "\n".join(lines)


def _rate_lines(profile: RateProfile) -> list[str]:
    quantiles = ", ".join(
        f"{name} {profile.quantile_rps(fraction):.3g}"
        for name, fraction in (("median", 0.5), ("p95", 0.95), ("p99", 0.99))
    )
    busiest = (
        f"busiest {profile.peak_rps:.3g} req/s, {_span_text(profile.busiest_s)} after the first"
    )
    lines = [
        f"rate by {WINDOW_S // 60} minutes: {quantiles}, {busiest} request",
        "burstiness (variance ÷ mean of the counts; Poisson 1): "
        + ", ".join(
            f"{over} s {'unknown' if value is None else f'{value:.3g}'}"
            for over, value in zip(DISPERSION_S, profile.dispersion, strict=True)
        ),
    ]
    if profile.by_hour is not None:
        lines.append("req/s by hour: " + _known_rates(map(str, range(24)), profile.by_hour))
    if profile.by_weekday is not None:
        lines.append("req/s by weekday: " + _known_rates(DAYS, profile.by_weekday))
    return lines


def _known_rates(names: Any, rates: tuple[float | None, ...]) -> str:
    pairs = zip(names, rates, strict=True)
    return ", ".join(f"{name} {rate:.3g}" for name, rate in pairs if rate is not None)


def _span_text(seconds: float) -> str:
    """Return a time in the largest units that matter.

    >>> _span_text(90), _span_text(3700), _span_text(200000)
    ('1 min', '1 h 1 min', '2 d 7 h')
    """
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 1440:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def workload_document(histogram: Histogram) -> dict[str, Any]:
    """Return what `workload --format json` prints: unknown is null."""
    coverage, profile = histogram.coverage, histogram.rate_profile
    assert coverage is not None, "a counted histogram has its coverage"
    return {
        "requests": coverage.requests,
        "failed": None,
        "span_s": None if profile is None else profile.span_s,
        "rate_mean_rps": histogram.rate_rps,
        "rate_peak_5min_rps": None if profile is None else profile.peak_rps,
        "rate_p95_5min_rps": None if profile is None else profile.quantile_rps(0.95),
        "rate_median_5min_rps": None if profile is None else profile.quantile_rps(0.5),
        "rate_p99_5min_rps": None if profile is None else profile.quantile_rps(0.99),
        "busiest_5min_s": None if profile is None else profile.busiest_s,
        "dispersion": {
            str(over): None if profile is None else profile.dispersion[k]
            for k, over in enumerate(DISPERSION_S)
        },
        "by_hour_rps": None if profile is None else profile.by_hour,
        "by_weekday_rps": None if profile is None else profile.by_weekday,
        "input_tokens": _quantiles(histogram.input_quantiles),
        "output_tokens": _quantiles(histogram.output_quantiles),
        "reuse": None if histogram.reuse is None else histogram.reuse.document,
        "warnings": [],
    }


def reuse_note(reuse: Reuse) -> list[str]:
    """Return how much of the prompts caches of what size would find."""
    lines = [
        f"prefix reuse (by {reuse.source}): an endless cache finds {reuse.infinite_hit:.1%} of all prompt tokens"
        + "".join(
            f", one of {tokens // 1000:,}k tokens {reuse.hit_fraction(tokens):.1%}"
            for tokens in (100_000, 1_000_000, 10_000_000)
        )
    ]
    parts = []
    if reuse.shared_prefix_tokens:
        parts.append(f"most sessions begin with the same {reuse.shared_prefix_tokens} tokens")
    if reuse.session_turns is not None:
        turns = reuse.session_turns
        parts.append(f"{turns.mean:.3g} requests a session (p95 {turns.p95:.3g})")
    if reuse.think_time_s is not None:
        think = reuse.think_time_s
        parts.append(f"{think.mean:.3g} s from one to the next (p95 {think.p95:.3g} s)")
    return [*lines, *(["; ".join(parts)] if parts else [])]


def _quantiles(tokens: TokenQuantiles | None) -> dict[str, int] | None:
    if tokens is None:
        return None
    return {"p50": tokens.p50, "p95": tokens.p95, "p99": tokens.p99, "max": tokens.longest}
