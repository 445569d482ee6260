"""The lines of `watch.jsonl`: a look as a document, and what is remembered, there and back."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from melange_sky.planner.clock import utc_text
from melange_sky.watching.decide import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.watching.decision import Candidate, Decision
    from melange_sky.watching.fleets import Counts
    from melange_sky.watching.forecast import Forecast
    from melange_sky.watching.seen import Seen


def entry_of(
    seen: Seen,
    forecasts: tuple[Forecast | None, Forecast | None],
    decision: Decision,
    state: State,
    options: tuple[str, ...],
) -> dict[str, Any]:
    """Return a look's line without its hash."""
    target = None if decision.target is None else fleet_hash(decision.target)
    return {
        "time": _time(seen.time),
        "observed": _observed(seen),
        "forecast": _forecast(*forecasts),
        "candidates": [_candidate(one) for one in decision.candidates],
        "decision": decision.verb,
        "reason": decision.reason,
        "message": decision.message,
        "slo_missed": decision.slo_missed,
        "plan": {
            "live": None if seen.live is None else fleet_hash(seen.live),
            "wanted": target,
            "counts": None if decision.target is None else dict(decision.target),
        },
        "state": _state(state, options),
    }


def change_entry(
    time: float, event: str, message: str, state: State, options: tuple[str, ...]
) -> dict[str, Any]:
    """Return the line about what came of a change: done, failed, or not-had."""
    return {
        "time": _time(time),
        "event": event,
        "message": message,
        "state": _state(state, options),
    }


def fleet_hash(counts: Mapping[str, int]) -> str:
    """Return the id of a fleet: the same for the same replicas."""
    text = json.dumps(sorted((name, n) for name, n in counts.items() if n))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _time(time: float | None) -> str | None:
    return None if time is None else utc_text(datetime.fromtimestamp(time, timezone.utc))


def _seconds(text: object) -> float | None:
    if not isinstance(text, str):
        return None
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _observed(seen: Seen) -> dict[str, Any]:
    rates = seen.bucket_rates
    return {
        "rate_rps": _round(seen.rate_rps),
        "bucket_rates_rps": None if rates is None else rates.tolist(),
        "refused_rps": _round(seen.refused_rps),
        "attainment": _round(seen.attainment),
        "queue": _round(seen.queue),
        "live": None if seen.live is None else dict(seen.live),
        "starting": dict(seen.starting),
        "prices_as_of": seen.prices_as_of,
        "faults": [{"code": fault.code, "message": fault.message} for fault in seen.faults],
    }


def _forecast(soon: Forecast | None, later: Forecast | None) -> dict[str, Any] | None:
    if soon is None or later is None:
        return None
    return {
        "over_s": soon.over_s,
        "level_rps": _round(soon.level_rps),
        "rising_rps": _round(soon.rising_rps),
        "expected_rps": _round(soon.expected_rps),
        "high_rps": _round(soon.high_rps),
        "rule": soon.rule,
        "band_origin": soon.band_origin,
        "later_over_s": later.over_s,
        "later_high_rps": _round(later.high_rps),
    }


def _candidate(one: Candidate) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "counts": dict(one.counts),
        "usd_per_hour": _round(one.usd_per_hour),
        "rate_rps": _round(one.rate_rps),
        "rate_origin": one.rate_origin,
        "switch_usd": _round(one.switch_usd),
        "usd": _round(one.usd),
    }


def _state(state: State, options: tuple[str, ...]) -> dict[str, Any]:
    return {
        "changed": _time(state.changed_s),
        "started": _time(state.started_s),
        "agreed": state.agreed,
        "standing": _named(state.standing, options),
        "target": _named(state.target, options),
        "without": {name: _time(until) for name, until in state.without.items()},
        "missed": state.missed,
        "shrunk": _time(state.shrunk_s),
        "regrets": state.regrets,
        "calm_until": _time(state.calm_until_s),
        "short": _round(state.short),
        "short_since": _time(state.short_s),
    }


def state_of(document: object, options: tuple[str, ...]) -> State:
    """Return what a line remembers; what is not there, or of options that are gone, is forgotten."""
    if not isinstance(document, dict):
        return State()
    without = document.get("without")
    until = {
        str(name): time
        for name, text in (without.items() if isinstance(without, dict) else ())
        if (time := _seconds(text)) is not None
    }
    return State(
        changed_s=_seconds(document.get("changed")),
        started_s=_seconds(document.get("started")),
        agreed=_whole(document.get("agreed")),
        standing=_counts(document.get("standing"), options),
        target=_counts(document.get("target"), options),
        without=until,
        missed=_whole(document.get("missed")),
        shrunk_s=_seconds(document.get("shrunk")),
        regrets=_whole(document.get("regrets")),
        calm_until_s=_seconds(document.get("calm_until")),
        short=_factor(document.get("short")),
        short_s=_seconds(document.get("short_since")),
    )


def _named(fleet: Counts | None, options: tuple[str, ...]) -> dict[str, int] | None:
    if fleet is None:
        return None
    return {name: n for name, n in zip(options, fleet, strict=True) if n}


def _counts(document: object, options: tuple[str, ...]) -> Counts | None:
    if not isinstance(document, dict) or not set(document) <= set(options):
        return None
    return tuple(_whole(document.get(name)) for name in options)


def _factor(value: object) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool) and value >= 1
    return float(value) if known else 1.0  # type: ignore[arg-type]


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
