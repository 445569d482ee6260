"""The arithmetic of a term: what an hour of it costs, when it pays, which instances it covers."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from melange_sky.commitments import Commitment, Owned, term_text

YEAR = Commitment(
    cloud="aws",
    region="us-east-1",
    instance_type="g6.xlarge",
    term_hours=8760,
    usd_per_hour=0.3,
    upfront_usd=876.0,
    source="x",
)
BLOCK = replace(YEAR, term_hours=24, longest_hours=182 * 24, usd_per_hour=0, upfront_usd=24 * 39.33)


def test_an_hour_costs_its_share_of_the_payment_upfront():
    assert YEAR.all_in_usd_per_hour == pytest.approx(0.4)
    assert YEAR.total_usd == pytest.approx(0.4 * 8760)
    assert YEAR.discount(0.8) == pytest.approx(0.5)
    assert YEAR.discount(0.4) == pytest.approx(0)
    assert YEAR.discount(0.2) == pytest.approx(-1), "dearer than on demand"


def test_it_pays_from_the_break_even_on():
    on_demand = 0.8
    for busy in (0.49, 0.51):
        rented = busy * on_demand * YEAR.term_hours
        assert (YEAR.total_usd < rented) is (busy > 1 - YEAR.discount(on_demand))


@pytest.mark.parametrize(
    ("region", "asked", "covered"),
    [
        ("us-east-1", ("aws", "us-east-1", "g6.xlarge"), True),
        ("us-east-1", ("aws", "us-east-2", "g6.xlarge"), False),
        ("", ("aws", "us-east-2", "g6.xlarge"), True),
        ("", ("gcp", "us-east-2", "g6.xlarge"), False),
        ("", ("aws", "us-east-2", "g6.2xlarge"), False),
    ],
)
def test_what_it_covers(region, asked, covered):
    assert replace(YEAR, region=region).covers(*asked) is covered


def test_a_block_lasts_whole_days():
    week = BLOCK.lasting(168)
    assert (week.term_hours, week.longest_hours) == (168, None)
    assert week.total_usd == pytest.approx(168 * 39.33)
    assert week.all_in_usd_per_hour == pytest.approx(39.33)
    assert BLOCK.lasting(21 * 24).term_hours == 504
    for hours in (25, 0, 20 * 24, 183 * 24):
        with pytest.raises(ValueError, match="whole days from 1 to 182"):
            BLOCK.lasting(hours)
    with pytest.raises(ValueError, match="whole days"):
        YEAR.lasting(24)


def test_owned_instances_end():
    until = datetime(2027, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    owned = Owned(cloud="aws", region="", instance_type="g6.xlarge", count=2, until=until)
    assert owned.holds(datetime(2026, 12, 31, 21, 59, tzinfo=timezone.utc))
    assert not owned.holds(datetime(2026, 12, 31, 22, tzinfo=timezone.utc))
    assert replace(owned, until=None).holds(datetime.max.replace(tzinfo=timezone.utc))


def test_terms_in_words():
    assert [term_text(h) for h in (24, 168, 730, 4380, 8760, 17520)] == [
        "1 day",
        "7 days",
        "1 month",
        "6 months",
        "1 year",
        "2 years",
    ]
