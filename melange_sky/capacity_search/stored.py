"""Answer another SLO from probes that were kept, without sending anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.capacity_search.probe_verdict import (
    Probe,
    ProbeVerdict,
    SearchOptions,
    crossing_rps,
    judge,
)
from melange_sky.capacity_search.search import SearchResult

if TYPE_CHECKING:
    from melange_sky.slo import SLO, RequestLog


def rate_from_probes(
    kept: Sequence[tuple[float, RequestLog]], slo: SLO, options: SearchOptions
) -> SearchResult:
    """Return the highest rate within `slo` that the kept probes (rate, log) support.

    Where the bounds lie further apart than the tolerance, the rate is interpolated between them,
    where attainment crosses its limit, and `resolved` is False. Only a probe that fails is an upper
    bound: one that was ended early for a tighter SLO is too short to say anything of a looser one.
    None where no probe passes: the reason then says whether all failed or all were too short.
    """
    longest = _longest(kept)
    probes = [judge(longest[r], slo, options, rate_rps=r, seed=0) for r in sorted(longest)]
    high = next((p for p in probes if p.verdict is ProbeVerdict.FAIL), None)
    passes = [
        p
        for p in probes
        if _passes(p, slo, options) and (high is None or p.rate_rps < high.rate_rps)
    ]
    low = max(passes, key=_rate, default=None)
    served = [p.served_rps for p in probes if p.served_rps]
    result = SearchResult(
        max_rate_rps=None,
        reason="",
        resolved=False,
        probes=tuple(probes),
        low_rps=low.rate_rps if low else None,
        high_rps=high.rate_rps if high else None,
        knee_rps=max(served, default=None),
    )
    if low is None:
        return _without_a_pass(result, high)
    if high is None:
        reason = "no kept probe fails; the true rate may be higher"
        return replace(result, max_rate_rps=low.rate_rps, reason=reason)
    return _between(result, low, high, slo, options)


def _longest(kept: Sequence[tuple[float, RequestLog]]) -> dict[float, RequestLog]:
    """Return one log per rate: the probe with the most requests knows best."""
    longest: dict[float, RequestLog] = {}
    for rate, log in kept:
        if rate not in longest or len(log) > len(longest[rate]):
            longest[rate] = log
    return longest


def _without_a_pass(result: SearchResult, high: Probe | None) -> SearchResult:
    first = high or next(iter(result.probes), None)
    lowest = f"{first.rate_rps:.4g} req/s: {first.reason}" if first else "no probes kept"
    # Below a rate that fails an undecided one may still pass.
    sure = high is not None and high is result.probes[0]
    return replace(result, reason=f"no kept probe passes; lowest {lowest}", resolved=sure)


def _between(
    result: SearchResult, low: Probe, high: Probe, slo: SLO, options: SearchOptions
) -> SearchResult:
    if high.rate_rps / low.rate_rps <= 1 + options.tolerance:
        sure = low.verdict is ProbeVerdict.PASS and high.verdict is ProbeVerdict.FAIL
        rate = crossing_rps(low, high, slo) if options.crossing else low.rate_rps
        return replace(result, max_rate_rps=rate, reason="bounds within tolerance", resolved=sure)
    rate = crossing_rps(low, high, slo)
    return replace(result, max_rate_rps=rate, reason="interpolated between kept probes")


def _rate(probe: Probe) -> float:
    return probe.rate_rps


def _passes(probe: Probe, slo: SLO, options: SearchOptions) -> bool:
    return probe.verdict is ProbeVerdict.PASS or (
        probe.verdict is ProbeVerdict.UNRESOLVED and probe.leans_to_pass(slo, options)
    )
