"""The second catalog: gpuhunt itself, reading a catalog of ours on loopback."""

from __future__ import annotations

import io
import zipfile

import pytest

from melange_sky.pricing.cross_check import PROVIDERS
from tests.pricing.catalogs import aws
from tests.pricing.server import Loopback, body

pytest.importorskip("gpuhunt", reason="the extra gpuhunt is not installed")

HEADER = "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot,disk_size,gpu_vendor,flags\n"


def serve(server: Loopback, monkeypatch: pytest.MonkeyPatch, **rows: str) -> None:
    for provider in (*PROVIDERS.values(), "cloudrift"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(f"{provider}.csv", HEADER + rows.get(provider, ""))
        server.answers[f"/v3/{provider}/version"] = body("20261101")
        server.answers[f"/v3/{provider}/20261101/catalog.zip"] = body(packed.getvalue())
    monkeypatch.setenv("GPUHUNT_CATALOG_URL", f"{server.url}/v3")


def test_prices_that_disagree_are_told(server, run, monkeypatch):
    server.catalog(
        "aws",
        body(
            aws("g6.xlarge,L4,1,0.8048,0.30,us-east-1,z", "p5.48xlarge,H100,8,30.0,20,us-east-1,z")
        ),
    )
    assert run("prices", "refresh", "--infra", "aws").code == 0
    serve(
        server,
        monkeypatch,
        aws=(
            "g6.xlarge,us-east-1,0.8048,4,16,1,L4,24,False,,nvidia,\n"
            "g6.xlarge,us-east-1,0.31,4,16,1,L4,24,True,,nvidia,\n"
            "p5.48xlarge,us-east-1,55.04,192,2048,8,H100,80,False,,nvidia,\n"
        ),
    )
    done = run("prices", "check", "--infra", "aws", "--deadline", "60", "--format", "json")
    assert done.code == 0, done.err
    found = done.json()
    assert found["compared"] == 3
    (row,) = found["disagreements"]
    assert (row["instance_type"], row["price"]) == ("p5.48xlarge", "on_demand")
    assert row["difference_fraction"] == pytest.approx(30 / 55.04 - 1)
    text = run("prices", "check", "--infra", "aws", "--deadline", "60").out
    assert "30.0000 here, 55.0400 $/h in gpuhunt (-45.5%)" in text


def test_a_second_catalog_that_hangs_is_ended(server, run, monkeypatch):
    monkeypatch.setenv("GPUHUNT_CATALOG_URL", f"{server.url}/v3")
    server.answers["*"] = lambda exchange: exchange.pause(60)
    done = run("prices", "check", "--infra", "aws", "--deadline", "1.5")
    assert done.code == 4
    assert "within 1.5 s" in done.err


def test_a_second_catalog_that_is_not_there(server, run, monkeypatch):
    monkeypatch.setenv("GPUHUNT_CATALOG_URL", f"{server.url}/v3")
    done = run("prices", "check", "--infra", "aws", "--deadline", "60")
    assert done.code == 4
    assert "Traceback" not in done.err


def test_wrong_use(run):
    assert run("prices", "check", "--offline").code == 2
    done = run("prices", "check", "--infra", "do")
    assert done.code == 2
    assert "gpuhunt knows" in done.err
