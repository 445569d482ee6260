"""Providers' price APIs over real HTTP on loopback, with answers of the shapes that they send."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from melange_sky.commitments import Commitment
from melange_sky.pricing.apis.sources import SOURCES, find_apis
from melange_sky.pricing.commitments.store import TermStore
from melange_sky.pricing.refresh import RefreshOptions, refresh
from melange_sky.pricing.store import Store
from tests.pricing.server import Answer, Exchange, Loopback, body, head, status


def answer_json(value: object) -> Answer:
    return body(json.dumps(value), Content_Type="application/json")


def listed(run, infra: str) -> dict[tuple[str, str], dict]:
    rows = run("prices", "list", "--infra", infra, "--format", "json").json()
    return {(r["region"], r["instance_type"]): r for r in rows}


def kept_terms(home: Path, cloud: str) -> list[Commitment]:
    return [term.row for term in TermStore(Store(home / "prices")).newest()[cloud]]


def pull(run, *arguments: str):
    return run("prices", "refresh", "--deadline", "120", *arguments)


def item(size: str, price: float, **over: object) -> dict[str, object]:
    """One item as Azure sends it (names and units as in its documentation)."""
    return {
        "currencyCode": "USD",
        "tierMinimumUnits": 0.0,
        "retailPrice": price,
        "unitPrice": price,
        "armRegionName": "eastus",
        "location": "US East",
        "meterName": size,
        "skuName": size,
        "productName": "Virtual Machines NCADS A100 v4 Series",
        "serviceName": "Virtual Machines",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "isPrimaryMeterRegion": True,
        "armSkuName": size,
        **over,
    }


A100 = "Standard_NC24ads_A100_v4"
AZURE_ITEMS = [
    item(
        A100,
        3.673,
        savingsPlan=[
            {"unitPrice": 2.4, "retailPrice": 2.4, "term": "1 Year"},
            {"unitPrice": 1.6, "retailPrice": 1.6, "term": "3 Years"},
        ],
    ),
    item(A100, 0.9, skuName="NC24ads A100 v4 Spot"),
    item(A100, 0.8, skuName="NC24ads A100 v4 Low Priority"),
    item(A100, 9.9, productName="Virtual Machines NCADS A100 v4 Series Windows"),
    item(A100, 1.1, productName="Virtual Machines NCADS A100 v4 Series CloudServices"),
    item(A100, 21033.0, type="Reservation", reservationTerm="1 Year"),
    item(A100, 42066.0, type="Reservation", reservationTerm="3 Years"),
    item(A100, 4.775, armRegionName="westeurope"),
    item("Standard_D4ds_v5", 0.226),
    item(A100, 2.0, type="DevTestConsumption"),
]


def azure(server: Loopback) -> Answer:
    """Filters as Azure does (`eq`, case-sensitive), two items a page."""

    def answer(exchange: Exchange) -> None:
        query = parse_qs(urlsplit(exchange.path).query)
        size = query["$filter"][0].split("armSkuName eq '")[1].split("'")[0]
        found = [i for i in AZURE_ITEMS if i["armSkuName"] == size]
        skip = int(query.get("$skip", ["0"])[0])
        following = None
        if skip + 2 < len(found):
            following = f"{server.url}{exchange.path.partition('&$skip')[0]}&$skip={skip + 2}"
        page = {"BillingCurrency": "USD", "Items": found[skip : skip + 2], "Count": 2}
        answer_json({**page, "NextPageLink": following})(exchange)

    return answer


@pytest.fixture
def azure_server(server: Loopback, monkeypatch):
    server.answers["/api/retail/prices"] = azure(server)
    monkeypatch.setenv("MELANGE_SKY_AZURE_URL", f"{server.url}/api/retail/prices")
    return server


def test_azure_retail(azure_server, run, home):
    done = pull(run, "--source", "azure")
    assert done.code == 0, done.err
    rows = listed(run, "azure")
    assert set(rows) == {("eastus", A100), ("westeurope", A100)}
    east = rows["eastus", A100]
    assert (east["price_usd_per_hour"], east["spot_usd_per_hour"]) == (3.673, 0.9)
    assert (east["accelerator"], east["accelerator_count"]) == ("A100-80GB", 1)
    assert east["source"] == "Azure Retail Prices API"
    assert east["flags"] == []
    terms = {(t.product, t.term_hours): t for t in kept_terms(home, "azure")}
    assert {key: t.usd_per_hour for key, t in terms.items()} == {
        ("reservation", 8760): 21033.0 / 8760,
        ("reservation", 26280): 42066.0 / 26280,
        ("savings plan", 8760): 2.4,
        ("savings plan", 26280): 1.6,
    }
    assert {t.list_usd_per_hour for t in terms.values()} == {3.673}
    assert {t.pool for t in terms.values() if t.kind == "spend"} == {
        "Azure savings plan, 1 year",
        "Azure savings plan, 3 years",
    }
    asked = [parse_qs(urlsplit(path).query) for path in azure_server.paths()]
    assert {q["api-version"][0] for q in asked} == {"2023-01-01-preview"}
    assert all("serviceName eq 'Virtual Machines'" in q["$filter"][0] for q in asked)


def test_azure_is_asked_only_for_the_regions_named(azure_server, run):
    assert pull(run, "--source", "azure", "--infra", "azure/eastus,azure/westus3").code == 0
    query = parse_qs(urlsplit(azure_server.paths()[0]).query)["$filter"][0]
    assert query.endswith("and (armRegionName eq 'eastus' or armRegionName eq 'westus3')")


@pytest.mark.parametrize(
    "link", ["http://example.invalid/steal", "//example.invalid/x", "file:///etc/passwd"]
)
def test_azure_s_next_page_stays_on_its_host(link, server, run, monkeypatch):
    server.answers["/p"] = answer_json({"Items": [], "NextPageLink": link})
    monkeypatch.setenv("MELANGE_SKY_AZURE_URL", f"{server.url}/p")
    done = pull(run, "--source", "azure")
    assert done.code == 4
    assert "another host" in done.err


def test_azure_pages_without_end(server, run, monkeypatch):
    server.answers["/p"] = answer_json({"Items": [], "NextPageLink": f"{server.url}/p"})
    monkeypatch.setenv("MELANGE_SKY_AZURE_URL", f"{server.url}/p")
    # 40 pages for each size take seconds: it is their count that has to end it
    done = pull(run, "--source", "azure")
    assert done.code == 4
    assert "more than 40 pages" in done.err


RUNPOD = {
    "data": {
        "gpuTypes": [
            {
                "id": "NVIDIA A100 80GB PCIe",
                "displayName": "A100 PCIe",
                "memoryInGb": 80,
                "secureCloud": True,
                "securePrice": 1.64,
                "communityPrice": 1.19,
                "oneMonthPrice": 1.5,
                "threeMonthPrice": 1.4,
                "sixMonthPrice": None,
                "lowestPrice": {
                    "uninterruptablePrice": 1.64,
                    "minimumBidPrice": 0.82,
                    "stockStatus": "Low",
                    "minVcpu": 8,
                    "minMemory": 117,
                },
            },
            {
                "id": "NVIDIA L4",
                "displayName": "L4",
                "memoryInGb": 24,
                "securePrice": 0.43,
                "lowestPrice": {"minimumBidPrice": None},
            },
            {"id": "unknown", "displayName": "unknown", "memoryInGb": 0, "securePrice": 0},
            {"id": "NVIDIA A40", "memoryInGb": 48, "securePrice": None, "lowestPrice": None},
            {"id": "NVIDIA B200", "memoryInGb": 180, "securePrice": 0, "lowestPrice": None},
        ]
    }
}


def test_runpod(server, run, monkeypatch, home):
    server.answers["/graphql"] = answer_json(RUNPOD)
    monkeypatch.setenv("MELANGE_SKY_RUNPOD_URL", f"{server.url}/graphql")
    assert pull(run, "--source", "runpod").code == 0
    rows = listed(run, "runpod")
    assert {kind for _, kind in rows} == {
        f"{n}x_{gpu}_SECURE" for n in (1, 2, 4, 8) for gpu in ("A100-80GB", "L4", "B200")
    }
    pair = rows["US", "2x_A100-80GB_SECURE"]
    assert pair["price_usd_per_hour"] == pytest.approx(3.28)
    assert pair["spot_usd_per_hour"] == pytest.approx(1.64)
    free = rows["US", "1x_B200_SECURE"]
    assert free["price_usd_per_hour"] is None
    assert [f["code"] for f in free["flags"]] == ["price-zero"]
    (asked,) = server.asked
    assert asked.method == "POST"
    assert "gpuTypes" in json.loads(asked.body)["query"]
    terms = [t for t in kept_terms(home, "runpod") if t.instance_type == "2x_A100-80GB_SECURE"]
    assert {(t.term_months, t.region, t.usd_per_hour) for t in terms} == {(1, "", 0), (3, "", 0)}
    assert {t.term_months: round(t.all_in_usd_per_hour, 9) for t in terms} == {1: 3.0, 3: 2.8}
    assert {t.upfront_usd for t in terms} == {3.0 * 730, 2.8 * 2190}


MACHINE = {
    "gpu_name": "A100 SXM4",
    "num_gpus": 1,
    "gpu_ram": 81920,
    "cpu_cores": 32,
    "cpu_ram": 131072,
    "dph_total": 0.9,
    "min_bid": 0.45,
    "geolocation": "Quebec, CA",
    "reliability": 0.99,
}


def vast(exchange: Exchange) -> None:
    """Lists machines of the GPU asked for only."""
    query = json.loads(exchange.body)
    wanted = query["gpu_name"]["eq"]
    rows = [
        MACHINE,
        {**MACHINE, "dph_total": 0.8},
        {**MACHINE, "num_gpus": 4, "dph_total": 3.5},
        {**MACHINE, "geolocation": "Finland, FI", "dph_total": 1.0},
        {"gpu_name": None},
    ]
    answer_json({"offers": rows if wanted == "A100 SXM4" else []})(exchange)


def test_vast(server, run, monkeypatch):
    server.answers["/bundles/"] = vast
    monkeypatch.setenv("MELANGE_SKY_VAST_URL", f"{server.url}/bundles/")
    assert pull(run, "--source", "vast").code == 0
    rows = listed(run, "vast")
    assert {k: r["price_usd_per_hour"] for k, r in rows.items()} == {
        ("CA", "1x-A100_SXM4-32-131072"): 0.8,
        ("FI", "1x-A100_SXM4-32-131072"): 1.0,
        ("CA", "4x-A100_SXM4-32-131072"): 3.5,
    }
    assert {r["accelerator"] for r in rows.values()} == {"A100-80GB"}
    assert all(json.loads(e.body)["limit"] == 64 for e in server.asked)


def beyond_floats(field: str) -> Answer:
    """An answer of Vast's with a number that JSON allows and no price can be."""
    text = json.dumps({"offers": [MACHINE, {**MACHINE, "geolocation": "Finland, FI", field: "X"}]})
    return body(text.replace('"X"', "1e999"), Content_Type="application/json")


@pytest.mark.parametrize("field", ["dph_total", "min_bid", "cpu_cores", "num_gpus"])
def test_a_number_beyond_all_floats_is_none(field, server, run, monkeypatch):
    server.answers["/bundles/"] = beyond_floats(field)
    monkeypatch.setenv("MELANGE_SKY_VAST_URL", f"{server.url}/bundles/")
    done = pull(run, "--source", "vast")
    assert done.code == 0, done.err
    rows = listed(run, "vast")
    assert ("CA", "1x-A100_SXM4-32-131072") in rows
    assert (len(rows) == 1) is (field in ("dph_total", "num_gpus"))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "NVIDIA L4", "securePrice": 1e308}, "ValueError"),  # times 8: no number any more
        ({"id": "NVIDIA L4", "securePrice": 1e308, "oneMonthPrice": 1e308}, "ValueError"),
    ],
)
def test_what_cannot_be_read_costs_its_own_cloud_only(row, said, server, run, monkeypatch):
    server.answers["/graphql"] = answer_json({"data": {"gpuTypes": [row]}})
    monkeypatch.setenv("MELANGE_SKY_RUNPOD_URL", f"{server.url}/graphql")
    serve_aws(server, monkeypatch, body(AWS_FILE))
    done = pull(run, "--source", "runpod", "--source", "aws")
    assert done.code == 0, done.err
    assert f"warning: no new prices of runpod: its answer cannot be read: {said}" in done.err
    assert done.out.startswith("aws ")


@pytest.mark.parametrize("plans", [3, [3]])
def test_azure_s_savings_plans_of_another_form(plans, server, run, monkeypatch):
    server.answers["/p"] = answer_json({"Items": [item(A100, 3.6, savingsPlan=plans)]})
    monkeypatch.setenv("MELANGE_SKY_AZURE_URL", f"{server.url}/p")
    done = pull(run, "--source", "azure")
    assert "Traceback" not in done.err
    assert done.code == (4 if plans == 3 else 0)


AWS_COLUMNS = (
    "SKU",
    "OfferTermCode",
    "RateCode",
    "TermType",
    "PriceDescription",
    "EffectiveDate",
    "Unit",
    "PricePerUnit",
    "Currency",
    "LeaseContractLength",
    "PurchaseOption",
    "OfferingClass",
    "Location",
    "Instance Type",
    "vCPU",
    "Tenancy",
    "Operating System",
    "CapacityStatus",
    "Pre Installed S/W",
    "MarketOption",
    "Region Code",
)


def aws_row(kind: str, price: str, **over: str) -> str:
    cells = {
        "SKU": "X",
        "TermType": "OnDemand",
        "Unit": "Hrs",
        "PricePerUnit": price,
        "Currency": "USD",
        "Instance Type": kind,
        "Tenancy": "Shared",
        "Operating System": "Linux",
        "CapacityStatus": "Used",
        "Pre Installed S/W": "NA",
        "MarketOption": "OnDemand",
        "PriceDescription": 'says "hello, you"',
    } | {name.replace("_", " "): value for name, value in over.items()}
    return ",".join('"' + cells.get(c, "").replace('"', '""') + '"' for c in AWS_COLUMNS)


AWS_FILE = "\n".join(
    [
        '"FormatVersion","v1.0"',
        '"Disclaimer","Information only, g6.xlarge"',
        '"Publication Date","x"',
        '"Version","2026"',
        '"OfferCode","AmazonEC2"',
        ",".join(f'"{c}"' for c in AWS_COLUMNS),
        aws_row("m5.large", "0.096"),
        aws_row("g6.xlarge", "0.8048"),
        aws_row("g6.xlarge", "1.3", Operating_System="Windows"),
        aws_row("g6.xlarge", "0.9", Tenancy="Dedicated"),
        aws_row("g6.xlarge", "0", CapacityStatus="UnusedCapacityReservation"),
        aws_row(
            "g6.xlarge",
            "0.5",
            TermType="Reserved",
            LeaseContractLength="1yr",
            PurchaseOption="No Upfront",
            OfferingClass="standard",
            MarketOption="OnDemand",
        ),
        aws_row(
            "g6.xlarge",
            "0.35",
            TermType="Reserved",
            LeaseContractLength="3yr",
            PurchaseOption="No Upfront",
            OfferingClass="standard",
        ),
        aws_row(
            "g6.xlarge",
            "0.4",
            TermType="Reserved",
            LeaseContractLength="3yr",
            PurchaseOption="No Upfront",
            OfferingClass="convertible",
        ),
        aws_row("p5.48xlarge", "55.04"),
        aws_row("g6.17xlarge", "1"),
        aws_row("g5.xlarge", "free"),
        '"cut off","g6.xlarge"',
    ]
)


def serve_aws(server: Loopback, monkeypatch, answer: Answer) -> None:
    regions = {
        name: {"regionCode": name, "currentVersionUrl": f"/offers/2026/{name}/index.json"}
        for name in ("us-east-1", "us-east-2", "us-west-2", "eu-west-1")
    }
    server.answers["/region_index.json"] = answer_json(
        {"formatVersion": "v1.0", "regions": regions}
    )
    for name in regions:
        server.answers[f"/offers/2026/{name}/index.csv"] = answer
    monkeypatch.setenv("MELANGE_SKY_AWS_URL", f"{server.url}/region_index.json")


def test_aws_bulk(server, run, monkeypatch, home):
    serve_aws(server, monkeypatch, body(AWS_FILE))
    assert pull(run, "--source", "aws", "--infra", "aws/eu-west-1").code == 0
    assert {p for p in server.paths() if "savingsPlan" not in p} == {
        "/region_index.json",
        "/offers/2026/eu-west-1/index.csv",
    }
    rows = listed(run, "aws/eu-west-1")
    assert {k: r["price_usd_per_hour"] for k, r in rows.items()} == {
        ("eu-west-1", "g6.xlarge"): 0.8048,
        ("eu-west-1", "p5.48xlarge"): 55.04,
    }
    assert all(r["flags"] == [] for r in rows.values())
    assert {
        (t.instance_type, t.term_hours, t.product): (t.usd_per_hour, t.upfront_usd)
        for t in kept_terms(home, "aws")
    } == {
        ("g6.xlarge", 8760, "standard reserved instance, no upfront"): (0.5, 0),
        ("g6.xlarge", 26280, "standard reserved instance, no upfront"): (0.35, 0),
    }


def drip_lines(exchange: Exchange) -> None:
    exchange.send(head(200, Content_Length="99999999"))
    for _ in range(2000):
        exchange.send(AWS_FILE[:50].encode())
        exchange.pause(0.02)
        if exchange.stopping.is_set():
            return


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (status(500), "HTTP 500"),
        (drip_lines, "deadline"),
        (lambda exchange: exchange.pause(30), "deadline"),
        (body("nothing of the kind\n" * 100), "no header"),
        (body('"SKU","Price"\n'), "lacks the column"),
        (body(b"x" * 3 * 2**20), "without an end"),
    ],
)
def test_aws_bulk_faults(fault, said, server, run, monkeypatch):
    serve_aws(server, monkeypatch, fault)
    done = run(
        "prices", "refresh", "--source", "aws", "--infra", "aws/us-east-1", "--deadline", "1"
    )
    assert done.code == 4
    assert said in done.err


def sku(
    description: str, usage: str, nanos: int, regions: tuple[str, ...] = ("us-central1",)
) -> dict:
    units, nanos = divmod(nanos, 10**9)
    rate = {
        "startUsageAmount": 0,
        "unitPrice": {"currencyCode": "USD", "units": str(units), "nanos": nanos},
    }
    return {
        "name": "services/x/skus/y",
        "description": description,
        "serviceRegions": list(regions),
        "category": {"resourceFamily": "Compute", "resourceGroup": "GPU", "usageType": usage},
        "pricingInfo": [{"pricingExpression": {"usageUnit": "h", "tieredRates": [rate]}}],
    }


GCP_SKUS = [
    sku("G2 Instance Core running in Americas", "OnDemand", 24_990_000),
    sku("G2 Instance Ram running in Americas", "OnDemand", 2_930_000),
    sku("Nvidia L4 GPU running in Americas", "OnDemand", 560_040_000),
    sku("Spot Preemptible G2 Instance Core running in Americas", "Preemptible", 9_000_000),
    sku("Spot Preemptible G2 Instance Ram running in Americas", "Preemptible", 1_000_000),
    sku(
        "Nvidia L4 GPU attached to Spot Preemptible VMs running in Americas",
        "Preemptible",
        224_000_000,
    ),
    sku("Commitment v1: G2 Cpu in Americas for 1 Year", "Commit1Yr", 15_000_000),
    sku("Commitment v1: G2 Ram in Americas for 1 Year", "Commit1Yr", 1_800_000),
    sku("Commitment v1: Nvidia L4 GPU running in Americas for 1 Year", "Commit1Yr", 350_000_000),
    sku("A3 Instance Core running in Americas", "OnDemand", 29_000_000),
    sku("A3 Instance Ram running in Americas", "OnDemand", 2_500_000),
    sku("Nvidia H100 80GB GPU DWS Defined Duration running in Americas", "OnDemand", 4_200_000_000),
    sku("Nvidia L4 GPU reserved in Americas", "OnDemand", 1),
    sku("A3 Instance Core running in Paris", "OnDemand", 29_000_000, ("europe-west9",)),
    {"description": None, "category": [], "pricingInfo": []},
]


def gcp(exchange: Exchange) -> None:
    """Gives two pages to who has the key."""
    if exchange.headers.get("x-goog-api-key") != "secret-key":
        status(403)(exchange)
    elif "pageToken=2" in exchange.path:
        answer_json({"skus": GCP_SKUS[5:]})(exchange)
    else:
        answer_json({"skus": GCP_SKUS[:5], "nextPageToken": "2"})(exchange)


def test_gcp_billing(server, run, monkeypatch, home):
    server.answers["/skus"] = gcp
    monkeypatch.setenv("MELANGE_SKY_GCP_URL", f"{server.url}/skus")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    without = pull(run, "--source", "gcp")
    assert without.code == 4
    assert "GOOGLE_API_KEY" in without.err
    monkeypatch.setenv("GOOGLE_API_KEY", "secret-key")
    assert pull(run, "--source", "gcp").code == 0
    rows = listed(run, "gcp")
    small = rows["us-central1", "g2-standard-4"]
    assert small["price_usd_per_hour"] == pytest.approx(4 * 0.02499 + 16 * 0.00293 + 0.56004)
    assert small["spot_usd_per_hour"] == pytest.approx(4 * 0.009 + 16 * 0.001 + 0.224)
    assert not any(kind.startswith("a3") for _, kind in rows), "its GPU has no list price here"
    assert not any(b"secret-key" in path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert not any("secret-key" in exchange.path for exchange in server.asked)
    (one,) = [t for t in kept_terms(home, "gcp") if t.instance_type == "g2-standard-4"]
    assert (one.kind, one.term_hours, one.region) == ("instance", 8760, "us-central1")
    assert one.usd_per_hour == pytest.approx(4 * 0.015 + 16 * 0.0018 + 0.35)
    assert one.list_usd_per_hour == small["price_usd_per_hour"]


CYCLENERD = """\
---
about:
  copyright: |2

    Apache License, Version 2.0
  generated: Sat Nov 28 03:53:56 2026
  timestamp: 1795838036
compute:
  instance:
    a2-highgpu-8g:
      a100: 8
      cost:
        europe-west4:
          hour: 29.983776
          month: 21888.15648
        us-central1:
          hour: 29.38708
          hour_spot: 10.34684
          month: 21452.5684
          month_1y: 13514.9691136
          month_3y: 7508.53662384
          month_spot: 7553.1932
        us-east4: [1, 2]
      cpu: 96
      ram: 680
    c2-standard-16:
      cost:
        us-central1:
          hour: 0.835232
          month_1y: 384.0968
  storage: {}
"""


def test_cyclenerd(server, run, monkeypatch, home):
    server.answers["/pricing.yml"] = body(CYCLENERD)
    monkeypatch.setenv("MELANGE_SKY_CYCLENERD_URL", f"{server.url}/pricing.yml")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    assert pull(run, "--source", "cyclenerd").code == 0
    rows = listed(run, "gcp")
    assert {k: (r["price_usd_per_hour"], r["spot_usd_per_hour"]) for k, r in rows.items()} == {
        ("us-central1", "a2-highgpu-8g"): (29.38708, 10.34684),
        ("europe-west4", "a2-highgpu-8g"): (29.983776, None),
    }
    assert {r["as_of"] for r in rows.values()} == {"2026-11-28T03:53:56Z"}
    year, three = sorted(kept_terms(home, "gcp"), key=lambda t: t.term_hours)
    assert year.usd_per_hour == pytest.approx(13514.9691136 / 730, abs=1e-6)
    assert year.discount(29.38708) == pytest.approx(0.370, abs=5e-4)
    assert (three.term_hours, three.region) == (26280, "us-central1")
    assert three.discount(three.list_usd_per_hour) == pytest.approx(0.650, abs=5e-4)
    assert {t.checked_at for t in (year, three)} == {"2026-11-28T03:53:56Z"}, "when GCP was asked"


def test_one_source_a_cloud(run):
    done = pull(run, "--source", "gcp", "--source", "cyclenerd")
    assert done.code == 2
    assert "error: gcp and cyclenerd both list gcp: name one of these sources" in done.err


JUNK = [
    [],
    {},
    {"data": None},
    {"Items": 3},
    {"offers": {}},
    {"errors": [{"message": "no"}]},
    "x",
    7,
]


APIS = tuple(name for name in SOURCES if name != "catalog")


@dataclass(frozen=True)
class Case:
    """What a source answers when it is well: `answer` (of the server) at `path`, `infra` to ask for, `form`."""

    path: str
    answer: Callable[[Loopback], Answer]
    infra: str
    form: str = "JSON"


CASES = {
    "aws": Case(
        "/region_index.json", lambda server: server.answers["/region_index.json"], "aws/eu-west-1"
    ),
    "azure": Case("/api/retail/prices", azure, "azure"),
    "cyclenerd": Case("/pricing.yml", lambda server: body(CYCLENERD), "gcp", form="YAML"),
    "gcp": Case("/skus", lambda server: gcp, "gcp"),
    "runpod": Case("/graphql", lambda server: answer_json(RUNPOD), "runpod"),
    "vast": Case("/bundles/", lambda server: vast, "vast"),
}
"""One per provider API: a source without a case fails `test_every_source_has_a_case`."""


def test_every_source_has_a_case() -> None:
    assert CASES.keys() == set(APIS)
    assert {find_apis((name,), ())[0].name for name in APIS} == set(APIS)


FAULTS: dict[str, tuple[Answer, str]] = {
    "a server's error": (status(500), "HTTP 500"),
    "no right to it": (status(403), "HTTP 403"),
    "silence": (lambda exchange: exchange.pause(30), "deadline"),
    "a page for people": (body("<html>", Content_Type="text/html"), "not JSON"),
    "no text": (body(b"\xff", Content_Type="application/json"), "not"),
    "a nest without an end": (body("[" * 100_000), "not JSON"),
}


def serve(source: str, server: Loopback, monkeypatch, answer: Answer | None = None) -> None:
    """Let a source answer well, or with `answer` where one is given."""
    case = CASES[source]
    if source == "aws":
        serve_aws(server, monkeypatch, body(AWS_FILE))
    server.answers[case.path] = answer or case.answer(server)
    monkeypatch.setenv(f"MELANGE_SKY_{source.upper()}_URL", f"{server.url}{case.path}")
    monkeypatch.setenv("GOOGLE_API_KEY", "secret-key")


@pytest.mark.parametrize("source", APIS)
def test_what_any_source_gave_stays_whatever_fault_comes_next(source, server, run, monkeypatch):
    infra = CASES[source].infra
    serve(source, server, monkeypatch)
    assert pull(run, "--source", source, "--infra", infra).code == 0
    good = listed(run, infra)
    assert any(row["price_usd_per_hour"] for row in good.values())
    for fault, (answer, said) in FAULTS.items():
        serve(source, server, monkeypatch, answer)
        said = said.replace("JSON", CASES[source].form)
        deadline = "1" if said == "deadline" else "20"
        done = run(
            "prices", "refresh", "--source", source, "--infra", infra, "--deadline", deadline
        )
        assert done.code == 4, fault
        assert said in done.err, fault
        assert len(done.err.splitlines()) == 2, fault
        assert listed(run, infra) == good, fault


@pytest.mark.parametrize("source", APIS)
def test_any_other_json_is_refused_with_one_line(source, server, run, monkeypatch):
    for junk in JUNK:
        serve(source, server, monkeypatch, answer_json(junk))
        done = pull(run, "--source", source)
        assert done.code == 4, junk
        assert len(done.err.splitlines()) == 2


def test_an_api_that_fails_keeps_what_the_catalog_gave(server, run, home, monkeypatch):
    from tests.pricing.catalogs import GOOD_AWS

    server.catalog("aws", body(GOOD_AWS))
    assert refresh(Store(home / "prices"), RefreshOptions(clouds=("aws",), deadline_s=60)).any_good
    before = listed(run, "aws")
    monkeypatch.setenv("MELANGE_SKY_AWS_URL", f"{server.url}/nothing")
    assert pull(run, "--source", "aws").code == 4
    assert listed(run, "aws") == before


def test_an_unknown_source_is_named(run):
    done = pull(run, "--source", "azur")
    assert done.code == 2
    assert "did you mean 'azure'" in done.err
