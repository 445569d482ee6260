"""How a trace's workload is summed up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from melange_sky.rates import DISPERSION_S, WINDOW_S
from melange_sky.traces.units import duration

if TYPE_CHECKING:
    from melange_sky.rates import RateProfile
    from melange_sky.reuse import Reuse
    from melange_sky.spec import Histogram
    from melange_sky.spec.intake import Intake
    from melange_sky.spec.token_counts import TokenQuantiles

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def histogram_note(histogram: Histogram) -> str:
    """Return the card of a trace: what it was read as, its requests, rate and sizes."""
    coverage, intake = histogram.coverage, histogram.intake
    assert coverage is not None, "a counted histogram has its coverage"
    rate = "no rate known" if histogram.rate_rps is None else f"{histogram.rate_rps:.3g} req/s"
    within = 1 - coverage.beyond_fraction
    lines = [] if intake is None else _read_lines(intake)
    lines.append(
        f"{coverage.requests} requests, {rate}; {within:.2%} on the grid; longest "
        f"{coverage.longest_input_tokens} input, {coverage.longest_output_tokens} output tokens"
        + ("; the rest is counted in the outermost buckets" if coverage.beyond_fraction else "")
    )
    sizes = (("input", histogram.input_quantiles), ("output", histogram.output_quantiles))
    lines += [
        f"{side} tokens: p50 {found.p50}, p95 {found.p95}, p99 {found.p99}, longest {found.longest}"
        for side, found in sizes
        if found is not None
    ]
    if histogram.reuse is not None:
        lines += reuse_note(histogram.reuse)
    if histogram.rate_profile is not None:
        lines += _busiest_lines(intake) if intake is not None else []
        lines += _rate_lines(histogram.rate_profile)
    lines += [f"warning: {text}" for text in histogram.warnings]
    return "\n".join(lines)


def _read_lines(intake: Intake) -> list[str]:
    columns = ", ".join(f"{role} {name}" for role, name in intake.columns)
    times = " and ".join(intake.clocks) or "none: sizes only, a rate must be given"
    lines = [f"read as {' and '.join(intake.kinds)}: {columns}", f"times: {times}"]
    if intake.first_s is not None and intake.last_s is not None:
        span = duration(intake.last_s - intake.first_s)
        lines.append(
            f"from {intake.moment(intake.first_s)} to {intake.moment(intake.last_s)}, {span}"
        )
    return lines


def _busiest_lines(intake: Intake) -> list[str]:
    told = [
        f"{word} {found[0]:.3g} req/s from {intake.moment((intake.first_s or 0.0) + found[1])}"
        for word, found in (("minute", intake.busiest_minute), ("hour", intake.busiest_hour))
        if found is not None
    ]
    return [f"busiest: {', '.join(told)}"] if told else []


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
    coverage, profile, intake = histogram.coverage, histogram.rate_profile, histogram.intake
    assert coverage is not None, "a counted histogram has its coverage"
    return {
        "requests": coverage.requests,
        "failed": None if intake is None else intake.failed,
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
        "read": None if intake is None else _read_document(intake),
        "reuse": None if histogram.reuse is None else histogram.reuse.document,
        "warnings": list(histogram.warnings),
    }


def _read_document(intake: Intake) -> dict[str, Any]:
    """Return as what a trace was read."""
    first_s, last_s = intake.first_s, intake.last_s
    minute, hour = intake.busiest_minute, intake.busiest_hour
    return {
        "kind": " and ".join(intake.kinds),
        "columns": dict(intake.columns[::-1]),
        "times": list(intake.clocks),
        "first": None if first_s is None else intake.moment(first_s),
        "last": None if last_s is None else intake.moment(last_s),
        "left_out": intake.left_out,
        "without_output": intake.without_output,
        "other_rows": intake.other,
        "busiest_minute_rps": None if minute is None else minute[0],
        "busiest_hour_rps": None if hour is None else hour[0],
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
