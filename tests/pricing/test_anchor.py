"""Faults that all rows of a cloud share: seen against what was known, and against what a GPU can cost."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from melange_sky.offers import FlagScope
from melange_sky.pricing import OfferQuery, load_offers
from melange_sky.pricing.gpu_hours import bounds_usd_per_hour, implausible
from melange_sky.pricing.own_csv import read_embedded
from tests.factories import make_offer
from tests.pricing.server import Loopback, body
from tests.skycatalog import COLUMNS

Row = dict[str, str]


def true_rows(cloud: str) -> list[Row]:
    """A catalog of a cloud as it would be right: what the shipped snapshot says of it."""
    return [
        {
            "InstanceType": o.instance_type,
            "AcceleratorName": o.accelerator,
            "AcceleratorCount": f"{o.accelerator_count:g}",
            "vCPUs": f"{o.vcpus:g}",
            "MemoryGiB": f"{o.memory_gib:g}",
            "GpuInfo": "",
            "Price": "" if o.price_usd_per_hour is None else f"{o.price_usd_per_hour:.9g}",
            "SpotPrice": "" if o.spot_usd_per_hour is None else f"{o.spot_usd_per_hour:.9g}",
            "Region": o.region,
            "AvailabilityZone": f"{o.region}-a",
            "Arch": "x86_64",
        }
        for o in read_embedded()[0]
        if o.cloud == cloud
    ]


def text_of(rows: list[Row]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def times(factor: float, *columns: str) -> Callable[[Row], Row]:
    def changed(row: Row) -> Row:
        return row | {c: f"{float(row[c]) * factor:.9g}" for c in columns if row[c]}

    return changed


def per_gpu(row: Row) -> Row:
    return times(1 / float(row["AcceleratorCount"]), "Price", "SpotPrice")(row)


def other(column: str) -> Callable[[Row], Row]:
    return lambda row: row | {"Price": row[column]}


BOTH = ("Price", "SpotPrice")
WRONG: dict[str, Callable[[Row], Row]] = {
    "cents": times(100, *BOTH),
    "thousandths": times(1000, *BOTH),
    "per second": times(1 / 3600, *BOTH),
    "per minute": times(1 / 60, *BOTH),
    "per day": times(24, *BOTH),
    "per month": times(730, *BOTH),
    "per year": times(8760, *BOTH),
    "per GPU": per_gpu,
    "yen": times(150, *BOTH),
    "yuan": times(7.2, *BOTH),
    "in thousands": times(1 / 1000, *BOTH),
    "vCPUs as price": other("vCPUs"),
    "memory as price": other("MemoryGiB"),
    "count as price": other("AcceleratorCount"),
    "spot as price": other("SpotPrice"),
    "prices swapped": lambda row: row | {"Price": row["SpotPrice"], "SpotPrice": row["Price"]},
    "per half GPU-hour": times(0.5, *BOTH),
    "doubled": times(2, *BOTH),
    "only spot in cents": times(100, "SpotPrice"),
    "only spot per minute": times(1 / 60, "SpotPrice"),
}
SPOT_ONLY = frozenset({"only spot in cents", "only spot per minute"})


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("cloud", ["aws", "azure", "verda"])
def test_no_uniform_fault_reaches_a_plan_unsaid(cloud: str, fault: str, server: Loopback, run):
    """Of each price that a plan could use some doubt is told, unless the fault left it as it is."""
    right = [row for row in true_rows(cloud) if row["Price"] and row["SpotPrice"]]
    wrong = [WRONG[fault](row) for row in right]
    server.catalog(cloud, body(text_of(wrong)))
    assert run("prices", "refresh", "--infra", cloud).code == 0
    offers = {
        (o.region, o.instance_type): o
        for o in load_offers(OfferQuery(infra=((cloud, None),), offline=True)).offers
    }
    for row, was in zip(wrong, right, strict=True):
        offer = offers[row["Region"], row["InstanceType"]]
        for use_spot, column in ((False, "Price"), (True, "SpotPrice")):
            is_as_it_was = abs(float(row[column]) / float(was[column]) - 1) < 0.5
            if is_as_it_was or offer.price(use_spot) is None or fault in SPOT_ONLY > {use_spot}:
                continue
            scope = FlagScope.SPOT if use_spot else FlagScope.ON_DEMAND
            touched = [f.code for f in offer.flags if f.touches in (scope, FlagScope.ROW)]
            # spot moves by itself: only what is far off can be told from the market
            moved = use_spot and 0.2 <= float(row[column]) / float(was[column]) <= 5
            assert touched or moved, (row, offer)


NEW_CLOUD_TELLS = frozenset(WRONG) - {
    "doubled",
    "per half GPU-hour",
    "spot as price",
    "only spot in cents",
    "only spot per minute",
}
"""Faults that show where no instance is known: what its GPU costs elsewhere differs threefold by itself."""


@pytest.mark.parametrize("fault", sorted(NEW_CLOUD_TELLS))
def test_a_cloud_that_nobody_knows_is_held_against_its_gpus(fault: str, server: Loopback, run):
    """Azure's prices under names never seen: the cloud's rows are told of, whatever the fault."""
    rows = [
        WRONG[fault](row | {"InstanceType": f"new-{row['InstanceType']}"})
        for row in true_rows("azure")
        if row["Price"] and row["SpotPrice"]
    ]
    server.catalog("cudo", body(text_of(rows)))
    assert run("prices", "refresh", "--infra", "cudo").code == 0
    offers = load_offers(OfferQuery(infra=(("cudo", None),), offline=True)).offers
    told = [o for o in offers if o.flags]
    assert told, "at least some of the rows"
    blocked = [o for o in offers if o.blocked(use_spot=False)]
    if fault not in ("per GPU", "vCPUs as price", "yuan", "count as price"):
        assert len(blocked) == len(offers)


def test_a_new_instance_at_a_usual_price_is_not_doubted(server: Loopback, run):
    row = {"InstanceType": "new.x", "AcceleratorName": "H100", "AcceleratorCount": "8"}
    row |= {"vCPUs": "208", "MemoryGiB": "1872", "Region": "r", "Price": "20.0", "SpotPrice": "9"}
    server.catalog("cudo", body(text_of([row])))
    assert run("prices", "refresh", "--infra", "cudo").code == 0
    (offer,) = load_offers(OfferQuery(infra=(("cudo", None),), offline=True)).offers
    assert not offer.flags


def test_one_number_for_all_gpus_is_no_price():
    from melange_sky.pricing.sanity import check_offers

    def codes(*gpus: str) -> set[str]:
        offers = [
            make_offer(
                accelerator=gpu, instance_type=gpu, price_usd_per_hour=1.5, spot_usd_per_hour=None
            )
            for gpu in gpus
        ]
        return {flag.code for offer in check_offers(offers) for flag in offer.flags}

    assert codes("L4", "A100", "H100") == {"one-price-for-gpus"}
    assert codes("L4", "A100") == set()
    assert codes("A10G", "L4", "T4") == set(), "GPUs of one class may cost the same"


@pytest.mark.parametrize("cloud", ["aws", "azure", "verda", "lambda", "runpod", "nebius"])
def test_a_true_catalog_is_not_doubted(cloud: str, server: Loopback, run):
    server.catalog(cloud, body(text_of(true_rows(cloud))))
    done = run("prices", "refresh", "--infra", cloud)
    assert done.code == 0
    assert "kept out" not in done.err
    shipped = {
        (o.region, o.instance_type): o.blocked(False)
        for o in read_embedded()[0]
        if o.cloud == cloud
    }
    for offer in load_offers(OfferQuery(infra=((cloud, None),), offline=True)).offers:
        codes = {flag.code for flag in offer.flags}
        assert not codes & {"price-far-from-known", "below-gpu-floor", "above-gpu-ceiling"}
        assert "one-price-for-counts" not in codes
        assert bool(offer.blocked(False)) == bool(shipped[offer.region, offer.instance_type])


def test_both_figures_are_named_and_the_refresh_tells(server: Loopback, run):
    rows = [WRONG["cents"](row) for row in true_rows("aws") if row["InstanceType"] == "g5.xlarge"]
    server.catalog("aws", body(text_of(rows)))
    done = run("prices", "refresh", "--infra", "aws")
    assert "warning: aws: 4 of 4 offers are kept out for their prices, such as " in done.err
    assert "$/h is 100 × the " in done.err


def test_a_fault_that_lasts_meets_the_price_of_before(server: Loopback, run):
    """Two wrong pulls in a row: the second has no good neighbour, but the one before them."""

    def codes(price: float) -> set[str]:
        row = {"InstanceType": "new.x", "AcceleratorName": "L4", "AcceleratorCount": "1"}
        row |= {"vCPUs": "4", "MemoryGiB": "16", "Region": "us-east-1", "Price": f"{price}"}
        server.catalog("aws", body(text_of([row])))
        assert run("prices", "refresh", "--infra", "aws").code == 0
        offers = load_offers(OfferQuery(infra=(("aws", None),), offline=True)).offers
        (offer,) = (o for o in offers if o.instance_type == "new.x")
        return {flag.code for flag in offer.flags}

    assert codes(1.0) == set()
    for wrong in (0.21, 0.22, 0.23, 0.24):
        assert codes(wrong) == {"price-far-from-known"}, wrong
    assert codes(1.1) == set()


def test_one_price_for_several_counts(server: Loopback, run, tmp_path: Path):
    """RunPod's per-GPU price in every row: no plan comes of it."""
    header = (
        "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,Region,Price,SpotPrice,"
        "GpuInfo,AvailabilityZone"
    )
    rows = [f"{n}x_L40S_SECURE,{12 * n},{62 * n},L40S,{n},US,0.79,0.49,L40S," for n in (1, 2, 4, 8)]
    server.catalog("runpod", body("\n".join([header, *rows]) + "\n"))
    assert run("prices", "refresh", "--infra", "runpod").code == 0
    offers = run("prices", "list", "--infra", "runpod", "--format", "json").json()
    for offer in offers:
        codes = {(f["code"], f["touches"]) for f in offer["flags"]}
        assert {("one-price-for-counts", s) for s in ("on_demand", "spot")} <= codes
    spec = tmp_path / "s.yaml"
    spec.write_text(
        "name: x\nmodel: Qwen/Qwen2.5-7B-Instruct\nslo: {tpot_ms: 80}\nworkload: {rate_rps: 1,"
        " distribution: azure-conv-2023}\nresources: {infra: [runpod], accelerators: [L40S]}\n"
    )
    done = run("plan", str(spec), "--offline")
    assert done.code == 3
    assert "price excluded (one-price-for-counts)" in done.err


@pytest.mark.parametrize(
    ("prices", "doubted"),
    [
        ({1: 1.0, 2: 2.0, 4: 4.0}, set()),
        ({1: 1.0, 2: 1.0, 4: 4.0}, {1, 2}),
        ({0.5: 0.8, 1: 0.8}, {0.5, 1}),
        ({1: 1.0, 2: 1.0005, 8: 1.0009}, {1, 2, 8}),
        ({1: 1.0, 2: 1.2}, set()),
        ({1: 1.0, 12: 1.0}, set()),  # no instance has twelve: that count is the fault
    ],
)
def test_which_counts_share_a_price(prices: dict[float, float], doubted: set[float]):
    from melange_sky.pricing.sanity import check_offers

    offers = [
        make_offer(
            accelerator="L40S",
            instance_type=f"l40s.{n:g}",
            accelerator_count=n,
            price_usd_per_hour=price,
            spot_usd_per_hour=None,
        )
        for n, price in prices.items()
    ]
    found = {
        o.accelerator_count
        for o in check_offers(offers)
        if any(f.code == "one-price-for-counts" for f in o.flags)
    }
    assert found == doubted


def test_bounds_hold_every_price_of_the_market():
    """All prices that ship, and all that were read in 2026, lie within, with room on both sides."""
    for offer in read_embedded()[0]:
        assert not list(implausible([offer])), offer
    assert bounds_usd_per_hour("no-such-gpu") is None


def test_own_offers_are_told_loudly_and_used(tmp_path: Path, run):
    own = tmp_path / "own.csv"
    own.write_text(
        "cloud,region,instance_type,accelerator,accelerator_count,price_usd_per_hour,as_of\n"
        "aws,us-east-1,g5.xlarge,A10G,1,0.2,2026-11-01\n"
        "aws,us-east-1,g5.12xlarge,A10G,4,4.0,2031-01-01\n"
        "aws,us-west-2,g5.12xlarge,A10G,4,0.0001,yesterday\n"
        "kubernetes,prod,node,H100,8,0.8,\n"
    )
    done = run(
        "prices", "list", "--offers", str(own), "--infra", "aws,kubernetes", "--format", "json"
    )
    assert done.code == 0
    rows = {(o["region"], o["instance_type"]): o for o in done.json() if o["source"] == "own.csv"}
    severities = {f["severity"] for o in rows.values() for f in o["flags"]}
    assert severities == {"warn"}
    dated = [
        f["message"] for o in rows.values() for f in o["flags"] if f["code"] == "date-in-future"
    ]
    assert dated == ["2031-01-01 is still to come", "'yesterday' is not a date (ISO 8601)"]
    assert not rows["prod", "node"]["flags"], "what one's own machines cost is one's own to say"
    for said in (
        "your own prices (own.csv): aws/us-east-1 g5.xlarge: 0.2 $/h is 0.199 × the 1.006 of",
        "no A10G is sold below",
    ):
        assert said in done.err, done.err


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("currency", "EUR", "line 2: its prices are in 'EUR' (column 'currency'), not in USD"),
        ("Currency", "¥", "not in USD"),
        ("unit", "month", "its prices are per 'month' (column 'unit'), not per hour"),
        ("unit_of_measure", "1 Second", "not per hour"),
        ("currency", "usd", None),
        ("unit", "Hrs", None),
        ("unit", "1 Hour", None),
    ],
)
def test_money_and_time_that_a_table_states(column, value, said, tmp_path: Path, server, run):
    own = tmp_path / "own.csv"
    own.write_text(
        f"cloud,region,instance_type,accelerator,accelerator_count,price_usd_per_hour,{column}\n"
        f"aws,us-east-1,g5.xlarge,A10G,1,1.0,{value}\n"
    )
    done = run("prices", "list", "--offers", str(own))
    assert done.code == (0 if said is None else 2)
    assert said is None or said in done.err
    rows = true_rows("aws")[:1]
    text = "\n".join(
        f"{line},{c}" for line, c in zip(text_of(rows).splitlines(), (column, value), strict=True)
    )
    server.catalog("aws", body(text + "\n"))
    pulled = run("prices", "refresh", "--infra", "aws")
    assert pulled.code == (0 if said is None else 4)
    assert said is None or "its prices are" in pulled.err


def test_a_price_that_begins_later_is_not_today_s():
    from melange_sky.pricing.apis.accumulator import PriceAccumulator
    from melange_sky.pricing.apis.azure_retail import MACHINES, read_item
    from melange_sky.pricing.commitments.sheet import TermSheet

    sheet = PriceAccumulator(cloud="azure", machines=dict(MACHINES))
    item = {
        "armRegionName": "eastus",
        "armSkuName": "Standard_NC24ads_A100_v4",
        "retailPrice": 3.673,
        "type": "Consumption",
        "unitOfMeasure": "1 Hour",
        "effectiveStartDate": "2020-01-01T00:00:00Z",
    }
    terms = TermSheet(cloud="azure")
    later = {"retailPrice": 1.0, "effectiveStartDate": "2999-01-01T00:00:00Z"}
    read_item(item | later, sheet, terms)
    read_item(item, sheet, terms)
    read_item(item | later | {"type": "Reservation", "reservationTerm": "1 Year"}, sheet, terms)
    assert terms.rows() == ()
    (offer,) = sheet.offers()
    assert offer.price_usd_per_hour == 3.673
    assert json.dumps(offer.source) == '""'
