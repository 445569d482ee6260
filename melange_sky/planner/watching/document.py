"""What `watch --replay --format json` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from melange_sky.planner.watching.judging import Judged
    from melange_sky.planner.watching.replay import Backtest, Contender


def backtest_document(found: Backtest) -> dict[str, Any]:
    """Return what `watch --replay --format json` prints."""
    traffic = found.traffic
    return {
        "replay": traffic.source,
        "hours": traffic.seconds / 3600,
        "requests": traffic.requests,
        "seed": found.seed,
        "every_s": found.every_s,
        "startup_s": list(found.startup_s),
        "target_attainment": found.target,
        "held": found.held,
        "blocked": found.blocked,
        "above_perfect_fraction": found.above_perfect,
        "perfect_usd": found.perfect_usd,
        "contenders": [_contender(one) for one in found.contenders],
        "decisions": found.reasons,
        "notes": list(traffic.notes),
    }


def _contender(one: Contender) -> dict[str, Any]:
    return {
        "name": one.name,
        "usd": one.usd,
        "usd_at_equal_attainment": one.usd_at_equal,
        "changes": one.changes,
        "detail": one.detail or None,
        "replayed": None if one.judged is None else _judged(one.judged),
    }


def _judged(judged: Judged) -> dict[str, Any]:
    return {
        "attainment": judged.attainment,
        "half_width": judged.half_width,
        "origin": "simulated",
        "requests": judged.requests,
        "stretches": judged.stretches,
        "whole": judged.whole,
        "days": [
            {"day": one.number, "attainment": one.attainment, "requests": one.requests}
            for one in judged.days
        ],
    }
