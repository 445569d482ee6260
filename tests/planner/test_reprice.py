"""A saved plan at other prices: what it costs now and what would be planned instead."""

from __future__ import annotations

from dataclasses import replace

import pytest

from melange_sky.constraints import Constraints
from melange_sky.offers import Flag, FlagScope, Offer, Severity
from melange_sky.optimizer import SolveOptions
from melange_sky.planner.reprice import reprice
from tests.factories import make_model_plan, make_plan


def _offers(**prices: float | None) -> list[Offer]:
    return [
        replace(
            c.option.offer,
            price_usd_per_hour=prices.get(c.option.name, c.option.price_usd_per_hour),
        )
        for c in make_model_plan().candidates
        if c.option.offer
    ]


def test_equal_prices_cost_the_same_and_a_cheaper_mix_is_found() -> None:
    # The plan of the factory is not optimal: one A100 alone carries everything.
    result = reprice(make_plan(), _offers())
    assert result.now_usd_per_hour == pytest.approx(result.planned_usd_per_hour)
    assert result.best_usd_per_hour == pytest.approx(5.07)
    assert result.saving_usd_per_hour == pytest.approx(1.006)


def test_the_other_mix_keeps_the_plans_constraints() -> None:
    plan = make_plan(constraints=Constraints(min_replicas=3))
    result = reprice(plan, _offers())
    assert result.best_usd_per_hour == pytest.approx(5.07 + 2 * 1.006)


def test_what_is_already_paid_is_not_billed_again() -> None:
    first, second = make_model_plan().allocations
    paid = make_plan(allocations=(replace(first, fixed_instances=1), second))
    assert reprice(paid, _offers(a10g=9.0)).now_usd_per_hour == pytest.approx(5.07)


def test_what_is_no_longer_sold_has_no_cost_now() -> None:
    result = reprice(make_plan(), _offers(a10g=None))
    assert result.now_usd_per_hour is None
    assert result.saving_usd_per_hour is None
    assert result.best_usd_per_hour == pytest.approx(5.07)
    assert reprice(make_plan(), []).best_usd_per_hour is None


def test_a_mix_that_was_not_found_in_time_is_not_called_impossible() -> None:
    late = reprice(make_plan(), _offers(), SolveOptions(time_limit_s=1e-6))
    assert (late.best_usd_per_hour, late.best) == (None, ())
    assert late.late == (
        "no plan was found within the time limit of 1e-06 s (none is proven impossible)"
    )
    gone = reprice(make_plan(), [])
    assert (gone.best_usd_per_hour, gone.late) == (None, None)


def test_a_blocked_price_is_not_a_bargain() -> None:
    flag = Flag(
        code="below-median",
        severity=Severity.BLOCK,
        touches=FlagScope.ON_DEMAND,
        message="too cheap",
    )
    cheap = [replace(o, price_usd_per_hour=0.01, flags=(flag,)) for o in _offers()]
    result = reprice(make_plan(), cheap)
    assert result.now_usd_per_hour is None
    assert result.best_usd_per_hour is None
