"""Which source wins: fresh, cached, embedded; the user's own files above them; never a socket offline."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.pricing import OfferQuery, load_offers
from melange_sky.pricing.refresh import RefreshOptions, refresh
from melange_sky.pricing.store import Store
from tests.pricing.catalogs import GOOD_AWS, GOOD_LAMBDA, aws, plain
from tests.pricing.server import body, status

NOON = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
AWS = (("aws", None),)


def pull(home: Path, moment: datetime, clouds: tuple[str, ...] = ("aws",)):
    return refresh(
        Store(home / "prices"),
        RefreshOptions(clouds=clouds, deadline_s=60, clock=lambda: moment),
    )


def codes(book) -> set[str]:
    return {warning.code for warning in book.warnings}


def h100(book) -> float | None:
    (offer,) = [o for o in book.offers if o.accelerator == "H100"]
    return offer.price_usd_per_hour


def test_fresh_prices_are_used_as_they_are(server, home):
    server.catalog("aws", body(GOOD_AWS))
    pull(home, NOON)
    asked = len(server.asked)
    book = load_offers(OfferQuery(infra=AWS, now=NOON + timedelta(hours=6)))
    assert h100(book) == 55.04
    assert book.warnings == ()
    assert len(server.asked) == asked, "nothing is asked while prices are fresh"


def test_older_than_seven_hours_is_fetched_by_itself(server, home):
    server.catalog("aws", body(GOOD_AWS))
    pull(home, NOON)
    server.catalog("aws", body(GOOD_AWS.replace("55.04", "44.04")))
    book = load_offers(OfferQuery(infra=AWS, now=NOON + timedelta(hours=8)))
    assert h100(book) == 44.04


def test_cached_prices_when_the_source_is_down(server, home):
    server.catalog("aws", body(GOOD_AWS))
    pull(home, NOON)
    server.catalog("aws", status(403))
    book = load_offers(OfferQuery(infra=AWS, now=NOON + timedelta(days=3)))
    assert h100(book) == 55.04
    assert codes(book) == {"fetch-failed"}
    assert "2026-11-21T12:00:00Z" in book.warnings[0].message


def test_offline_says_how_old_the_prices_are(server, home):
    server.catalog("aws", body(GOOD_AWS))
    pull(home, NOON)
    book = load_offers(OfferQuery(infra=AWS, offline=True, now=NOON + timedelta(days=3)))
    assert codes(book) == {"cached-prices"}
    assert "3 days ago" in book.warnings[0].message


def test_embedded_prices_where_nothing_was_fetched(server, home):
    server.catalog("aws", body(GOOD_AWS))
    server.catalog("gcp", status(403))
    book = load_offers(OfferQuery(infra=(("aws", None), ("gcp", None))))
    assert codes(book) == {"fetch-failed", "embedded-prices"}
    sources = {o.cloud: o.source for o in book.offers}
    assert sources["aws"].startswith("SkyPilot catalog v8/aws (127.0.0.1")
    assert "@62ff0a98" in sources["gcp"]
    assert book.snapshot.startswith("000001-")
    assert "+embedded-" in book.snapshot


def test_exit_4_only_when_nothing_usable_is_left(server, home):
    server.catalog("scp", status(500))
    with pytest.raises(SourceUnavailableError, match="HTTP 500"):
        load_offers(OfferQuery(infra=(("scp", None),)))
    server.catalog("scp", body(plain("g1.l4,L4,1,1.0,kr-west1,")))
    assert len(load_offers(OfferQuery(infra=(("scp", None),))).offers) == 1
    server.catalog("scp", status(500))
    assert len(load_offers(OfferQuery(infra=(("scp", None),), refresh=True)).offers) == 1


def test_all_clouds_are_fetched_once_and_absent_ones_not_again(server, home):
    server.catalog("aws", body(GOOD_AWS))
    server.catalog("lambda", body(GOOD_LAMBDA))
    book = load_offers(OfferQuery())
    assert {o.cloud for o in book.offers} > {"aws", "lambda", "gcp"}
    assert codes(book) == {"embedded-prices"}, "a cloud without a hosted catalog has not failed"
    asked = len(server.asked)
    load_offers(OfferQuery())
    assert len(server.asked) == asked


def test_another_catalog_address_makes_prices_stale(server, home, monkeypatch):
    server.catalog("aws", body(GOOD_AWS))
    load_offers(OfferQuery(infra=AWS))
    monkeypatch.setenv("MELANGE_SKY_CATALOG_URL", f"{server.url}/copy/")
    server.answers["/copy/v8/aws/vms.csv"] = body(GOOD_AWS.replace("55.04", "44.04"))
    assert h100(load_offers(OfferQuery(infra=AWS))) == 44.04


def test_the_schema_is_a_setting(server, home, monkeypatch):
    monkeypatch.setenv("MELANGE_SKY_CATALOG_SCHEMA", "v9")
    server.answers["/v9/aws/vms.csv"] = body(GOOD_AWS)
    assert h100(load_offers(OfferQuery(infra=AWS))) == 55.04


@pytest.mark.parametrize("how", ["query", "environment", "listing"])
def test_offline_never_opens_a_socket(how, home, monkeypatch, run):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    if how == "listing":
        assert run("prices", "list", "--format", "json").code == 0
        return
    if how == "environment":
        monkeypatch.setenv("MELANGE_SKY_OFFLINE", "1")
    assert load_offers(OfferQuery(offline=how == "query")).offers


def test_refresh_and_offline_together_are_refused(run, monkeypatch):
    with pytest.raises(InputError):
        load_offers(OfferQuery(offline=True, refresh=True))
    assert run("prices", "refresh", "--offline").code == 2
    monkeypatch.setenv("MELANGE_SKY_OFFLINE", "1")
    assert run("prices", "refresh").code == 2
    with pytest.raises(InputError):
        load_offers(OfferQuery(refresh=True))


def sky_catalog(home: Path, cloud: str, text: str, fetched: str | None = None) -> None:
    """Place a catalog where SkyPilot keeps it; `fetched` is what SkyPilot says that it fetched."""
    folder = home.parent / ".sky" / "catalogs" / "v8"
    path = folder / cloud / "vms.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if fetched is not None:
        note = folder / ".meta" / cloud / "vms.csv.md5"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(hashlib.md5(fetched.encode()).hexdigest())


def test_a_modified_skypilot_catalog_wins(server, home):
    server.catalog("aws", body(GOOD_AWS))
    pull(home, NOON)
    mine = GOOD_AWS.replace("55.04", "33.03")
    sky_catalog(home, "aws", mine, fetched=GOOD_AWS)
    book = load_offers(OfferQuery(infra=AWS, now=NOON))
    assert h100(book) == 33.03
    assert {o.source for o in book.offers} == {
        f"modified SkyPilot catalog {home.parent}/.sky/catalogs/v8/aws/vms.csv"
    }
    assert codes(book) == {"local-catalog"}
    assert "local-aws-" in book.snapshot


def test_a_catalog_that_the_user_placed_wins_too_and_is_not_fetched(server, home, monkeypatch):
    monkeypatch.setenv("SKY_RUNTIME_DIR", str(home.parent / "runtime"))
    sky_catalog(home.parent / "runtime" / "x", "aws", GOOD_AWS.replace("55.04", "33.03"))
    assert h100(load_offers(OfferQuery(infra=AWS))) == 33.03
    assert not server.asked


def test_an_unmodified_skypilot_catalog_is_left_aside(server, home):
    server.catalog("aws", body(GOOD_AWS))
    sky_catalog(home, "aws", GOOD_AWS.replace("55.04", "33.03"), GOOD_AWS.replace("55.04", "33.03"))
    assert h100(load_offers(OfferQuery(infra=AWS))) == 55.04


def test_a_broken_modified_catalog_is_told_and_left_aside(server, home):
    server.catalog("aws", body(GOOD_AWS))
    pull(home, NOON)
    sky_catalog(home, "aws", "<html>")
    book = load_offers(OfferQuery(infra=AWS, now=NOON))
    assert h100(book) == 55.04
    assert codes(book) == {"local-catalog-refused"}


OWN = """# our rates
cloud,region,instance_type,accelerator,accelerator_count,price_usd_per_hour,spot_usd_per_hour,source,as_of
aws,us-east-1,p5.48xlarge,h100,8,30.5,,contract 7,2026-11-01
kubernetes,dc1,node-l40s,L40S,3,2.25,,,
metalco,fra,box,H100,8,10,,,
"""


def test_own_offers_come_on_top(server, home, tmp_path, run):
    server.catalog("aws", body(GOOD_AWS))
    pull(home, NOON)
    (tmp_path / "my.csv").write_text(OWN)
    book = load_offers(OfferQuery(offers_csv=tmp_path / "my.csv", offline=True, now=NOON))
    mine = {o.instance_type: o for o in book.offers if o.source in ("contract 7", "my.csv")}
    assert set(mine) == {"p5.48xlarge", "node-l40s", "box"}
    assert mine["p5.48xlarge"].price_usd_per_hour == 30.5
    assert mine["p5.48xlarge"].accelerator == "H100"
    assert mine["node-l40s"].flags == ()
    assert sum(o.instance_type == "p5.48xlarge" for o in book.offers) == 1
    assert "csv-" in book.snapshot
    assert set(book.own_clouds) == {"aws", "kubernetes", "metalco"}
    arguments = ("--offers", str(tmp_path / "my.csv"), "--infra", "metalco", "--format", "csv")
    listed = run("prices", "list", *arguments)
    assert listed.code == 0, listed.err
    assert "metalco,fra,box,H100,8,10.0,,my.csv" in listed.out


def test_an_accelerator_is_also_what_clouds_list_apart(tmp_path):
    path = tmp_path / "my.csv"
    path.write_text(OWN + "metalco,fra,tray,h100 sxm,8,11,,,\n")
    found = {}
    for asked in ("H100", "h100-sxm", "H100:1"):
        query = OfferQuery(offers_csv=path, infra=(("metalco", None),), accelerators=(asked,))
        offers = load_offers(replace(query, offline=True)).offers
        found[asked] = {o.instance_type: o.accelerator for o in offers}
    assert found == {
        "H100": {"box": "H100", "tray": "H100-SXM"},
        "h100-sxm": {"tray": "H100-SXM"},
        "H100:1": {},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lacks the column 'cloud'"),
        ("cloud,region\naws,x\n", "lacks the column 'instance_type'"),
        (OWN.splitlines()[1] + "\n", "no offers"),
        (OWN.replace("price_usd_per_hour,", "price_usd_hour,"), "did you mean 'price_usd_hour'"),
        (OWN.replace("metalco,", ","), "line 5: 'cloud' is empty"),
        (OWN.replace("box", '"box'), "not CSV"),
        ("\x00\x01", "lacks|not CSV"),
        ("x" * 100_000, "lacks|not CSV"),
    ],
)
def test_own_offers_that_cannot_be_trusted(text, said, tmp_path):
    path = tmp_path / "my.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as told:
        load_offers(OfferQuery(offers_csv=path, offline=True))
    assert len(str(told.value).splitlines()[0]) < 600


def test_own_offers_that_are_no_file(tmp_path, run):
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "none.csv", tmp_path / "binary.csv"):
        done = run("prices", "list", "--offers", str(path))
        assert (done.code, done.out) == (2, "")
        assert "Traceback" not in done.err


def test_a_bad_cell_of_own_offers_flags_its_row(tmp_path):
    path = tmp_path / "my.csv"
    path.write_text(OWN.replace("30.5", "-1").replace("2.25", "cheap"))
    book = load_offers(OfferQuery(offers_csv=path, offline=True))
    mine = [o for o in book.offers if o.source in ("contract 7", "my.csv")]
    flags = {o.instance_type: {f.code for f in o.blocked(False)} for o in mine}
    assert flags["p5.48xlarge"] == {"price-negative"}
    assert flags["node-l40s"] == {"price-unreadable"}
    assert flags["box"] == set()


def test_list_as_of_and_snapshots(server, home, run):
    server.catalog("aws", body(aws("a.x,L4,1,0.8,0.3,us-east-1,z")))
    pull(home, NOON)
    server.catalog("aws", body(aws("a.x,L4,1,0.6,0.3,us-east-1,z")))
    pull(home, NOON + timedelta(days=1))
    arguments = ("prices", "list", "--infra", "aws", "--format", "json")
    assert run(*arguments).json()[0]["price_usd_per_hour"] == 0.6
    assert run(*arguments, "--as-of", "2026-11-21").json()[0]["price_usd_per_hour"] == 0.8
    ids = [row["id"] for row in run("prices", "snapshots", "--format", "json").json()]
    assert run(*arguments, "--as-of", ids[0]).json()[0]["price_usd_per_hour"] == 0.8
    assert "pulled: aws" in run("prices", "snapshots").out
    assert run(*arguments, "--as-of", "1999-01-01").code == 2
    embedded = run(*arguments, "--as-of", "embedded").json()
    assert len(embedded) > 20


def test_a_known_cloud_that_vanishes_has_failed_and_keeps_its_prices(server, home, run):
    server.catalog("aws", body(GOOD_AWS))
    server.catalog("lambda", body(GOOD_LAMBDA))
    assert run("prices", "refresh").code == 0
    del server.answers["/v8/aws/vms.csv"]
    done = run("prices", "refresh")
    assert done.code == 0
    assert "no new prices of aws: 127.0.0.1" in done.err
    assert "note: no hosted catalog of" in done.err
    assert h100(load_offers(OfferQuery(infra=AWS, offline=True))) == 55.04


def test_offers_that_vanished_are_told(server, home, run):
    server.catalog("aws", body(GOOD_AWS))
    run("prices", "refresh", "--infra", "aws")
    server.catalog("aws", body(aws("g6.xlarge,L4,1,0.80,0.30,us-east-1,z")))
    done = run("prices", "refresh", "--infra", "aws")
    assert "aws: 3 of 4 offers are gone since 20" in done.err


def test_all_25_infrastructures_of_skypilot_are_asked(server, run):
    server.catalog("kubernetes", body(plain("node,L4,1,0.5,cluster,")))
    done = run("prices", "refresh", "--format", "json")
    assert done.json()["fetched"] == ["kubernetes"]
    assert len(server.asked) == 25
