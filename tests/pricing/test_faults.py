"""Faults over real HTTP on loopback: never a traceback, a hang, a lost snapshot or a wrong code."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import time
import zlib
from pathlib import Path

import pytest
from yarl import URL

from melange_sky.pricing import transport
from melange_sky.pricing.fetch import Http
from melange_sky.pricing.http_errors import FetchError, retry_after_s
from melange_sky.pricing.refresh import RefreshOptions, refresh
from melange_sky.pricing.store import Store
from melange_sky.settings import CatalogAddresses
from tests.pricing.catalogs import GOOD_AWS, GOOD_LAMBDA, aws
from tests.pricing.server import (
    Answer,
    Exchange,
    Loopback,
    body,
    head,
    in_turn,
    loopback,
    raw,
    status,
)

HANG_S = 1.2
"""The deadline where it is the deadline that ends it; else it is `DEADLINE_S`, which none reaches."""
DEADLINE_S = 30.0
SLACK_S = 4.0
"""Wide: the machine may be busy. The bound that users are promised is 60 s."""


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melange_sky.pricing.fetch.FIRST_WAIT_S", 0.02)


NEW_AWS = GOOD_AWS.replace("55.04", "44.04")


def hang(exchange: Exchange) -> None:
    exchange.pause(30)


def hang_in_head(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-")
    exchange.pause(30)


def hang_in_body(exchange: Exchange) -> None:
    exchange.send(head(200, Content_Length="5000") + NEW_AWS[:200].encode())
    exchange.pause(30)


def drip(exchange: Exchange) -> None:
    exchange.send(head(200, Content_Length="5000"))
    for byte in NEW_AWS.encode() * 50:
        exchange.send(bytes([byte]))
        exchange.pause(0.02)
        if exchange.stopping.is_set():
            return


def drip_head(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    for i in range(2000):
        exchange.send(f"X-{i}: {i}\r\n".encode())
        exchange.pause(0.02)
        if exchange.stopping.is_set():
            return


def chunked(*chunks: bytes, end: bool = True) -> Answer:
    data = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + (b"0\r\n\r\n" if end else b"")
    return raw(head(200, Transfer_Encoding="chunked") + data)


def flood(exchange: Exchange) -> None:
    """200 MB that no header announces."""
    exchange.send(head(200, Transfer_Encoding="chunked"))
    block = b"x" * 2**20
    for _ in range(200):
        exchange.send(b"%x\r\n%s\r\n" % (len(block), block))


def without_length(text: str) -> Answer:
    return raw(head(200) + text.encode())


def swap(old: str, new: str) -> Answer:
    assert old in NEW_AWS
    return body(NEW_AWS.replace(old, new))


def cut_gzip(exchange: Exchange) -> None:
    """Whole rows, flushed, then nothing: no end mark and no checksum, and a length that is right."""
    squeeze = zlib.compressobj(wbits=31)
    rows = "".join(NEW_AWS.splitlines(keepends=True)[:4])
    data = squeeze.compress(rows.encode()) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    exchange.send(head(200, Content_Encoding="gzip", Content_Length=str(len(data))) + data)


HTML = "<!DOCTYPE html><html><body>Sign in to the hotel network</body></html>"
CUT = NEW_AWS[: NEW_AWS.index("p5e.48xlarge") + 20]
BAD_TEXT = NEW_AWS.encode().replace(b"g6.xlarge", b"g6\xff\xfe.xlarge")

REFUSED: dict[str, tuple[Answer, str]] = {
    "hang before the head": (hang, "deadline"),
    "hang in the head": (hang_in_head, "deadline"),
    "hang in the body": (hang_in_body, "deadline"),
    "body drips": (drip, "deadline"),
    "head drips": (drip_head, "deadline|tries|Line"),
    "hang-up without a word": (raw(b""), "hung up"),
    "not HTTP": (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "tries|Bad"),
    "301 to itself": (status(301, Location="/v8/aws/vms.csv"), "redirects"),
    "301 to a file": (status(301, Location="file:///etc/passwd"), "not an HTTP address"),
    "301 to nowhere": (status(301), "HTTP 301"),
    "204": (status(204), "HTTP 204"),
    "206": (body(GOOD_AWS), ""),  # replaced below: 206 needs its own status line
    "304 that was not asked for": (status(304), "HTTP 304"),
    "401": (status(401), "HTTP 401"),
    "403": (status(403), "HTTP 403"),
    "404": (status(404), "HTTP 404"),
    "429": (status(429), "HTTP 429"),
    "429, come back in an hour": (status(429, Retry_After="3600"), "HTTP 429"),
    "429, come back on a day": (
        status(429, Retry_After="Fri, 31 Dec 2999 23:59:59 GMT"),
        "HTTP 429",
    ),
    "429, come back never": (status(429, Retry_After="soon, perhaps"), "HTTP 429"),
    "500": (status(500), "HTTP 500"),
    "503": (status(503), "HTTP 503"),
    "body shorter than declared": (
        raw(head(200, Content_Length="9999") + NEW_AWS.encode()),
        "broke off",
    ),
    "declared shorter than the body": (
        raw(f"HTTP/1.1 200 OK\r\nContent-Length: {len(CUT)}\r\n\r\n{NEW_AWS}".encode()),
        "truncated|not proper HTTP",
    ),
    "length is no number": (raw(head(200, Content_Length="many") + b"x"), "tries|Length"),
    "cut in a row, no length": (without_length(CUT), "truncated"),
    "cut after a full row, no length": (without_length(NEW_AWS.rstrip("\n")), "truncated"),
    "chunks end early": (chunked(NEW_AWS[:300].encode(), end=False), "broke off|tries"),
    "chunk size is no number": (
        raw(head(200, Transfer_Encoding="chunked") + b"zz\r\nabc\r\n"),
        "tries|broke off",
    ),
    "HTML": (body(HTML, Content_Type="text/html"), "not a price catalog.*DOCTYPE"),
    "JSON": (body('{"error": "rate limited"}'), "not a price catalog"),
    "empty": (body(""), "empty"),
    "header only": (body(GOOD_AWS.split("\n")[0] + "\n"), "no rows"),
    "price column renamed": (swap("Price,SpotPrice", "Cost,SpotPrice"), "no column Price"),
    "columns gone": (swap("AcceleratorName,AcceleratorCount", "A,B"), "no column AcceleratorName"),
    "a column twice": (swap("vCPUs", "Price"), "twice"),
    "bad UTF-8": (body(BAD_TEXT), "UTF-8"),
    "UTF-16": (body(NEW_AWS.encode("utf-16")), "UTF-8|price catalog|NUL"),
    "NUL bytes": (swap("p5.48xlarge", "p5\0"), "NUL"),
    "a quote never closed": (swap("p5.48xlarge", '"p5.48xlarge'), "truncated|not CSV"),
    "200 MB declared": (raw(head(200, Content_Length=str(200 * 2**20)) + b"x"), "larger than"),
    "200 MB undeclared": (flood, "larger than"),
    "gzip bomb": (
        body(gzip.compress(b"0" * 200 * 2**20, 9), Content_Encoding="gzip"),
        "larger than|tries",
    ),
    "gzip cut between two blocks": (cut_gzip, "broke off before its end"),
    "brotli": (body(b"x", Content_Encoding="br"), "compressed as br"),
    "broken gzip": (body(b"\x1f\x8b not gzip at all", Content_Encoding="gzip"), "tries|broke off"),
}
REFUSED["206"] = (raw(head(206, Content_Length="10") + b"Instance,A"), "HTTP 206")


def refresh_aws(run, *more: str, deadline_s: float = DEADLINE_S):
    start = time.monotonic()
    done = run("prices", "refresh", "--infra", "aws" + "".join(more), "--deadline", str(deadline_s))
    assert time.monotonic() - start < deadline_s + SLACK_S
    assert "Traceback" not in done.err
    return done


def listed(run) -> dict[tuple[str, str], float | None]:
    rows = run("prices", "list", "--infra", "aws", "--format", "json").json()
    return {(r["region"], r["instance_type"]): r["price_usd_per_hour"] for r in rows}


@pytest.mark.parametrize("fault", list(REFUSED))
def test_a_bad_answer_is_refused_and_the_last_good_prices_stay(fault, server: Loopback, run):
    answer, reason = REFUSED[fault]
    deadline_s = HANG_S if "deadline" in reason else DEADLINE_S
    server.catalog("lambda", body(GOOD_LAMBDA))
    server.catalog("aws", body(GOOD_AWS))
    assert refresh_aws(run).code == 0
    good = listed(run)
    assert good["us-east-1", "p5.48xlarge"] == 55.04

    server.catalog("aws", answer)
    alone = refresh_aws(run, deadline_s=deadline_s)
    assert alone.code == 4, alone.err
    assert alone.out == ""
    assert re.search(f"aws: .*({reason})", alone.err), alone.err
    assert max(map(len, alone.err.splitlines())) < 400, "no message prints an input at length"
    assert listed(run) == good

    beside_a_good_cloud = refresh_aws(run, ",lambda", deadline_s=deadline_s)
    assert beside_a_good_cloud.code == 0
    assert "no new prices of aws" in beside_a_good_cloud.err
    assert "lambda" in beside_a_good_cloud.out
    assert listed(run) == good


def test_there_are_at_least_25_of_them():
    assert len(REFUSED) >= 25


PASSING: dict[str, Answer] = {
    "500 then fine": in_turn(status(500), body(NEW_AWS)),
    "503 with Retry-After then fine": in_turn(status(503, Retry_After="0"), body(NEW_AWS)),
    "429 then fine": in_turn(status(429), body(NEW_AWS)),
    "hang-up then fine": in_turn(raw(b""), body(NEW_AWS)),
    "cut then fine": in_turn(raw(head(200, Content_Length="9999") + b"Inst"), body(NEW_AWS)),
    "302 to the file": in_turn(status(302, Location="/v8/aws/vms.csv?moved"), body(NEW_AWS)),
    "chunked": chunked(NEW_AWS[:100].encode(), NEW_AWS[100:].encode()),
    "no length, whole lines": without_length(NEW_AWS),
    "no line feed at the end": body(NEW_AWS.rstrip("\n")),
    "byte-order mark": body("\ufeff" + NEW_AWS),
    "CRLF": body(NEW_AWS.replace("\n", "\r\n")),
    "gzip": body(gzip.compress(NEW_AWS.encode()), Content_Encoding="gzip"),
    "more columns": body(
        NEW_AWS.replace(",Arch\n", ",Arch,New\n").replace(",x86_64\n", ",x86_64,1\n")
    ),
    "blank lines": body(NEW_AWS + "\n\n"),
}


@pytest.mark.parametrize("case", list(PASSING))
def test_what_can_be_read_is_taken(case, server: Loopback, run):
    server.catalog("aws", PASSING[case])
    done = refresh_aws(run)
    assert done.code == 0, done.err
    assert listed(run)["us-east-1", "p5.48xlarge"] == 44.04
    assert len(listed(run)) == 4


def test_reordered_columns_and_absent_optional_ones(server: Loopback, run):
    server.catalog(
        "aws",
        body(
            "Region,Price,AcceleratorCount,AcceleratorName,InstanceType\n"
            "us-east-1,44.04,8,H100,p5.48xlarge\n"
        ),
    )
    assert refresh_aws(run).code == 0
    assert listed(run) == {("us-east-1", "p5.48xlarge"): 44.04}


def test_a_bad_cell_flags_its_own_row_only(server: Loopback, run):
    cells = {
        "a": "NaN",
        "b": "inf",
        "c": "-3.5",
        "d": "0",
        "e": "1e999",
        "f": "free",
        "g": "1_0",
        "h": "３",
    }
    rows = [f"{kind}.x,L4,1,{price},0.1,us-east-1,z" for kind, price in cells.items()]
    server.catalog("aws", body(aws("good.x,L4,1,0.8,0.1,us-east-1,z", *rows)))
    assert refresh_aws(run).code == 0
    offers = run("prices", "list", "--infra", "aws", "--format", "json").json()
    flags = {
        o["instance_type"]: {f["code"] for f in o["flags"] if f["severity"] == "block"}
        for o in offers
    }
    assert flags == {
        "good.x": set(),
        "a.x": {"price-missing"},
        "b.x": {"price-unreadable"},
        "c.x": {"price-negative"},
        "d.x": {"price-zero"},
        "e.x": {"price-unreadable"},
        "f.x": {"price-unreadable"},
        "g.x": {"price-unreadable"},
        "h.x": {"price-unreadable"},
    }
    assert {o["instance_type"] for o in offers if o["price_usd_per_hour"] is not None} == {"good.x"}


def test_bad_spot_cells_and_counts(server: Loopback, run):
    server.catalog(
        "aws",
        body(
            aws(
                "a.x,L4,1,0.8,-1,us-east-1,z",
                "b.x,L4,1,0.8,0,us-east-1,z",
                "c.x,L4,many,0.8,0.1,us-east-1,z",
                "d.x,L4,3,0.8,0.1,us-east-1,z",
                "e.x,L4,1,0.8,,us-east-1,z",
            )
        ),
    )
    assert refresh_aws(run).code == 0
    offers = {
        o["instance_type"]: o
        for o in run("prices", "list", "--infra", "aws", "--format", "json").json()
    }
    touched = {k: {(f["code"], f["touches"]) for f in o["flags"]} for k, o in offers.items()}
    assert touched == {
        "a.x": {("price-negative", "spot")},
        "b.x": {("price-zero", "spot")},
        "c.x": {("impossible-count", "row")},
        "d.x": {("impossible-count", "row")},
        "e.x": set(),
    }
    assert offers["c.x"]["accelerator_count"] is None
    assert all(offers[k]["spot_usd_per_hour"] is None for k in ("a.x", "b.x", "e.x"))


def test_connection_refused(monkeypatch, run):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("MELANGE_SKY_CATALOG_URL", f"http://127.0.0.1:{port}")
    done = refresh_aws(run)
    assert done.code == 4
    assert "cannot connect" in done.err


@pytest.mark.parametrize(
    "url", ["not a url", "ftp://127.0.0.1/x", "http://", "http://[::1", "/etc"]
)
def test_an_address_that_is_none(url, monkeypatch, run):
    monkeypatch.setenv("MELANGE_SKY_CATALOG_URL", url)
    done = refresh_aws(run)
    assert done.code == 4, done.err


def test_conditional_requests(server: Loopback, run):
    server.catalog(
        "aws", body(GOOD_AWS, ETag='"abc"', Last_Modified="Sat, 21 Nov 2026 01:02:03 GMT")
    )
    first = run("prices", "refresh", "--infra", "aws", "--format", "json").json()
    second = run("prices", "refresh", "--infra", "aws", "--format", "json").json()
    assert (first["fetched"], second["unchanged"]) == (["aws"], ["aws"])
    assert server.asked[1].headers["if-none-match"] == '"abc"'
    assert server.asked[1].headers["if-modified-since"] == "Sat, 21 Nov 2026 01:02:03 GMT"
    offers = run("prices", "list", "--infra", "aws", "--format", "json").json()
    assert {o["as_of"] for o in offers} == {"2026-11-21T01:02:03Z"}


@pytest.mark.parametrize(
    "date",
    [
        "Sat, 21 Nov 99999999999999999999 02:20:06 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Sat, 31 Feb 2026 00:00:00 GMT",
    ],
)
def test_a_date_that_no_calendar_has_is_as_none(date, server: Loopback, run):
    server.catalog("aws", body(GOOD_AWS, Last_Modified=date))
    assert refresh_aws(run).code == 0
    offers = run("prices", "list", "--infra", "aws", "--format", "json").json()
    assert all(re.fullmatch(r"20\d\d-.*Z", o["as_of"]) for o in offers), "the time of the fetch"
    assert refresh_aws(run).code == 0
    assert "if-modified-since" not in server.asked[-1].headers


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("7", 7.0),
        ("Sat, 21 Nov 2020 02:20:06 GMT", 0.0),
        ("Sat, 21 Nov 99999999999999999999 02:20:06 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None),
        ("²", None),
        (None, None),
    ],
)
def test_retry_after(text, wait_s):
    assert retry_after_s(text) == wait_s


def mirrored(main: Answer, copy: Answer, store: Path, deadline_s: float = DEADLINE_S):
    with loopback() as first, loopback() as second:
        first.catalog("aws", main)
        second.catalog("aws", copy)
        addresses = CatalogAddresses(base=first.url, mirror=second.url)
        options = RefreshOptions(clouds=("aws",), addresses=addresses, deadline_s=deadline_s)
        return refresh(Store(store), options), first, second


@pytest.mark.parametrize(
    "fault", [status(429, Retry_After="3600"), status(403), raw(b""), body(HTML), hang]
)
def test_the_mirror_after_the_catalog(fault, tmp_path):
    deadline_s = 6.0 if fault is hang else DEADLINE_S  # the mirror gets what the catalog leaves
    result, first, second = mirrored(fault, body(GOOD_AWS), tmp_path, deadline_s=deadline_s)
    assert result.fetched == ("aws",)
    assert first.asked
    assert len(second.asked) == 1
    assert result.pulled["aws"].entry.url.startswith(second.url)


def test_an_unchanged_file_is_named_by_the_host_that_it_came_from(tmp_path):
    with loopback() as first, loopback() as second:
        for server, date in ((first, "20"), (second, "21")):
            when = f"Fri, {date} Nov 2026 01:02:03 GMT"
            server.catalog("aws", body(GOOD_AWS, Last_Modified=when))
            addresses = CatalogAddresses(base=server.url, mirror=None)
            options = RefreshOptions(clouds=("aws",), addresses=addresses, deadline_s=DEADLINE_S)
            result = refresh(Store(tmp_path), options)
        assert result.unchanged == ("aws",)
        entry = result.pulled["aws"].entry
        assert entry.url == f"{second.url}/v8/aws/vms.csv"
        assert entry.as_of == "2026-11-21T01:02:03Z"
        assert entry.label == f"SkyPilot catalog v8/aws ({second.url.removeprefix('http://')})"


def test_the_mirror_is_not_asked_for_what_does_not_exist(tmp_path):
    result, _, second = mirrored(status(404), body(GOOD_AWS), tmp_path)
    assert list(result.failed) == ["aws"]
    assert not second.asked


def test_both_hang(tmp_path):
    start = time.monotonic()
    result, *_ = mirrored(hang, hang, tmp_path, deadline_s=1.0)
    assert time.monotonic() - start < 1.0 + SLACK_S
    assert "then" in result.failed["aws"]


def test_all_clouds_hang_at_once_within_one_deadline(server: Loopback, run):
    server.answers["*"] = hang
    start = time.monotonic()
    done = run("prices", "refresh", "--deadline", "1")
    assert done.code == 4
    assert time.monotonic() - start < 1 + SLACK_S


def test_many_large_files_are_not_all_read_past_the_deadline(server: Loopback, run):
    """Reading a file takes time that no timer interrupts: it is not begun after the deadline."""
    rows = [f"t{i}.x,L4,1,0.8,0.1,r{i % 30},z" for i in range(12000)]
    server.answers["*"] = body(aws(*rows))
    start = time.monotonic()
    done = run("prices", "refresh", "--deadline", "0.5")
    assert time.monotonic() - start < 0.5 + SLACK_S
    assert "deadline" in done.err


def price_of(run, instance: str) -> dict:
    offers = run("prices", "list", "--infra", "aws", "--format", "json").json()
    return next(o for o in offers if o["instance_type"] == instance)


@pytest.mark.parametrize(
    ("price", "codes"),
    [
        ("1.006", set()),
        ("0.75", set()),
        ("1.6", {"price-off-known"}),
        ("0.6", {"price-off-known"}),
        ("0.1006", {"price-far-from-known"}),
        ("4.0", {"price-far-from-known"}),
        ("100.6", {"price-far-from-known", "above-gpu-ceiling"}),
        ("0.00028", {"price-far-from-known", "below-gpu-floor"}),
        ("1e-300", {"price-far-from-known", "below-gpu-floor"}),
    ],
)
def test_a_price_that_is_wrong_everywhere_is_told_by_the_shipped_one(
    price: str, codes: set[str], server: Loopback, run
):
    """Per second, in cents, another column's: all rows agree, and none with what was known."""
    rows = [f"g5.xlarge,A10G,1,{price},,{region},z" for region in ("us-east-1", "us-west-2")]
    server.catalog("aws", body(aws(*rows)))
    assert refresh_aws(run).code == 0
    flags = price_of(run, "g5.xlarge")["flags"]
    assert {f["code"] for f in flags} == codes
    assert all("1.006 of the embedded-" in f["message"] for f in flags if "known" in f["code"])


def test_what_the_snapshot_does_not_know_is_told_by_the_last_pull(server: Loopback, run):
    for price, codes in (("2.0", set()), ("0.2", {"price-far-from-known"}), ("2.1", set())):
        server.catalog("aws", body(aws(f"new.x,L4,1,{price},,us-east-1,z")))
        assert refresh_aws(run).code == 0
        assert {f["code"] for f in price_of(run, "new.x")["flags"]} == codes, price


def test_a_date_that_is_still_to_come_dates_nothing(server: Loopback, run):
    ahead = "Tue, 01 Sep 2099 00:00:00 GMT"
    server.catalog("aws", body(NEW_AWS, Last_Modified=ahead))
    assert refresh_aws(run).code == 0
    assert not price_of(run, "p5.48xlarge")["as_of"].startswith("2099")


def test_a_redirect_carries_no_key_to_another_host():
    async def ask(url: str, method: str = "GET", payload: object = None) -> object:
        async with Http() as http:
            until = time.monotonic() + 5
            key = {"X-Goog-Api-Key": "secret"}
            return await http.json(url, until, headers=key, method=method, payload=payload)

    with loopback() as theirs, loopback() as ours:
        theirs.answers["/"] = body("{}")
        ours.answers["/here"] = status(302, Location="/again")
        ours.answers["/again"] = status(307, Location=f"{theirs.url}/")
        assert asyncio.run(ask(f"{ours.url}/here")) == {}
        assert [e.headers.get("x-goog-api-key") for e in ours.asked] == ["secret", "secret"]
        assert [e.headers.get("x-goog-api-key") for e in theirs.asked] == [None]
        with pytest.raises(FetchError, match="redirects what was sent to"):
            asyncio.run(ask(f"{ours.url}/again", "POST", {"key": "secret"}))
        assert len(theirs.asked) == 1


def test_a_redirect_never_leaves_tls():
    with pytest.raises(FetchError, match="from https to http"):
        transport.target_of(URL("https://prices.example/a"), "http://prices.example/a")
    assert transport.target_of(URL("http://a/b"), "https://a/c") == URL("https://a/c")
