"""A saved plan at other prices: what it costs now and what would be planned instead."""

from __future__ import annotations

from dataclasses import replace

import pytest

from melange_sky.offers import Flag, Offer, Severity, Touches
from melange_sky.planner.replan import reprice
from tests.factories import make_plan


def _offers(**prices: float | None) -> list[Offer]:
    plan = make_plan()
    return [
        replace(
            c.option.offer,
            price_usd_per_hour=prices.get(c.option.name, c.option.price_usd_per_hour),
        )
        for c in plan.candidates
        if c.option.offer
    ]


def test_equal_prices_cost_the_same_and_a_cheaper_mix_is_found() -> None:
    # The plan of the factory is not optimal: one A100 alone carries everything.
    result = reprice(make_plan(), _offers())
    assert result.cost_now_usd_per_hour == pytest.approx(result.cost_then_usd_per_hour)
    assert result.best is not None
    assert result.best.cost_usd_per_hour == pytest.approx(5.07)
    assert result.saving_usd_per_hour == pytest.approx(1.006)


def test_moved_prices_are_told_and_counted() -> None:
    result = reprice(make_plan(), _offers(a10g=2.0))
    assert [(m.option, m.then_usd_per_hour, m.now_usd_per_hour) for m in result.moves] == [
        ("a10g", 1.006, 2.0),
        ("a100", 5.07, 5.07),
    ]
    assert result.cost_now_usd_per_hour == pytest.approx(7.07)


def test_what_is_no_longer_sold_has_no_cost_now() -> None:
    result = reprice(make_plan(), _offers(a10g=None))
    assert result.cost_now_usd_per_hour is None
    assert result.saving_usd_per_hour is None
    assert result.best is not None and result.best.cost_usd_per_hour == pytest.approx(5.07)
    gone = reprice(make_plan(), [])
    assert gone.best is None
    assert gone.reason == "chat: none of the plan's options is sold at these prices"


def test_a_blocked_price_is_not_a_bargain() -> None:
    flag = Flag(
        code="below-median", severity=Severity.BLOCK, touches=Touches.ON_DEMAND, message="too cheap"
    )
    cheap = [replace(o, price_usd_per_hour=0.01, flags=(flag,)) for o in _offers()]
    result = reprice(make_plan(), cheap)
    assert result.cost_now_usd_per_hour is None
    assert result.best is None
