"""Wrong terms, each kept out of advice or told; and true ones, which nothing is said of."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melange_sky.offers import FlagScope
from melange_sky.pricing.commitments.rules import RULES
from melange_sky.pricing.sanity import make_flag
from melange_sky.resources import catalogs_dir
from tests.pricing.commitments.rows import (
    NOW,
    OFFERS,
    ON_DEMAND,
    P5_SMALL,
    checked,
    offer,
    term,
    told,
)

LATER = datetime(2027, 3, 1, tzinfo=timezone.utc)


def test_nothing_is_said_of_true_terms():
    rows = (
        term(),
        term(term_hours=26280, usd_per_hour=24.0),
        term(product="all upfront", usd_per_hour=0.0, upfront_usd=34.0 * 8760),
        term(product="partial", usd_per_hour=17.5, upfront_usd=17.5 * 8760),
        term(kind="spend", product="savings plan", pool="x", usd_per_hour=37.0),
        term(product="block", term_hours=24, usd_per_hour=0, upfront_usd=24 * 39.33),
        term(starts=LATER, ends=LATER + timedelta(days=14), term_hours=336),
        term(instance_type=P5_SMALL, usd_per_hour=4.5),
    )
    for quote in checked(*rows):
        assert told(quote) == {}, quote.commitment


@pytest.mark.parametrize(
    ("over", "code", "severity", "message"),
    [
        ({"usd_per_hour": 0.0}, "term-price", "block", "0 $/h and 0 $ upfront"),
        ({"usd_per_hour": -1.0}, "term-price", "block", "-1 $/h and 0 $ upfront"),
        ({"usd_per_hour": math.nan}, "term-price", "block", "nan $/h and 0 $ upfront"),
        (
            {"usd_per_hour": 36.0 * 8760},
            "term-total-as-hourly",
            "block",
            "315360 $/h, on demand 55.04 $/h (today's list): if it is the total of 1 year, an hour costs 36 $",
        ),
        (
            {"usd_per_hour": 36.0 * 730},
            "term-total-as-hourly",
            "block",
            "26280 $/h, on demand 55.04 $/h (today's list): if it is the total of 1 month, an hour costs 36 $",
        ),
        (
            {"usd_per_hour": 36.0 * 24},
            "term-total-as-hourly",
            "block",
            "864 $/h, on demand 55.04 $/h (today's list): if it is the total of 1 day, an hour costs 36 $",
        ),
        (
            {"usd_per_hour": 36.0 / 8},
            "term-discount",
            "block",
            "4.5 $/h, on demand 55.04 $/h (today's list): 91.8 % off; per GPU? 8 of them would be 34.6 % off",
        ),
        (
            {"usd_per_hour": 36.0 / 8760, "instance_type": P5_SMALL},
            "term-discount",
            "block",
            "0.00410959 $/h, on demand 6.88 $/h (today's list): 99.9 % off",
        ),
        (
            {"usd_per_hour": 4.5 / 8760, "instance_type": P5_SMALL},
            "term-discount",
            "block",
            (
                "0.000513699 $/h, on demand 6.88 $/h (today's list): 100.0 % off; divided by the hours of the term"
                " twice? Once less is 34.6 % off"
            ),
        ),
        (
            {"usd_per_hour": 60.0},
            "term-above-on-demand",
            "warn",
            "60 $/h, on demand 55.04 $/h (today's list): 9.0 % more",
        ),
        (
            {"usd_per_hour": ON_DEMAND},
            "term-above-on-demand",
            "warn",
            "55.04 $/h, on demand 55.04 $/h (today's list): nothing off",
        ),
        (
            {"usd_per_hour": 20.0, "upfront_usd": 40.0 * 8760},
            "term-above-on-demand",
            "warn",
            "60 $/h, on demand 55.04 $/h (today's list): 9.0 % more",
        ),
        ({"term_hours": 12.0}, "term-length", "block", "a term of 0.5 days"),
        ({"term_hours": 36 * 8760.0}, "term-length", "block", "a term of 36 years"),
        (
            {"starts": NOW - timedelta(days=9), "ends": NOW - timedelta(days=2), "term_hours": 168},
            "term-over",
            "block",
            "it ended on 2026-11-28",
        ),
        (
            {"list_usd_per_hour": 98.32},
            "term-list-moved",
            "warn",
            "listed beside an on-demand price of 98.32 $/h, which is 55.04 now",
        ),
        ({"confidence": "second-hand"}, "term-second-hand", "warn", "from a list"),
        (
            {"as_of": "2027-02-01", "checked_at": None},
            "term-date",
            "warn",
            "its date 2027-02-01 is still to come",
        ),
        ({"as_of": None, "checked_at": None}, "term-date", "warn", "nobody says when it was true"),
        (
            {"as_of": "2026-09-01", "checked_at": None},
            "term-old",
            "warn",
            "last known true 90 days ago (2026-09-01)",
        ),
        (
            {"instance_type": "p9.48xlarge"},
            "term-unknown-instance",
            "warn",
            "no offer of aws p9.48xlarge is known",
        ),
    ],
)
def test_wrong_terms(over, code, severity, message):
    (quote,) = checked(term(**over))
    assert told(quote) == {code: severity}
    assert [flag.message for flag in quote.commitment.flags] == [message]
    assert bool(quote.commitment.blocked) is (severity == "block")


def test_a_term_without_a_price_to_hold_it_against():
    (quote,) = checked(term(), offers=(offer(price=None),))
    assert told(quote) == {"term-unpriced": "warn"}
    assert (quote.discount, quote.break_even_utilization) == (None, None)
    (quote,) = checked(term(list_usd_per_hour=55.04), offers=(offer(price=None),))
    assert told(quote) == {}
    assert quote.on_demand_source == "beside the term"
    assert quote.discount == pytest.approx(1 - 36 / 55.04)


def test_a_price_that_is_kept_out_of_plans_is_no_measure():
    flag = make_flag("below-region-median", FlagScope.ON_DEMAND, "x")
    (quote,) = checked(term(), offers=(replace(offer(price=20.0), flags=(flag,)),))
    assert told(quote) == {"term-unpriced": "warn"}


def test_terms_that_are_mixed_up_are_both_kept_out():
    quotes = checked(term(usd_per_hour=24.0), term(term_hours=26280, usd_per_hour=36.0))
    for quote in quotes:
        assert told(quote) == {"term-longer-dearer": "block"}
        (flag,) = quote.commitment.flags
        assert flag.message == "3 years cost 36 $/h, 1 year 24"
    apart = checked(
        term(usd_per_hour=24.0), term(term_hours=26280, usd_per_hour=36.0, region="us-east-2")
    )
    assert [told(quote) for quote in apart] == [{}, {"term-unpriced": "warn"}]
    other = checked(term(usd_per_hour=24.0), term(product="x", term_hours=26280, usd_per_hour=36.0))
    assert [told(quote) for quote in other] == [{}, {}], "another way to pay may cost more"


def test_one_price_for_several_counts():
    quotes = checked(term(usd_per_hour=4.5), term(usd_per_hour=4.5, instance_type=P5_SMALL))
    # the larger one gives itself away by its discount; with dearer ones only the pair does
    assert told(quotes[0]) == {"term-discount": "block"}
    quotes = checked(
        term(usd_per_hour=20.0),
        term(usd_per_hour=20.0, instance_type="p5.24xlarge"),
        offers=(*OFFERS, offer("p5.24xlarge", 27.5, accelerator_count=4.0)),
    )
    for quote in quotes:
        assert told(quote) == {"term-one-price-for-counts": "block"}
        (flag,) = quote.commitment.flags
        assert flag.message == "20 $/h for 4 and 8 × H100"


@pytest.mark.parametrize(
    ("before", "code"),
    [(36.0, None), (25.0, None), (20.0, "term-off-known"), (11.0, "term-far-from-known")],
)
def test_against_what_it_cost_before(before, code):
    (quote,) = checked(term(), known=((before, "the pull of 2026-11-01"), (36.0, "the table")))
    assert set(told(quote)) == ({code} if code else set())
    if code:
        (flag,) = quote.commitment.flags
        assert flag.message.endswith(f"× the {before:g} of the pull of 2026-11-01")
        assert bool(quote.commitment.blocked) is (code == "term-far-from-known")


def test_what_the_user_states_is_told_and_used():
    own = {"is_own": True, "as_of": None, "checked_at": None, "product": ""}
    rows = (
        term(usd_per_hour=5.0, **own),
        term(usd_per_hour=24.0, region="us-east-2", **own),
        term(usd_per_hour=36.0, region="us-east-2", term_hours=26280, **own),
    )
    offers = (*OFFERS, offer(region="us-east-2"))
    quotes = checked(*rows, known=((100.0, "the table"),), offers=offers)
    assert [told(quote) for quote in quotes] == [
        {"term-discount": "warn", "term-far-from-known": "warn"},
        {"term-far-from-known": "warn", "term-longer-dearer": "warn"},
        {"term-off-known": "warn", "term-longer-dearer": "warn"},
    ]
    total = checked(term(usd_per_hour=36.0 * 8760, **own))
    assert told(total[0]) == {"term-total-as-hourly": "block"}, "a slip is a slip, whoever made it"


@given(
    hourly=st.floats(0.01, 200),
    hours=st.sampled_from([730.0, 8760.0, 26280.0]),
    discount=st.floats(0.01, 0.74),
)
def test_totals_and_prices_of_an_hour_are_told_apart(hourly, hours, discount):
    """Whatever it costs: a price per hour within the usual discounts is let pass, its total never."""
    offers = (offer(price=hourly),)
    right = term(usd_per_hour=hourly * (1 - discount), term_hours=hours)
    total = term(usd_per_hour=hourly * (1 - discount) * hours, term_hours=hours)
    assert told(checked(right, offers=offers)[0]) == {}
    (quote,) = checked(total, offers=offers)
    assert told(quote) == {"term-total-as-hourly": "block"}


def test_the_rules_are_documented():
    page = (catalogs_dir() / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(term-[a-z-]+)` \| ([^|]+) \|", page, flags=re.MULTILINE))
    assert listed == {
        rule.code: rule.severity.value
        + ("" if rule.own is rule.severity else f"; your own: {rule.own.value}")
        for rule in RULES
    }
