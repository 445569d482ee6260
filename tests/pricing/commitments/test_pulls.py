"""Terms over real HTTP on loopback, in the forms that providers send; what fails costs nothing that was there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from melange_sky.pricing.commitments.store import TermStore
from melange_sky.pricing.store import Store
from tests.pricing.catalogs import GOOD_AWS
from tests.pricing.commitments.documents import (
    INDEX,
    answer_json,
    ec2_file,
    ec2_row,
    plan_file,
    plan_row,
    reserved,
    serve_aws,
)
from tests.pricing.server import body, status

P5 = "p5.48xlarge"
EC2 = ec2_file(
    ec2_row(P5, "55.04"),
    *reserved(P5, "36.0", None, "1yr", "No Upfront"),
    *reserved(P5, "17.0", "148920", "1yr", "Partial Upfront"),
    *reserved(P5, "0.0000000000", "289080", "1yr", "All Upfront"),
    *reserved(P5, "24.0", None, "3yr", "No Upfront"),
    *reserved(P5, "38.0", None, "1yr", "No Upfront", OfferingClass="convertible"),
    *reserved(P5, "30.0", None, "1yr", "No Upfront", Tenancy="Dedicated"),
    *reserved(P5, "70.0", None, "1yr", "No Upfront", Operating_System="Windows"),
    *reserved(P5, "99.0", None, "1yr", "No Upfront", Currency="CNY"),
    # halves: without the other line nobody knows what they cost
    *reserved(P5, "9.0", None, "3yr", "Partial Upfront"),
    *reserved(P5, None, "400000", "3yr", "All Upfront"),
)
FAMILY = {"Product Family": "EC2InstanceSavingsPlans", "Instance Family": "p5"}
PLANS = plan_file(
    plan_row(P5, "37.5"),
    plan_row(P5, "34.0", PurchaseOption="All Upfront"),
    plan_row(P5, "35.0", PurchaseOption="Partial Upfront"),
    plan_row(P5, "25.0", LeaseContractLength="3"),
    plan_row(P5, "33.0", **FAMILY),
    plan_row(P5, "1.0", DiscountedUsageType=f"UnusedBox:{P5}"),
    plan_row(P5, "1.1", DiscountedUsageType=f"DedicatedUsage:{P5}"),
    plan_row(P5, "1.2", DiscountedUsageType=f"HostBoxUsage:{P5}"),
    plan_row(P5, "1.3", DiscountedOperation="RunInstances:0002"),
    plan_row(P5, "1.4", DiscountedRegionCode="us-east-1-bos-1"),
    plan_row(P5, "1.5", Currency="CNY"),
    plan_row(P5, "1.6", Unit="Month"),
    plan_row(P5, "1.7", **{"Product Family": "MachineLearningSavingsPlans"}),
    plan_row("m5.large", "0.06"),
    plan_row("p5.49xlarge", "1.8"),
    plan_row(P5, "free"),
)


def kept(home: Path, cloud: str) -> dict[tuple[str, str, float], tuple[float, float]]:
    """(region, product, months) → price per hour and upfront, as stored."""
    terms = TermStore(Store(home / "prices")).newest().get(cloud, ())
    return {
        (t.row.region, t.row.product, t.row.term_months): (t.row.usd_per_hour, t.row.upfront_usd)
        for t in terms
    }


def pull(run, *arguments: str):
    return run("prices", "refresh", "--deadline", "10", "--source", "aws", *arguments)


def test_every_way_to_pay_of_aws(server, run, monkeypatch, home):
    serve_aws(server, monkeypatch, EC2, {"us-east-1": PLANS})
    done = pull(run, "--infra", "aws/us-east-1", "--format", "json")
    assert (done.code, done.err) == (0, "")
    assert (done.json()["terms"], done.json()["terms_failed"]) == ({"aws": 9}, {})
    standard, one = "standard reserved instance", "us-east-1"
    assert kept(home, "aws") == {
        (one, f"{standard}, no upfront", 12): (36.0, 0.0),
        (one, f"{standard}, partial upfront", 12): (17.0, 148920.0),
        (one, f"{standard}, all upfront", 12): (0.0, 289080.0),
        (one, f"{standard}, no upfront", 36): (24.0, 0.0),
        (one, "Compute Savings Plan, no upfront", 12): (37.5, 0.0),
        (one, "Compute Savings Plan, partial upfront", 12): (17.5, 17.5 * 8760),
        (one, "Compute Savings Plan, all upfront", 12): (0.0, 34.0 * 8760),
        (one, "Compute Savings Plan, no upfront", 36): (25.0, 0.0),
        (one, "EC2 Instance Savings Plan, no upfront", 12): (33.0, 0.0),
    }
    rows = {
        (r["product"], r["term_months"]): r
        for r in run("prices", "terms", "--infra", "aws/us-east-1", "--format", "json").json()
    }
    partial = rows[f"{standard}, partial upfront", 12]
    assert partial["all_in_usd_per_hour"] == pytest.approx(34.0)
    assert partial["discount_fraction"] == pytest.approx(1 - 34 / 55.04)
    assert partial["break_even_utilization"] == pytest.approx(34 / 55.04)
    assert partial["on_demand_source"] == "AWS bulk offer file, only us-east-1"
    assert partial["source"] == "AWS bulk offer file"
    assert partial["as_of"] == partial["checked_at"] is not None
    spend = rows["Compute Savings Plan, all upfront", 12]
    assert (spend["kind"], spend["pool"]) == (
        "spend",
        "AWS Compute Savings Plan, 1 year, all upfront",
    )
    assert spend["all_in_usd_per_hour"] == pytest.approx(34.0)
    family = rows["EC2 Instance Savings Plan, no upfront", 12]
    assert family["pool"] == "AWS EC2 Instance Savings Plan p5 us-east-1, 1 year, no upfront"
    assert all(not row["flags"] for row in rows.values() if row["checked_at"])


def test_a_pull_of_prices_keeps_the_terms(server, run, monkeypatch, home):
    serve_aws(server, monkeypatch, EC2, {"us-east-1": PLANS})
    assert pull(run, "--infra", "aws/us-east-1").code == 0
    before = kept(home, "aws")
    server.catalog("aws", body(GOOD_AWS))
    assert run("prices", "refresh", "--infra", "aws", "--deadline", "5").code == 0
    assert kept(home, "aws") == before


def test_a_region_that_is_not_asked_for_stays(server, run, monkeypatch, home):
    west = plan_file(
        plan_row(
            P5, "40.0", DiscountedUsageType=f"USW2-BoxUsage:{P5}", DiscountedRegionCode="us-west-2"
        )
    )
    serve_aws(server, monkeypatch, EC2, {"us-east-1": PLANS, "us-west-2": west})
    assert pull(run, "--infra", "aws/us-east-1,aws/us-west-2").code == 0
    both = kept(home, "aws")
    assert ("us-west-2", "Compute Savings Plan, no upfront", 12) in both
    dearer = plan_file(plan_row(P5, "38.0"))
    serve_aws(server, monkeypatch, EC2, {"us-east-1": dearer})
    done = pull(run, "--infra", "aws/us-east-1")
    assert "warning: aws: 4 of 5 savings plans us-east-1 are gone" in done.err
    after = kept(home, "aws")
    assert {k: v for k, v in after.items() if k[0] == "us-west-2"} == {
        k: v for k, v in both.items() if k[0] == "us-west-2"
    }
    assert after["us-east-1", "Compute Savings Plan, no upfront", 12] == (38.0, 0.0)


FAULTS = {
    "no index": (INDEX, status(404), "HTTP 404"),
    "an index of another form": (INDEX, answer_json({"regions": {}}), "has no regions"),
    "an index without the region": (INDEX, answer_json({"regions": [3, {}]}), "does not name it"),
    "an index that points elsewhere": (
        INDEX,
        answer_json(
            {
                "regions": [
                    {"regionCode": "us-east-1", "versionUrl": "https://example.invalid/x.json"}
                ]
            }
        ),
        "points elsewhere",
    ),
    "an index with an address that is none": (
        INDEX,
        answer_json({"regions": [{"regionCode": "us-east-1", "versionUrl": "http://[x/y.json"}]}),
        "its answer cannot be read: ValueError",
    ),
    "a file that fails": ("us-east-1", status(500), "HTTP 500"),
    "a file without a header": ("us-east-1", body("nothing\n" * 9), "have no header"),
    "a file that lacks a column": (
        "us-east-1",
        body(PLANS.replace("DiscountedRate,", "Rate,", 1)),
        "lacks the column 'DiscountedRate'",
    ),
    "a file that is cut within a cell": (
        "us-east-1",
        body(PLANS + f'x,"{"y" * 200_000},BoxUsage:{P5}\n'),
        "field larger than field limit",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_savings_plans_that_fail_cost_no_prices_and_keep_what_was(
    fault, server, run, monkeypatch, home
):
    serve_aws(server, monkeypatch, EC2, {"us-east-1": PLANS})
    assert pull(run, "--infra", "aws/us-east-1").code == 0
    before = kept(home, "aws")
    where, answer, said = FAULTS[fault]
    path = f"/savingsPlan/v1.0/aws/AWSComputeSavingsPlan/2026/{where}/index.csv"
    server.answers[where if where == INDEX else path] = answer
    done = pull(run, "--infra", "aws/us-east-1")
    assert done.code == 0
    (line,) = done.err.splitlines()
    assert line.startswith("warning: no new terms of aws savings plans us-east-1: ")
    assert said in line
    assert done.out.startswith("aws            fetched         1 offers, 4 terms")
    assert kept(home, "aws") == before


def test_an_offer_file_that_fails_keeps_all_terms(server, run, monkeypatch, home):
    serve_aws(server, monkeypatch, EC2, {"us-east-1": PLANS})
    assert pull(run, "--infra", "aws/us-east-1").code == 0
    before = kept(home, "aws")
    server.answers["/offers/us-east-1/index.csv"] = status(503)
    assert pull(run, "--infra", "aws/us-east-1").code == 4
    assert kept(home, "aws") == before
    assert len(before) == 9


def test_a_damaged_table_gives_way_to_the_pull_before(server, run, monkeypatch, home):
    serve_aws(server, monkeypatch, EC2, {"us-east-1": PLANS})
    assert pull(run, "--infra", "aws/us-east-1").code == 0
    before = kept(home, "aws")
    changed = EC2.replace('"36.0"', '"36.5"')
    serve_aws(server, monkeypatch, changed, {"us-east-1": PLANS})
    assert pull(run, "--infra", "aws/us-east-1").code == 0
    assert kept(home, "aws") != before
    newest = Store(home / "prices" / "terms").newest().clouds["aws"].table
    (home / "prices" / "terms" / "tables" / newest).write_text("{}", encoding="utf-8")
    assert kept(home, "aws") == before


def test_a_price_that_leaps_is_held_against_the_pull_before(server, run, monkeypatch):
    serve_aws(server, monkeypatch, EC2, {"us-east-1": PLANS})
    assert pull(run, "--infra", "aws/us-east-1").code == 0
    # both prices fall alike, so that the discount looks right: an error of another column or unit
    cheap = ec2_file(ec2_row(P5, "18.0"), *reserved(P5, "11.0", None, "1yr", "No Upfront"))
    serve_aws(server, monkeypatch, cheap, {"us-east-1": PLANS})
    assert pull(run, "--infra", "aws/us-east-1").code == 0
    rows = run("prices", "terms", "--infra", "aws/us-east-1", "--format", "json").json()
    (row,) = [r for r in rows if r["usd_per_hour"] == 11.0]
    flags = {flag["code"]: flag for flag in row["flags"]}
    assert flags["term-far-from-known"]["severity"] == "block"
    assert "11 $/h is 0.306 × the 36 of the pull of " in flags["term-far-from-known"]["message"]


def azure_item(**over: object) -> dict[str, object]:
    size = "Standard_NC24ads_A100_v4"
    return {
        "currencyCode": "USD",
        "retailPrice": 3.673,
        "unitPrice": 3.673,
        "armRegionName": "eastus",
        "effectiveStartDate": "2026-08-01T00:00:00Z",
        "meterName": "NC24ads A100 v4",
        "productName": "Virtual Machines NCADS A100 v4 Series",
        "skuName": "Standard_NC24ads_A100_v4",
        "serviceName": "Virtual Machines",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "armSkuName": size,
    } | over


@pytest.mark.parametrize(
    ("items", "said"),
    [
        # as it should be: the total of the term, though its unit says an hour
        ([{"type": "Reservation", "reservationTerm": "1 Year", "retailPrice": 21033.0}], {}),
        # were it a price per hour one day, it would be divided once too often
        (
            [{"type": "Reservation", "reservationTerm": "1 Year", "retailPrice": 2.401}],
            {"term-discount": "block"},
        ),
        # three years under the name of one, and the other way round
        (
            [
                {"type": "Reservation", "reservationTerm": "1 Year", "retailPrice": 14000.0},
                {"type": "Reservation", "reservationTerm": "3 Years", "retailPrice": 63099.0},
            ],
            {"term-longer-dearer": "block"},
        ),
        # a plan whose price is the month's
        (
            [{"savingsPlan": [{"term": "1 Year", "unitPrice": 1752.0, "retailPrice": 1752.0}]}],
            {"term-total-as-hourly": "block"},
        ),
        ([{"savingsPlan": [{"term": "1 Year", "unitPrice": 2.4}]}], {}),
        # a promise that lasts longer than any that is sold is none
        ([{"type": "Reservation", "reservationTerm": "30 Years", "retailPrice": 21033.0}], None),
        (
            [
                {
                    "type": "Reservation",
                    "reservationTerm": "1 Year",
                    "retailPrice": 19000.0,
                    "currencyCode": "EUR",
                }
            ],
            None,
        ),
        (
            [
                {
                    "type": "Reservation",
                    "reservationTerm": "1 Year",
                    "retailPrice": 29000.0,
                    "productName": "Virtual Machines NCADS A100 v4 Series Windows",
                }
            ],
            None,
        ),
        (
            [{"type": "Reservation", "reservationTerm": "1 Year", "retailPrice": 0.0}],
            {"term-price": "block"},
        ),
    ],
)
def test_azure_s_terms(items, said, server, run, monkeypatch):
    page = {"Items": [azure_item(), *(azure_item(**item) for item in items)], "NextPageLink": None}
    server.answers["/p"] = answer_json(page)
    monkeypatch.setenv("MELANGE_SKY_AZURE_URL", f"{server.url}/p")
    done = run("prices", "refresh", "--source", "azure", "--deadline", "10")
    assert done.code == 0, done.err
    rows = run("prices", "terms", "--infra", "azure", "--format", "json").json()
    rows = [row for row in rows if row["instance_type"] == "Standard_NC24ads_A100_v4"]
    found = [{f["code"]: f["severity"] for f in row["flags"]} for row in rows]
    assert found == ([] if said is None else [said] * len(rows))
    assert bool(rows) is (said is not None)


def test_gcp_s_commitments_are_sums_of_parts_in_every_region_that_has_them_all(
    server, run, monkeypatch, home
):
    def sku(description: str, usage: str, price: float, currency: str = "USD") -> dict[str, object]:
        units, nanos = divmod(round(price * 1e9), 10**9)
        rate = {
            "startUsageAmount": 0,
            "unitPrice": {"currencyCode": currency, "units": str(units), "nanos": nanos},
        }
        return {
            "description": description,
            "serviceRegions": ["us-central1"],
            "category": {"usageType": usage},
            "pricingInfo": [{"pricingExpression": {"usageUnit": "h", "tieredRates": [rate]}}],
        }

    # what a2-highgpu-8g of us-central1 is made of (list of 2025-03-06)
    skus = [
        sku("A2 Instance Core running in Americas", "OnDemand", 0.031611),
        sku("A2 Instance Ram running in Americas", "OnDemand", 0.004237),
        sku("Nvidia Tesla A100 GPU running in Americas", "OnDemand", 2.933908),
        sku("Commitment v1: A2 Cpu in Americas for 1 Year", "Commit1Yr", 0.019915),
        sku("Commitment v1: A2 Ram in Americas for 1 Year", "Commit1Yr", 0.002669),
        sku(
            "Commitment v1: Nvidia Tesla A100 GPU running in Americas for 1 Year",
            "Commit1Yr",
            1.84836,
        ),
        sku("Commitment v1: A2 Cpu in Americas for 3 Year", "Commit3Yr", 0.011064),
        sku("Commitment v1: A2 Ram in Americas for 3 Year", "Commit3Yr", 0.001483),
        sku(
            "Commitment v1: Nvidia Tesla A100 GPU running in Americas for 3 Year",
            "Commit3Yr",
            1.0,
            "EUR",
        ),
        sku("Commitment: Flexible CUD for 1 Year", "Commit1Yr", 0.5),
    ]
    server.answers["/skus"] = answer_json({"skus": skus})
    monkeypatch.setenv("MELANGE_SKY_GCP_URL", f"{server.url}/skus")
    monkeypatch.setenv("GOOGLE_API_KEY", "a-key")
    assert run("prices", "refresh", "--source", "gcp", "--deadline", "10").code == 0
    rows = run("prices", "terms", "--infra", "gcp/us-central1", "--format", "json").json()
    live = {r["instance_type"]: r for r in rows if r["checked_at"]}
    assert set(live) == {f"a2-highgpu-{n}g" for n in (1, 2, 4, 8)} | {"a2-megagpu-16g"}
    whole = live["a2-highgpu-8g"]
    assert whole["usd_per_hour"] == pytest.approx(96 * 0.019915 + 680 * 0.002669 + 8 * 1.84836)
    assert (whole["term_months"], whole["kind"], whole["pool"]) == (12, "instance", None)
    assert whole["discount_fraction"] == pytest.approx(0.37, abs=1e-3)
    assert whole["flags"] == []
    # what shipped of a region that was pulled is not shown beside it
    assert all(row["checked_at"] for row in rows)


def test_a_pull_of_terms_that_cannot_be_kept_is_told(server, run, monkeypatch, home):
    serve_aws(server, monkeypatch, EC2, {"us-east-1": PLANS})
    (home / "prices").mkdir(parents=True)
    (home / "prices" / "terms").write_text("a file where the folder belongs", encoding="utf-8")
    done = pull(run, "--infra", "aws/us-east-1")
    assert done.code == 0
    assert "warning: the terms that came could not be saved: cannot write to " in done.err
    assert run("prices", "list", "--infra", "aws/us-east-1", "--format", "json").json()


def test_what_a_refresh_says(server, run, monkeypatch):
    serve_aws(server, monkeypatch, EC2, {"us-east-1": PLANS})
    done = pull(run, "--infra", "aws/us-east-1")
    assert done.out.splitlines()[0] == (
        "aws            fetched         1 offers, 9 terms  AWS bulk offer file, only us-east-1"
    )
    assert json.loads(pull(run, "--infra", "aws/us-east-1", "--format", "json").out)["terms"] == {
        "aws": 9
    }
