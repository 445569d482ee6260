"""How old prices and terms are before somebody signs for them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from melange_sky.pricing import OfferQuery, load_offers
from melange_sky.pricing.apis.sources import find_apis
from melange_sky.pricing.freshness import price_ages, stale_problems, term_ages, term_source
from melange_sky.pricing.refresh import RefreshOptions, refresh
from melange_sky.pricing.store import Store
from tests.pricing.catalogs import GOOD_AWS
from tests.pricing.commitments.rows import NOW, offer, term
from tests.pricing.server import body


def at(hours: float) -> str:
    return (NOW - timedelta(hours=hours)).isoformat()


@pytest.mark.parametrize(
    ("as_of", "checked", "stale"),
    [
        (at(1), None, False),
        (at(23.9), None, False),
        (at(24.1), None, True),
        (at(2000), at(1), False),
        (at(2000), at(30), True),
        (None, None, True),
        (None, at(3), False),
        ("last week", None, True),
        (at(-100), None, True),
    ],
)
def test_a_day_is_the_most(as_of, checked, stale):
    rows = [term(as_of=as_of, checked_at=checked)]
    (age,) = term_ages(rows, NOW)
    assert age.is_stale is stale
    (age,) = price_ages([offer(as_of=as_of)], {"aws": checked} if checked else {}, NOW)
    assert age.is_stale is stale


def test_one_s_own_are_of_today_unless_they_say_otherwise():
    own = term(is_own=True, checked_at=None, source="ours.csv")
    assert not term_ages([replace(own, as_of=None)], NOW)[0].is_stale
    assert stale_problems(term_ages([replace(own, as_of="2026-10-01")], NOW)) == (
        (
            "terms of aws: 60 days old, ours.csv; they say as_of 2026-10-01: see whether they still hold and date"
            " them, or say --stale-ok"
        ),
    )
    stated = offer(as_of="2026-10-01", is_own=True)
    (age,) = price_ages([stated], {"aws": at(1)}, NOW)
    assert age.is_stale, "that its cloud's catalog was asked says nothing of the user's own price"


def test_one_line_per_source():
    rows = [
        term(),
        term(term_hours=26280),
        term(source="another list", as_of=at(50), checked_at=None),
    ]
    ages = term_ages(rows, NOW)
    assert [str(age) for age in ages] == [
        "terms of aws: 4 hours old, a list",
        "terms of aws: 2 days old, another list",
    ]
    assert stale_problems(ages) == (
        (
            "terms of aws: 2 days old, another list; `melange-sky prices refresh --infra aws --source aws` fetches"
            " today's; or say --stale-ok"
        ),
    )
    block = term(longest_hours=4368, term_hours=24, as_of="2024-12-31", checked_at=None)
    other = term(cloud="lambda", as_of="2026-11-01", checked_at=None)
    advice = (
        "; no list has them: ask for an offer and state it (`--commitments`), or say --stale-ok"
    )
    assert stale_problems(term_ages([block, other], NOW)) == (
        f"terms of aws: 700 days old, a list{advice}",
        f"terms of lambda: 30 days old, a list{advice}",
    )


def test_whom_to_ask_for_terms(monkeypatch):
    for name in ("GOOGLE_API_KEY", "MELANGE_SKY_GCP_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for cloud in ("aws", "azure", "gcp", "runpod"):
        source = term_source(cloud)
        assert source is not None
        (api,) = find_apis((source,), ())
        assert api.cloud == cloud
    assert term_source("gcp") == "cyclenerd"
    assert (term_source("lambda"), term_source("vast")) == (None, None)
    monkeypatch.setenv("GOOGLE_API_KEY", "a-key")
    assert term_source("gcp") == "gcp"


def test_a_catalog_that_did_not_change_is_as_young_as_its_last_check(server, home):
    """Its file may be days old: what counts is that the server still gives it."""
    answer = body(GOOD_AWS, Last_Modified="Mon, 02 Nov 2026 10:00:00 GMT")
    server.catalog("aws", answer)
    now = datetime.now(timezone.utc)
    assert refresh(Store(home / "prices"), RefreshOptions(clouds=("aws",), deadline_s=60)).any_good
    found = load_offers(OfferQuery(infra=(("aws", None),), offline=True))
    ages = price_ages(found.offers, found.checked_at, now)
    assert [age.hours is not None and age.hours < 1 for age in ages] == [True]
    assert stale_problems(price_ages(found.offers, found.checked_at, now + timedelta(days=2)))


def test_what_ships_is_too_old_to_sign_for(home):
    found = load_offers(OfferQuery(infra=(("aws", None),), offline=True))
    assert found.checked_at == {}
    said = stale_problems(price_ages(found.offers, found.checked_at, NOW))
    assert said
    assert all(
        line.endswith(
            "; `melange-sky prices refresh --infra aws` fetches today's; or say --stale-ok"
        )
        for line in said
    )
