"""The store: immutable, found by date, safe between processes, whole after whatever happens."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from melange_sky.errors import InputError
from melange_sky.pricing import OfferQuery, load_offers
from melange_sky.pricing.refresh import RefreshOptions, refresh
from melange_sky.pricing.store import KEEP_DAYS, KEEP_NEWEST, Store
from tests.pricing.catalogs import GOOD_AWS, GOOD_LAMBDA
from tests.pricing.server import Loopback, body

NOON = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)


def pull(home: Path, moment: datetime, clouds: tuple[str, ...] = ("aws",)):
    options = RefreshOptions(clouds=clouds, deadline_s=60, clock=lambda: moment)
    return refresh(Store(home / "prices"), options)


def price(home: Path, **query) -> float | None:
    book = load_offers(
        OfferQuery(infra=(("aws", None),), accelerators=("H100",), offline=True, **query)
    )
    (offer,) = book.offers
    return offer.price_usd_per_hour


def priced(server: Loopback, usd: str) -> None:
    server.catalog("aws", body(GOOD_AWS.replace("55.04", usd)))


def test_each_refresh_is_a_dated_snapshot_that_stays(server, home):
    ids = []
    for day, usd in enumerate(("50", "51", "52")):
        priced(server, usd)
        ids.append(pull(home, NOON + timedelta(days=day)).manifest.id)
    assert ids == sorted(ids)
    assert ids[0] == "000001-20261121T120000Z"
    assert price(home) == 52
    assert price(home, as_of=ids[0]) == 50
    assert price(home, as_of="2026-11-22") == 51
    assert price(home, as_of="2026-11-22T11:59:59Z") == 50
    assert price(home, as_of="2099-01-01") == 52
    with pytest.raises(InputError, match="or before"):
        price(home, as_of="2026-11-20")
    with pytest.raises(InputError, match="neither a snapshot id nor a date"):
        price(home, as_of="yesterday")
    with pytest.raises(InputError, match="did you mean"):
        price(home, as_of="000009-20261121T120000Z")


def test_the_plan_can_be_repeated_from_the_id_of_its_book(server, home):
    priced(server, "50")
    pull(home, NOON)
    book = load_offers(OfferQuery(offline=True))
    assert book.snapshot and book.snapshot.startswith("000001-")
    priced(server, "60")
    pull(home, NOON + timedelta(hours=1))
    again = load_offers(OfferQuery(offline=True, as_of=book.snapshot))
    assert [o.price_usd_per_hour for o in again.offers] == [
        o.price_usd_per_hour for o in book.offers
    ]
    assert price(home) == 60


def test_a_cloud_that_was_not_pulled_keeps_its_entry(server, home):
    priced(server, "50")
    server.catalog("lambda", body(GOOD_LAMBDA))
    pull(home, NOON, ("aws", "lambda"))
    pull(home, NOON + timedelta(hours=3), ("lambda",))
    entries = Store(home / "prices").newest().clouds
    assert entries["aws"].checked_at == "2026-11-21T12:00:00Z"
    assert entries["lambda"].checked_at == "2026-11-21T15:00:00Z"


def test_a_clock_that_goes_backwards_hides_no_pull(server, home):
    priced(server, "50")
    pull(home, NOON)
    priced(server, "51")
    pull(home, NOON - timedelta(days=400))
    assert price(home) == 51


def test_prices_from_the_future_are_fetched_anew(server, home):
    priced(server, "50")
    pull(home, NOON + timedelta(days=2))
    priced(server, "51")
    query = OfferQuery(infra=(("aws", None),), accelerators=("H100",), now=NOON)
    assert load_offers(query).offers[0].price_usd_per_hour == 51


def test_pruning_keeps_the_newest_and_one_a_day(server, home):
    store = Store(home / "prices")
    start = NOON - timedelta(days=KEEP_DAYS + 20)
    moments = [start + timedelta(days=d, hours=h) for d in range(KEEP_DAYS + 20) for h in (0, 1)]
    for i, moment in enumerate(moments):
        priced(server, str(50 + i / 100))
        if i % 3 == 0 or moment > NOON - timedelta(days=3):
            pull(home, moment)
    ids = store.ids()
    by_day: dict[str, int] = {}
    for snapshot_id in ids[:-KEEP_NEWEST]:
        by_day[snapshot_id[7:15]] = by_day.get(snapshot_id[7:15], 0) + 1
    assert set(by_day.values()) == {1}
    assert min(by_day) >= (moments[-1] - timedelta(days=KEEP_DAYS)).strftime("%Y%m%d")
    tables = {p.name for p in (home / "prices" / "tables").iterdir()}
    named = {
        entry["table"]
        for path in (home / "prices" / "snapshots").iterdir()
        for entry in json.loads(path.read_text())["clouds"].values()
    }
    assert tables == named
    assert all(store.table(store.find(i).clouds["aws"]) for i in ids)


def test_a_damaged_table_falls_back_to_the_last_good_one(server, home):
    priced(server, "50")
    pull(home, NOON)
    priced(server, "51")
    entry = pull(home, NOON + timedelta(hours=1)).manifest.clouds["aws"]
    path = home / "prices" / "tables" / entry.table
    path.write_bytes(path.read_bytes()[:-40])
    book = load_offers(OfferQuery(infra=(("aws", None),), accelerators=("H100",), offline=True))
    assert book.offers[0].price_usd_per_hour == 50
    assert "table-damaged" in {w.code for w in book.warnings}
    assert pull(home, NOON + timedelta(hours=2)).fetched == ("aws",), (
        "it is mended, not 'unchanged'"
    )
    assert price(home) == 51


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"clouds": {"aws": {"x": 1}}}', b"\xff\xfe"])
def test_a_damaged_manifest_falls_back_to_the_one_before(junk, server, home):
    priced(server, "50")
    pull(home, NOON)
    priced(server, "51")
    newest = pull(home, NOON + timedelta(hours=1)).manifest
    (home / "prices" / "snapshots" / f"{newest.id}.json").write_bytes(junk)
    assert price(home) == 50
    priced(server, "52")
    assert pull(home, NOON + timedelta(hours=2)).manifest.sequence == 3
    assert price(home) == 52


def refresh_in(home: Path, server: Loopback, before: str = "") -> subprocess.Popen[str]:
    """Run a refresh in a process of its own, after the lines of `before`."""
    code = f"""
        import sys
        from melange_sky.cli import main
        {textwrap.indent(before, " " * 8).strip()}
        main(["prices", "refresh", "--infra", "aws", "--deadline", "20"])
    """
    environment = {
        **os.environ,
        "MELANGE_SKY_HOME": str(home),
        "MELANGE_SKY_CATALOG_URL": server.url,
    }
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("which", ["tables", "snapshots"])
def test_killed_between_write_and_rename(which, server, home):
    priced(server, "50")
    pull(home, NOON)
    priced(server, "51")
    before = f"""
import os, pathlib, signal
def die(self, target):
    if self.parent.name == "{which}":
        os.kill(os.getpid(), signal.SIGKILL)
    os.rename(self, target)
pathlib.Path.replace = die
"""
    killed = refresh_in(home, server, before)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert price(home) == 50
    assert list((home / "prices").glob("*/*.tmp"))
    again = refresh_in(home, server)
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert price(home) == 51
    leftover = next((home / "prices").glob("*/*.tmp"))
    os.utime(leftover, (0, 0))
    pull(home, NOON)
    assert not leftover.exists()


def test_disk_full(server, home):
    priced(server, "50")
    pull(home, NOON)
    files = sorted((home / "prices").rglob("*"))
    priced(server, "51")
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    process = refresh_in(home, server, full)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "could not be saved" in err
    assert "Traceback" not in err
    assert out == ""
    assert sorted((home / "prices").rglob("*")) == files, "nothing half-written stays"
    assert price(home) == 50
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100


def test_a_plan_goes_on_with_prices_that_cannot_be_kept(server, tmp_path, monkeypatch):
    (tmp_path / "occupied").write_text("a file where the store's folder belongs")
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / "occupied"))
    priced(server, "51")
    book = load_offers(OfferQuery(infra=(("aws", None),), accelerators=("H100",)))
    assert book.offers[0].price_usd_per_hour == 51
    assert {w.code for w in book.warnings} == {"prices-not-stored"}


def test_two_refreshes_at_once(server, home):
    priced(server, "51")
    both = [refresh_in(home, server) for _ in range(3)]
    for process in both:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    store = Store(home / "prices")
    assert [int(i[:6]) for i in store.ids()] == [1, 2, 3]
    assert price(home) == 51


def test_a_lock_that_another_process_holds_is_waited_for_and_then_told(server, home, monkeypatch):
    priced(server, "51")
    pull(home, NOON)
    monkeypatch.setattr("melange_sky.pricing.store.LOCK_WAIT_S", 0.2)
    code = """
import filelock, sys
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(home / "prices" / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        result = pull(home, NOON)
    finally:
        holder.communicate(timeout=20)
    assert result.manifest is None
    assert "another process" in (result.store_problem or "")
    assert price(home) == 51
