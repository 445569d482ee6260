"""Which terms an advice sees: what ships, what was pulled, the user's own on top, and what they can pay for."""

from __future__ import annotations

import csv
import io
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import filelock
import pytest

from melange_sky import price_terms
from melange_sky.errors import InputError
from melange_sky.pricing import OfferQuery, load_offers
from melange_sky.pricing.commitments.load import CommitmentQuery, load_commitments
from melange_sky.pricing.commitments.on_demand import matching_terms
from melange_sky.pricing.commitments.own_csv import read_embedded_terms
from melange_sky.pricing.commitments.sheet import TermPart
from melange_sky.pricing.commitments.store import TermSource, TermStore
from melange_sky.pricing.store import Store
from tests.machine import slowness
from tests.pricing.commitments.rows import NOW, OFFERS, P5, P5_SMALL, offer, term
from tests.pricing.commitments.test_own_csv import table

US_EAST = (("aws", "us-east-1"),)


def book(home: Path, *, offers=OFFERS, **over):
    query = CommitmentQuery(now=NOW, store_dir=home / "prices", **over)
    return load_commitments(query, offers)


def keep(home: Path, *rows, region: str = "us-east-1", days_ago: float = 0.0) -> None:
    """Put terms into the store, as a pull of AWS would."""
    part = TermPart(name="reserved instances", region=region, rows=tuple(rows))
    source = TermSource(name="aws", label="a list", url="http://x", parts=(part,))
    kept = TermStore(Store(home / "prices")).keep({"aws": source}, NOW - timedelta(days=days_ago))
    assert kept.store_problem is None


def own(tmp_path: Path, *rows: dict[str, str]) -> Path:
    path = tmp_path / "ours.csv"
    path.write_text(table(*rows), encoding="utf-8")
    return path


def shown(found) -> list[tuple[str, float, float]]:
    return [
        (q.commitment.source, q.commitment.term_months, q.commitment.all_in_usd_per_hour)
        for q in found.quotes
    ]


def test_the_facts_that_ship_read_right(home):
    """25 facts: each discount as its source states it, to 0.1 %."""
    said = {
        ("a2-highgpu-8g", 12): {37.0, 37.5},
        ("a2-highgpu-8g", 36): {65.0, 64.9},
        ("a2-megagpu-16g", 12): {37.0},
        ("a2-megagpu-16g", 36): {65.0},
        ("a3-highgpu-1g", 12): {30.6},
        ("a3-highgpu-1g", 36): {56.1},
        ("a3-highgpu-2g", 12): {30.6},
        ("a3-highgpu-2g", 36): {56.1},
        ("Standard_NC48ads_A100_v4", 12): {34.6},
        (P5, 36): {56.1},
        (P5, 24 / 730): {28.5},
        ("p4d.24xlarge", 24 / 730): {32.8},
    }
    rows, name = read_embedded_terms(NOW)
    assert (len(rows), name[:9]) == (25, "embedded-")
    for row in rows:
        if row.instance_type == "p5e.48xlarge":
            assert row.list_usd_per_hour is None, "it is not sold on demand"
            assert row.all_in_usd_per_hour == pytest.approx(43.26)
            continue
        stated = said[row.instance_type, row.term_months]
        percent = 100 * row.discount(row.list_usd_per_hour)
        assert min(abs(percent - each) for each in stated) < 0.1, row
    assert all(row.source and row.confidence in ("read", "second-hand") for row in rows)
    assert [row.cloud for row in rows if row.as_of is None] == ["azure"]
    blocks = [row for row in rows if row.longest_hours]
    assert [round(row.lasting(336).total_usd / 336, 6) for row in blocks] == [39.33, 43.26, 14.75]


def test_no_fact_that_ships_is_in_doubt_beside_the_prices_that_ship(home):
    offers = load_offers(OfferQuery(offline=True)).offers
    found = book(home, offers=offers)
    assert len(found.quotes) == 25
    assert found.usable == found.quotes
    assert [w.code for w in found.warnings] == ["embedded-terms"]
    assert found.warnings[0].message.startswith(
        "terms of aws, azure, gcp come from the table shipped with melange-sky"
        " (as of 2024-12-31 to 2025-05-31); "
    )


def test_what_was_pulled_of_a_region_stands_for_it_whole(home):
    keep(home, term())
    found = book(home, infra=US_EAST)
    assert {q.commitment.source for q in found.quotes} == {
        "a list",
        "aws.amazon.com/ec2/capacityblocks/pricing, prices valid to the end of 2024",
    }, "the old reserved price that ships is gone, the block that no list has is not"
    elsewhere = book(home, infra=(("aws", "us-east-2"),))
    assert all(q.commitment.checked_at is None for q in elsewhere.quotes)


def test_negotiated_terms_replace_listed_ones_of_the_same_instance_and_term(home, tmp_path):
    keep(
        home,
        term(),
        term(product="all upfront", usd_per_hour=0, upfront_usd=34.0 * 8760),
        term(term_hours=26280, usd_per_hour=24.0),
        term(instance_type=P5_SMALL, usd_per_hour=4.5),
    )
    path = own(tmp_path, {"usd_per_hour": "29", "instance_type": P5})
    found = book(home, infra=US_EAST, own=path, only_offered=True)
    years = [row for row in shown(found) if row[1] in (12, 36)]
    assert years == [("a list", 12, 4.5), ("offer 4711", 12, 29.0), ("a list", 36, 24.0)]
    anywhere = own(tmp_path, {"usd_per_hour": "29", "instance_type": P5, "region": ""})
    again = book(home, infra=US_EAST, own=anywhere, only_offered=True)
    assert sorted(shown(again)) == sorted(shown(found))
    other = own(tmp_path, {"usd_per_hour": "29", "instance_type": P5, "region": "us-west-2"})
    rows = shown(book(home, own=other))
    assert ("a list", 12, 36.0) in rows, "another region's list price stays"
    assert ("offer 4711", 12, 29.0) in rows


def test_a_negotiated_block_replaces_the_listed_blocks_that_it_could_be(home, tmp_path):
    path = own(
        tmp_path, {"term_months": "", "term_days": "14", "usd_per_hour": "35", "instance_type": P5}
    )
    found = book(home, infra=US_EAST, own=path)
    assert [q.commitment.source for q in found.quotes if q.commitment.term_hours < 8760] == [
        "offer 4711"
    ]


def test_what_is_doubted_of_one_s_own_is_told_once_per_rule(home, tmp_path):
    rows = [{"instance_type": f"p{n}.48xlarge", "as_of": ""} for n in range(20, 25)]
    path = own(tmp_path, *rows, {"instance_type": P5, "usd_per_hour": "5"})
    found = book(home, own=path)
    told = {w.code: w.message for w in found.warnings}
    assert told["term-unknown-instance"] == (
        "your own terms: aws/us-east-1 p20.48xlarge: no offer of aws p20.48xlarge is known; aws/us-east-1"
        " p21.48xlarge: no offer of aws p21.48xlarge is known; aws/us-east-1 p22.48xlarge: no offer of aws"
        " p22.48xlarge is known; and 2 more"
    )
    assert told["term-discount"] == (
        f"your own terms: aws/us-east-1 {P5}: 5 $/h, on demand 55.04 $/h (today's list): 90.9 % off; per GPU?"
        " 8 of them would be 27.3 % off"
    )
    assert {q.commitment.instance_type for q in found.usable} >= {P5, "p20.48xlarge"}


def test_one_s_own_terms_that_nobody_asked_for_are_told(home, tmp_path):
    path = own(tmp_path, {}, {"instance_type": "g6.xlarge"}, {"cloud": "gcp"})
    found = book(home, infra=US_EAST, own=path, only_offered=True)
    told = {w.code: w.message for w in found.warnings}
    assert told["own-terms-unused"] == (
        "2 of your own terms are of instances or places that are not asked for: aws g6.xlarge, gcp p5.48xlarge"
    )


def test_an_unknown_cloud_is_named(home):
    with pytest.raises(InputError, match="unknown cloud 'asw'"):
        book(home, infra=(("asw", None),))


def test_which_terms_can_pay_for_an_offer(home):
    any_region = term(region="", product="x", usd_per_hour=35.0)
    broken = term(usd_per_hour=36.0 * 8760, product="broken")
    keep(home, term(), term(term_hours=26280, usd_per_hour=24.0), any_region, broken, region="")
    found = book(home, only_offered=True, offers=(*OFFERS, offer(region="us-west-2")))
    here = matching_terms(found.quotes, OFFERS[0])
    assert [q.commitment.all_in_usd_per_hour for q in here if q.commitment.checked_at] == [
        24.0,
        35.0,
        36.0,
    ]
    west = matching_terms(found.quotes, offer(region="us-west-2"))
    assert [q.commitment.all_in_usd_per_hour for q in west] == [35.0]
    assert matching_terms(found.quotes, replace(OFFERS[0], cloud="gcp")) == ()
    assert matching_terms(found.quotes, OFFERS[1]) == ()
    (quote,) = [q for q in found.quotes if q.commitment.product == "x"]
    assert quote.on_demand_usd_per_hour == 55.04, "of any region: beside the cheapest"


def test_what_is_shown_as_csv_reads_back(home, run, tmp_path, monkeypatch):
    written = run("prices", "terms", "--format", "csv")
    assert written.code == 0
    lines = list(csv.DictReader(io.StringIO(written.out)))
    assert len(lines) == 25
    path = tmp_path / "ours.csv"
    path.write_text(written.out, encoding="utf-8")
    again = run("prices", "terms", "--format", "csv", "--commitments", str(path))
    assert again.code == 0
    theirs = list(csv.DictReader(io.StringIO(again.out)))
    for row in (*theirs, *lines):
        del row["flags"]  # nobody doubts the date of a term that the user states without one
    assert theirs == lines


def test_the_command_shows_what_python_gets(home, run):
    terms = price_terms(accelerators="A100:8", infra="gcp/us-central1")
    assert [q.commitment.term_months for q in terms.quotes] == [12, 36]
    done = run("prices", "terms", "--accelerators", "A100:8", "--infra", "gcp/us-central1")
    assert done.code == 0
    header, year, three, *rest = done.out.splitlines()
    assert rest == []
    assert header.split()[:2] == ["ACCELERATOR", "CLOUD"]
    for line, said in (
        (year, ("1 year", "37.0 %", "63.0 %")),
        (three, ("3 years", "65.0 %", "35.0 %")),
    ):
        assert all(f"  {cell}" in line for cell in said), line
    assert str(terms).startswith(done.out)
    assert "gcp: flexible commitments cover no GPU" in done.err
    assert "List prices: your contract may differ (`--commitments`)." in done.err
    for row in run("prices", "terms", "--accelerators", "A100:8", "--format", "json").json():
        assert row["accelerator"] == "A100"
        assert row["break_even_utilization"] == pytest.approx(1 - row["discount_fraction"])


def test_the_command_refuses_what_it_cannot_read(home, run, tmp_path):
    done = run("prices", "terms", "--commitments", str(own(tmp_path, {"kind": "rent"})))
    assert done.code == 2
    assert done.err.splitlines()[-1] == (
        f"error: {tmp_path}/ours.csv:2: 'kind' is 'rent': write instance or spend"
    )
    assert run("prices", "terms", "--infra", "asw").code == 2
    assert run("prices", "terms", "--accelerators", "H1000").code == 2


def test_two_pulls_of_other_regions_at_once_keep_both(home):
    """Each builds on what the other has kept, whoever comes first."""
    regions = [f"region-{i}" for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda r: keep(home, term(region=r), region=r), regions))
    kept = TermStore(Store(home / "prices")).newest()["aws"]
    assert sorted(each.row.region for each in kept) == regions


def test_a_store_that_is_held_costs_the_terms_and_is_told(home, monkeypatch):
    monkeypatch.setattr("melange_sky.pricing.commitments.store.LOCK_WAIT_S", 0.05)
    keep(home, term())
    part = TermPart(name="reserved instances", rows=(term(usd_per_hour=30.0),))
    source = TermSource(name="aws", label="a list", url="http://x", parts=(part,))
    store = TermStore(Store(home / "prices"))
    with filelock.FileLock(home / "prices" / "terms" / ".pull.lock"):
        said = store.keep({"aws": source}, NOW)
    assert (
        said.store_problem
        == f"cannot write to {home}/prices/terms: another pull held it for 0.05 s"
    )
    assert [each.row.usd_per_hour for each in store.newest()["aws"]] == [36.0]


def test_thousands_of_terms_are_read_and_checked_at_once(home):
    offers = tuple(
        offer(f"p{k}.48xlarge", 10.0 + k, region=f"r{r}") for k in range(20) for r in range(40)
    )
    rows = [
        term(
            instance_type=o.instance_type,
            region=o.region,
            term_hours=hours,
            usd_per_hour=o.price_usd_per_hour * share,
        )
        for o in offers
        for hours, share in ((8760, 0.65), (26280, 0.45))
    ]
    for days in (3, 2, 1, 0):
        keep(home, *rows, region="", days_ago=days)
    began = time.process_time()
    found = book(home, infra=(("aws", None),), offers=offers)
    assert time.process_time() - began < 2.0 * slowness()
    assert len(found.usable) >= len(rows) == 1600
    size = sum(path.stat().st_size for path in (home / "prices" / "terms").rglob("*.json"))
    assert size < 4 * 100_000, "a tenth of its text"
