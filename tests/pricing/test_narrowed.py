"""A fetch that was limited to regions stands for those alone: nothing narrows a later plan unsaid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from melange_sky.pricing import OfferQuery, load_offers
from melange_sky.pricing.store import Store
from tests.pricing.catalogs import aws
from tests.pricing.server import body, status
from tests.pricing.test_apis import AWS_FILE, RUNPOD, answer_json, pull, serve_aws

AWS = (("aws", None),)
WEST = "AWS bulk offer file, only us-west-2"
CATALOG = aws(
    "g6.xlarge,L4,1,0.75,0.30,us-east-1,z",
    "g6.xlarge,L4,1,0.95,0.30,us-west-2,z",
    "g6.xlarge,L4,1,0.90,0.30,eu-west-1,z",
)


@pytest.fixture
def both(server, monkeypatch):
    """The catalog with three regions, and AWS's own files, where a g6.xlarge is at 0.8048."""
    server.catalog("aws", body(CATALOG))
    serve_aws(server, monkeypatch, body(AWS_FILE))
    return server


def narrow(run, *infra: str) -> None:
    done = pull(run, "--source", "aws", *(("--infra", ",".join(infra)) if infra else ()))
    assert done.code == 0, done.err


def l4(book) -> dict[str, tuple[float | None, str]]:
    return {
        o.region: (o.price_usd_per_hour, o.source.partition(" (")[0])
        for o in book.offers
        if o.instance_type == "g6.xlarge"
    }


def messages(book) -> list[tuple[str, str]]:
    return [(warning.code, warning.message) for warning in book.warnings]


def test_the_regions_asked_for_are_fresh(both, run):
    narrow(run, "aws/us-west-2")
    asked = len(both.asked)
    book = load_offers(OfferQuery(infra=(("aws", "us-west-2"),)))
    assert l4(book) == {"us-west-2": (0.8048, WEST)}
    assert book.warnings == ()
    assert len(both.asked) == asked


@pytest.mark.parametrize("infra", [AWS, (("aws", "us-east-1"),)])
def test_a_query_for_more_fetches_the_whole_cloud(infra, both, run):
    narrow(run, "aws/us-west-2")
    book = load_offers(OfferQuery(infra=infra))
    assert l4(book)["us-east-1"] == (0.75, "SkyPilot catalog v8/aws")
    assert book.warnings == ()
    asked = len(both.asked)
    load_offers(OfferQuery(infra=AWS))
    assert len(both.asked) == asked, "the whole cloud is at hand now"


def test_the_few_regions_that_aws_is_asked_for_by_itself_are_not_the_whole_cloud(both, run, home):
    narrow(run)
    entry = Store(home / "prices").newest().clouds["aws"]
    assert entry.regions == ("us-east-1", "us-east-2", "us-west-2")
    assert set(l4(load_offers(OfferQuery(infra=AWS)))) == {"us-east-1", "us-west-2", "eu-west-1"}


def test_offline_the_other_regions_come_from_the_last_whole_fetch(both, run, home):
    assert pull(run, "--infra", "aws").code == 0
    whole = Store(home / "prices").newest().clouds["aws"]
    narrow(run, "aws/us-west-2")
    book = load_offers(OfferQuery(infra=AWS, offline=True))
    assert l4(book) == {
        "us-east-1": (0.75, "SkyPilot catalog v8/aws"),
        "eu-west-1": (0.90, "SkyPilot catalog v8/aws"),
        "us-west-2": (0.8048, WEST),
    }
    told = (
        "prices of aws were last fetched for us-west-2 only; those of its other regions come from"
        f" {whole.label}, checked {whole.checked_at}; `melange-sky prices refresh` pulls them all"
    )
    assert messages(book) == [("narrowed-prices", told)]
    east = load_offers(OfferQuery(infra=(("aws", "us-east-1"),), offline=True))
    assert l4(east) == {"us-east-1": (0.75, "SkyPilot catalog v8/aws")}
    assert messages(east) == [("narrowed-prices", told)]
    again = load_offers(OfferQuery(infra=AWS, as_of=book.snapshot))
    assert again.offers == book.offers


def test_offline_without_a_whole_fetch_they_come_from_the_embedded_snapshot(both, run):
    narrow(run, "aws/us-west-2")
    book = load_offers(OfferQuery(infra=AWS, offline=True))
    assert l4(book)["us-west-2"] == (0.8048, WEST)
    assert l4(book)["us-east-1"][0] == 0.8048
    assert "anycloud" in l4(book)["us-east-1"][1]
    ((code, message),) = messages(book)
    assert code == "narrowed-prices"
    assert message.startswith(
        "prices of aws were last fetched for us-west-2 only; those of its other regions come from"
        " the snapshot shipped with melange-sky (as of 2026-"
    )
    assert book.snapshot.count("embedded-") == 1
    assert load_offers(OfferQuery(offline=True)).snapshot.count("embedded-") == 1


def test_where_the_whole_cloud_cannot_be_fetched_that_is_told_too(both, run):
    narrow(run, "aws/us-west-2")
    both.catalog("aws", status(403))
    book = load_offers(OfferQuery(infra=AWS))
    assert "us-east-1" in l4(book)
    assert [code for code, _ in messages(book)] == ["fetch-failed", "narrowed-prices"]


def test_prices_that_cannot_be_kept_stand_for_their_regions_only(both, tmp_path, monkeypatch):
    (tmp_path / "occupied").write_text("a file where the store's folder belongs")
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / "occupied"))
    book = load_offers(OfferQuery(infra=AWS, sources=("aws",)))
    assert l4(book)["us-east-1"] == (
        0.8048,
        "AWS bulk offer file, only us-east-1, us-east-2, us-west-2",
    )
    assert "eu-west-1" in {o.region for o in book.offers}
    assert [code for code, _ in messages(book)] == ["prices-not-stored", "narrowed-prices"]


def test_runpod_s_own_list_is_of_the_whole_cloud(server, run, monkeypatch):
    """Its prices hold in every data centre, though the list names one place."""
    server.answers["/graphql"] = answer_json(RUNPOD)
    monkeypatch.setenv("MELANGE_SKY_RUNPOD_URL", f"{server.url}/graphql")
    assert pull(run, "--source", "runpod").code == 0
    book = load_offers(OfferQuery(infra=(("runpod", None),), offline=True))
    assert {o.region for o in book.offers} == {"US"}
    assert messages(book) == []


def test_list_and_snapshots_name_the_regions(both, run):
    assert pull(run, "--infra", "aws").code == 0
    narrow(run, "aws/us-west-2")
    listed = run("prices", "list", "--infra", "aws")
    assert listed.err.count("warning: ") == 1
    assert "last fetched for us-west-2 only" in listed.err
    assert f"source: {WEST}\n" in listed.err
    text = run("prices", "snapshots").out.splitlines()
    assert text[0].endswith("pulled: aws")
    assert text[1].endswith("pulled: aws (only us-west-2)")
    rows = run("prices", "snapshots", "--format", "json").json()
    assert [row["regions"] for row in rows] == [{}, {"aws": ["us-west-2"]}]


def test_entries_of_older_versions_name_no_regions_and_are_read(both, run, home: Path):
    assert pull(run, "--infra", "aws").code == 0
    (path,) = (home / "prices" / "snapshots").iterdir()
    document = json.loads(path.read_text())
    del document["clouds"]["aws"]["regions"]
    path.write_text(json.dumps(document))
    book = load_offers(OfferQuery(infra=AWS, offline=True))
    assert set(l4(book)) == {"us-east-1", "us-west-2", "eu-west-1"}
    assert book.warnings == ()
