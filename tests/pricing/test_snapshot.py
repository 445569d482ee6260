"""The embedded snapshot: present, true to its rules, and always enough to plan."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timezone

import pytest

from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.offers import Severity
from melange_sky.pricing import OfferQuery, load_offers
from melange_sky.pricing.own_csv import read_embedded
from melange_sky.pricing.sanity import RULES
from melange_sky.resources import catalogs_dir

ACCELERATORS = {"T4", "L4", "A10G", "L40S", "A100", "A100-80GB", "H100", "H200"}
CLOUDS = {"aws", "gcp", "azure", "lambda", "runpod", "nebius"}


def test_covers_the_accelerators_and_clouds_that_it_promises():
    offers, snapshot = read_embedded()
    assert {o.cloud for o in offers} >= CLOUDS
    sold = {o.accelerator for o in offers if o.price_usd_per_hour and not o.blocked(False)}
    assert sold >= ACCELERATORS
    assert snapshot.startswith("embedded-")
    assert len(offers) < 500


def test_every_row_has_source_date_and_a_price():
    for offer in read_embedded()[0]:
        assert offer.source
        assert datetime.fromisoformat(offer.as_of or "")
        assert offer.price_usd_per_hour or offer.spot_usd_per_hour


def test_only_absent_on_demand_prices_are_blocked():
    """No row of the shipped table may break a rule other than `price-missing`."""
    broken = {f.code for o in read_embedded()[0] for f in o.flags if f.severity is Severity.BLOCK}
    assert broken == {"price-missing"}


def test_known_list_prices():
    """List prices that anybody can look up (docs of the clouds, 2026)."""
    price = {(o.cloud, o.region, o.instance_type): o.price_usd_per_hour for o in read_embedded()[0]}
    assert price["aws", "us-east-1", "g6.xlarge"] == 0.8048
    assert price["aws", "us-east-1", "p5.48xlarge"] == 55.04
    assert price["gcp", "us-central1", "g2-standard-4"] == pytest.approx(0.70683)
    assert price["azure", "eastus", "Standard_NC24ads_A100_v4"] == 3.673
    assert price["gcp", "us-central1", "a3-highgpu-8g"] is None, "the source's 43.07 is wrong"


def test_plans_with_a_warning_that_says_the_dates():
    book = load_offers(OfferQuery(offline=True))
    assert book.snapshot and book.snapshot.startswith("embedded-")
    (warning,) = book.warnings
    assert warning.code == "embedded-prices"
    assert "2026-05-20" in warning.message
    assert sum(not o.blocked(False) for o in book.offers) > 100


def test_source_age_is_flagged_by_the_clock_that_is_given():
    young = load_offers(OfferQuery(offline=True, now=datetime(2026, 9, 5, tzinfo=timezone.utc)))
    by_date = defaultdict(set)
    for offer in young.offers:
        by_date[offer.as_of].update(f.code for f in offer.flags)
    assert "source-old" not in by_date["2026-09-04"]
    assert "source-old" in by_date["2026-05-20"]


def test_filters():
    query = OfferQuery(
        infra=(("aws", None), ("azure", "eastus")), accelerators=("l4", "A100-80GB:2"), offline=True
    )
    offers = load_offers(query).offers
    assert {o.cloud for o in offers} == {"aws", "azure"}
    assert {o.region for o in offers if o.cloud == "azure"} == {"eastus"}
    assert {(o.accelerator, o.accelerator_count) for o in offers if o.accelerator != "L4"} == {
        ("A100-80GB", 2)
    }


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (OfferQuery(infra=(("awz", None),), offline=True), "did you mean 'aws'"),
        (OfferQuery(infra=(("aws", "us-eest-1"),), offline=True), "did you mean 'us-east-1'"),
        (OfferQuery(accelerators=("A10g", "H10O"), offline=True), "did you mean 'H100'"),
        (OfferQuery(accelerators=("L4:x",), offline=True), "NAME or NAME:COUNT"),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(query, said):
    with pytest.raises(InputError, match=said):
        load_offers(query)


def test_an_unknown_region_beside_others_is_a_warning():
    infra = (("aws", "us-east-1"), ("azure", "eastuss"))
    book = load_offers(OfferQuery(infra=infra, offline=True))
    assert {o.cloud for o in book.offers} == {"aws"}
    (told,) = [w.message for w in book.warnings if w.code == "no-region"]
    assert "'eastuss' of azure (did you mean 'eastus'?)" in told


def test_nothing_known_of_a_cloud_is_exit_4():
    with pytest.raises(SourceUnavailableError, match="refresh"):
        load_offers(OfferQuery(infra=(("scp", None),), offline=True))


def test_rules_are_documented_as_they_are():
    page = (catalogs_dir() / "README.md").read_text(encoding="utf-8")
    for rule in RULES:
        row = f"| `{rule.code}` | {rule.severity.value} | {rule.touches} | {rule.meaning} |"
        assert row in page
