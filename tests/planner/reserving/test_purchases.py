"""Terms as purchases: which are weighed, where their instances run, windows of blocks, steps of spend, interest."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from melange_sky.capacities import DeploymentOption
from melange_sky.commitments import Commitment, Owned
from melange_sky.errors import InputError
from melange_sky.offers import Offer
from melange_sky.planner.options import PlannedOffer
from melange_sky.planner.reserving.purchases import AskedRates, purchasable
from melange_sky.planner.reserving.terms import (
    PlaceWishes,
    asked_terms,
    equal_usd_per_hour,
    net_present_usd,
    placed,
)
from melange_sky.planner.reserving.wishes import wishes
from melange_sky.spec.hourly import HourlyDemand

START = datetime(2026, 11, 2, tzinfo=timezone.utc)
YEAR = 8760.0


def offer(region: str = "us-east-1", price: float = 1.0, name: str = "g5.xlarge") -> Offer:
    return Offer(
        cloud="aws",
        region=region,
        instance_type=name,
        accelerator="A10G",
        accelerator_count=1,
        price_usd_per_hour=price,
        spot_usd_per_hour=None,
        source="test",
        as_of="2026-11-01",
    )


def term(
    usd: float = 0.6, hours: float = YEAR, region: str = "us-east-1", **more: Any
) -> Commitment:
    named = {"cloud": "aws", "instance_type": "g5.xlarge", **more}
    return Commitment(region=region, term_hours=hours, usd_per_hour=usd, **named)


def options(**flags: Any) -> Any:
    return wishes(demand=Path("d.csv"), **flags)


def demand(hours: int = 168) -> HourlyDemand:
    return HourlyDemand(
        source="d.csv",
        starts=tuple(START + timedelta(hours=n) for n in range(hours)),
        step_s=3600.0,
        rate_rps=(1.0,) * hours,
        mix=("",) * hours,
    )


def bought(terms: list[Commitment], hours: int = 168, **flags: Any) -> Any:
    """Return the purchases of terms for one option of which 4 instances serve the peak."""
    option = DeploymentOption(
        name="a10g", accelerator="A10G", accelerator_count=1, price_usd_per_hour=1.0, offer=offer()
    )
    given: Any = SimpleNamespace(terms=tuple(terms), demand=demand(hours))
    served: Any = SimpleNamespace(most=np.array([4.0]))
    asked = AskedRates(
        mix=np.zeros(hours, dtype=np.intp),
        peaks_rps=np.ones(hours),
        models=("m",),
        peak_usd_per_hour=lambda: 4.0,
    )
    return purchasable(given, [option], [served], asked, options(**flags))


def test_terms_of_up_to_a_year_are_weighed_and_others_where_asked_for() -> None:
    month, year, three = term(hours=730.0), term(), term(hours=3 * YEAR)
    block = term(hours=24.0, longest_hours=4368.0)
    rows = [month, year, three, block]
    assert asked_terms(rows, options()) == [month, year]
    assert asked_terms(rows, options(term="3y")) == [three]
    assert asked_terms(rows, options(term="1m, 1y")) == [month, year]
    assert asked_terms(rows, options(term="block")) == [block]
    assert asked_terms(rows, options(term="all")) == rows
    own = term(hours=3 * YEAR, is_own=True)
    assert asked_terms([own], options()) == [own]


def test_instances_of_a_term_are_pinned_to_its_region_and_the_cheapest_row_stands_for_all() -> None:
    east, west = offer(price=1.0), offer("us-west-2", 1.2)
    merged = PlannedOffer(offer=east, fallbacks=(west,))
    found = placed([merged], [term(0.7), term(0.6, region="us-west-2")], [], PlaceWishes())
    assert [p.offer.region for p in found.offers] == ["us-east-1", "us-west-2"]
    assert all(p.pinned and not p.fallbacks for p in found.offers)
    assert [t.region for t in found.terms] == ["us-west-2"]


def test_without_a_term_an_instance_type_keeps_its_fallbacks() -> None:
    merged = PlannedOffer(offer=offer(), fallbacks=(offer("us-west-2", 1.2),))
    for rows in ([], [term(region="eu-west-1")]):
        assert placed([merged], rows, [], PlaceWishes()).offers == (merged,)


def test_owned_instances_need_an_offer_of_their_place() -> None:
    own = Owned(
        cloud="aws", region="eu-west-1", instance_type="g5.xlarge", count=1, where="o.csv:2"
    )
    with pytest.raises(InputError, match=r"^o\.csv:2: g5\.xlarge on aws/eu-west-1 is not among"):
        placed([PlannedOffer(offer=offer())], [], [own], PlaceWishes())
    found = placed(
        [PlannedOffer(offer=offer())], [], [Owned(**{**_fields(own), "region": ""})], PlaceWishes()
    )
    assert [p.offer.region for p in found.offers] == ["us-east-1"]


def _fields(own: Owned) -> dict[str, Any]:
    return {name: getattr(own, name) for name in ("cloud", "region", "instance_type", "count")}


def test_a_year_costs_its_hours_of_the_demand_and_a_month_ends_within_a_longer_one() -> None:
    (year,) = bought([term(0.5, upfront_usd=876.0)])
    assert year.purchase.usd == pytest.approx(168 * 0.6) and year.purchase.active is None
    assert year.purchase.most == 4 and year.purchase.upfront_usd == 876.0
    assert year.purchase.draws == {0: 1.0}
    (month,) = bought([term(0.5, hours=730.0)], hours=1000)
    assert month.purchase.usd == pytest.approx(730 * 0.5)
    assert month.purchase.active.sum() == 730 and month.purchase.active[:730].all()


def test_the_dearer_of_terms_for_the_same_hours_is_told_and_kept_only_where_a_budget_may_need_it() -> (
    None
):
    upfront, monthly = term(0.0, upfront_usd=0.5 * YEAR), term(0.6)
    (one,) = bought([monthly, upfront])
    assert one.term == upfront and one.dearer == (monthly,)
    assert len(bought([monthly, upfront], budget_upfront=1000.0)) == 2


def test_a_block_may_begin_on_any_day_and_last_whole_days() -> None:
    block = term(0.0, hours=24.0, longest_hours=72.0, upfront_usd=12.0)
    found = bought([block], hours=96)
    spans = sorted((p.purchase.active.argmax() // 24, p.purchase.active.sum() // 24) for p in found)
    assert spans == sorted((d, n) for d in range(4) for n in range(1, 4) if d + n <= 4)
    assert all(p.purchase.usd == pytest.approx(12.0 * p.purchase.active.sum() / 24) for p in found)
    assert all(p.term.starts is not None and p.term.ends is not None for p in found)


def test_a_block_with_dates_counts_between_them_alone() -> None:
    day = START + timedelta(days=1)
    block = term(0.0, hours=24.0, upfront_usd=12.0, starts=day, ends=day + timedelta(days=1))
    (one,) = bought([block])
    assert one.purchase.active.sum() == 24 and one.purchase.active[24:48].all()
    before = term(0.0, hours=24.0, upfront_usd=12.0, starts=day - timedelta(days=9))
    assert bought([before]) == ()


def test_spend_is_bought_in_steps_that_running_instances_draw() -> None:
    (one,) = bought([term(0.62, kind="spend", pool="savings plan", region="")])
    step = one.step_usd_per_hour
    assert step == 0.02 and one.purchase.most == 200
    assert one.purchase.draws == {0: pytest.approx(0.62 / step)}
    assert one.purchase.usd == pytest.approx(168 * step) and one.rates == {0: 0.62}


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5])
def test_upfront_counts_with_interest(rate: float) -> None:
    """At a rate r, a dollar an hour over T hours is worth the integral of e^(−rt) today."""
    paid = term(0.3, upfront_usd=1000.0)
    hours = np.arange(YEAR) + 0.5
    worth = float(np.exp(-rate * hours / YEAR).sum())
    assert net_present_usd(paid, rate) == pytest.approx(1000 + 0.3 * worth, rel=1e-6)
    even = equal_usd_per_hour(paid, rate)
    assert even * worth == pytest.approx(net_present_usd(paid, rate), rel=1e-6)
