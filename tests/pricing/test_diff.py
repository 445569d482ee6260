"""What moved: between snapshots, and for a saved plan at today's prices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pricing.catalogs import aws, plain
from tests.pricing.server import body

SPEC = """
name: chat
model: meta-llama/Llama-2-7b-hf
slo: {tpot_ms: 120, attainment: 0.95}
workload:
  rate_rps: 4
  histogram: {input_edges: [0, 256], output_edges: [0, 128], weights: [[1.0]]}
resources: {accelerators: [L4, A10G, H100], infra: [aws]}
"""


def serve(server, l4="0.80", a10g="1.00", h100="55.04") -> None:
    rows = [
        f"{kind},{name},{count},{price},{float(price) * 0.4:.4f},{region},z"
        for kind, name, count, price in (
            ("g6.xlarge", "L4", 1, l4),
            ("g5.xlarge", "A10G", 1, a10g),
            ("p5.48xlarge", "H100", 8, h100),
        )
        for region in ("us-east-1", "us-west-2")
    ]
    server.catalog("aws", body(aws(*rows)))


def refresh(run, infra: str = "aws") -> None:
    done = run("prices", "refresh", "--infra", infra, "--deadline", "20")
    assert done.code == 0, done.err


def test_moved_prices_largest_first(server, run):
    serve(server)
    refresh(run)
    serve(server, l4="0.40", h100="56.04")
    server.catalog("lambda", body(plain("gpu_1x_a10,A10,1,1.29,us-east-1,")))
    refresh(run, "aws,lambda")
    moved = run("prices", "diff", "--format", "json").json()
    rows = moved["changes"]
    assert [(r["instance_type"], r["price"]) for r in rows[:4]] == [
        ("g6.xlarge", "on_demand"),
        ("g6.xlarge", "spot"),
        ("g6.xlarge", "on_demand"),
        ("g6.xlarge", "spot"),
    ]
    assert rows[0]["change_fraction"] == pytest.approx(-0.5)
    assert {r["instance_type"] for r in rows} == {"g6.xlarge", "p5.48xlarge"}
    assert moved["clouds_added"] == ["lambda"]
    assert moved["before"].startswith("000001-")
    text = run("prices", "diff", "--min-change", "0.1", "--accelerators", "L4,H100").out
    assert "aws/us-east-1 g6.xlarge, on demand: 0.8000 -> 0.4000 $/h (-50.0%)" in text
    assert "p5.48xlarge" not in text


def test_offers_that_come_and_go(server, run):
    serve(server)
    refresh(run)
    server.catalog("aws", body(aws("g7.xlarge,L4,1,0.9,0.3,us-east-1,z")))
    refresh(run)
    rows = run("prices", "diff", "--format", "json").json()["changes"]
    new = [r for r in rows if r["before_usd_per_hour"] is None]
    gone = [r for r in rows if r["after_usd_per_hour"] is None]
    assert {r["instance_type"] for r in new} == {"g7.xlarge"}
    assert len(gone) == 12
    assert all(r["change_fraction"] is None for r in rows)


def test_named_snapshots_and_dates(server, run):
    for price in ("0.80", "0.70", "0.60"):
        serve(server, l4=price)
        refresh(run)
    ids = [run("prices", "diff", "--format", "json").json()["before"]]
    assert ids[0].startswith("000002-")
    whole = run("prices", "diff", "embedded", "--infra", "aws/us-east-1", "--format", "json").json()
    assert whole["before"] == "embedded"
    same = run("prices", "diff", ids[0], ids[0], "--format", "json").json()
    assert same["changes"] == []
    unknown = run("prices", "diff", "000077-20260101T000000Z")
    assert (unknown.code, unknown.out) == (2, "")
    assert run("prices", "diff", "soon").code == 2


def test_nothing_to_compare(server, run):
    assert run("prices", "diff").code == 4
    serve(server)
    refresh(run)
    only = run("prices", "diff")
    assert only.code == 4
    assert "only one snapshot" in only.err


@pytest.fixture
def plan(server, run, tmp_path: Path) -> Path:
    serve(server)
    refresh(run)
    (tmp_path / "chat.yaml").write_text(SPEC)
    done = run("plan", str(tmp_path / "chat.yaml"), "-o", str(tmp_path / "chat-plan"), "--offline")
    assert done.code == 0, done.err
    return tmp_path / "chat-plan" / "plan.json"


def test_a_plan_at_moved_prices(plan, server, run):
    planned = json.loads(plan.read_text())
    assert {a["instance_type"] for a in planned["allocations"]} <= {"g6.xlarge", "g5.xlarge"}
    assert all(
        a["price_source"].startswith("SkyPilot catalog v8/aws") for a in planned["allocations"]
    )
    still = run("prices", "diff", "--plan", str(plan), "--format", "json").json()
    assert still["change_fraction"] == pytest.approx(0)
    assert still["saving_usd_per_hour"] == pytest.approx(0)

    serve(server, l4="2.00", a10g="2.50")
    refresh(run)
    moved = run("prices", "diff", "--plan", str(plan), "--format", "json").json()
    assert moved["now_usd_per_hour"] == pytest.approx(2.5 * planned["cost_usd_per_hour"], rel=0.01)
    assert moved["cheapest_now_usd_per_hour"] <= 55.04
    assert moved["saving_usd_per_hour"] == pytest.approx(
        moved["now_usd_per_hour"] - moved["cheapest_now_usd_per_hour"]
    )
    text = run("prices", "diff", "--plan", str(plan.parent))
    assert text.code == 0
    assert f"{planned['cost_usd_per_hour']:.4f} $/h then" in text.out


def test_a_cheaper_mix_is_found_and_agrees_with_planning_anew(plan, server, run, tmp_path):
    server.catalog(
        "aws",
        body(
            aws(
                "g6.xlarge,L4,1,0.28,0.1,us-east-1,z",
                "g5.xlarge,A10G,1,1.0,0.3,us-east-1,z",
                "p5.48xlarge,H100,8,55.04,20,us-east-1,z",
            )
        ),
    )
    refresh(run)
    spec = str(tmp_path / "chat.yaml")
    moved = run("prices", "diff", "--plan", str(plan), "--format", "json").json()
    anew = run("prices", "diff", "--plan", str(plan), "--spec", spec, "--format", "json").json()
    assert moved["saving_usd_per_hour"] > 0
    assert moved["cheapest_now_usd_per_hour"] == pytest.approx(anew["cheapest_now_usd_per_hour"])
    assert [r["option"] for r in moved["cheapest_mix"]] == [
        r["option"] for r in anew["cheapest_mix"]
    ]
    assert (moved["weighed"], anew["weighed"]) == ("the plan's options", "all offers")
    assert "another mix costs" in run("prices", "diff", "--plan", str(plan)).out


def test_a_price_that_is_gone_or_blocked_is_unknown_not_zero(plan, server, run):
    server.catalog(
        "aws",
        body(aws("p5.48xlarge,H100,8,55.04,20,us-east-1,z", "g6.xlarge,L4,1,0,0.3,us-east-1,z")),
    )
    refresh(run)
    moved = run("prices", "diff", "--plan", str(plan), "--format", "json").json()
    assert moved["now_usd_per_hour"] is None
    assert {row["now_usd_per_hour"] for row in moved["allocations"]} == {None}
    assert all(
        "offered" in row["reason"] or "price-zero" in row["reason"] for row in moved["allocations"]
    )
    assert moved["cheapest_now_usd_per_hour"] == pytest.approx(55.04)


def test_wrong_use(plan, run, tmp_path):
    assert run("prices", "diff", "x", "--plan", str(plan)).code == 2
    assert run("prices", "diff", "--plan", str(tmp_path / "none.json")).code == 2
    assert run("prices", "diff", "--spec", str(plan)).code == 2
