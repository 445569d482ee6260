"""Price lists in the forms that AWS publishes, small ones of our own.

EC2 offer file: https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-bulk-api.html; the
header below is the part of its columns that matters (they are read by name). Savings plans: the whole header as
published in 2026, unquoted, after five lines about the file.
"""

from __future__ import annotations

import json
from typing import Any

from tests.pricing.server import Answer, Loopback, body

EC2_COLUMNS = (
    "SKU",
    "OfferTermCode",
    "RateCode",
    "TermType",
    "PriceDescription",
    "EffectiveDate",
    "StartingRange",
    "EndingRange",
    "Unit",
    "PricePerUnit",
    "Currency",
    "RelatedTo",
    "LeaseContractLength",
    "PurchaseOption",
    "OfferingClass",
    "Product Family",
    "serviceCode",
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
PLAN_COLUMNS = [
    "SKU",
    "RateCode",
    "Unit",
    "EffectiveDate",
    "DiscountedRate",
    "Currency",
    "DiscountedSKU",
    "DiscountedServiceCode",
    "DiscountedUsageType",
    "DiscountedOperation",
    "PurchaseOption",
    "LeaseContractLength",
    "LeaseContractLengthUnit",
    "ServiceCode",
    "UsageType",
    "Operation",
    "Description",
    "Instance Family",
    "Location",
    "Location Type",
    "Granularity",
    "Product Family",
    "DiscountedRegionCode",
    "DiscountedInstanceType",
]
TEXT = "This pricing list is for informational purposes only. All prices are subject to additional terms."


def quoted(cells: dict[str, str], columns: tuple[str, ...]) -> str:
    return ",".join(f'"{cells.get(column, "")}"' for column in columns)


def ec2_row(kind: str, price: str, **over: str) -> dict[str, str]:
    return {
        "SKU": f"{kind}-SKU",
        "OfferTermCode": "JRTCKXETXF",
        "TermType": "OnDemand",
        "Unit": "Hrs",
        "PricePerUnit": price,
        "Currency": "USD",
        "Product Family": "Compute Instance",
        "serviceCode": "AmazonEC2",
        "Instance Type": kind,
        "Tenancy": "Shared",
        "Operating System": "Linux",
        "CapacityStatus": "Used",
        "Pre Installed S/W": "NA",
        "MarketOption": "OnDemand",
    } | {name.replace("_", " "): value for name, value in over.items()}


def reserved(
    kind: str, hourly: str | None, upfront: str | None, lease: str, option: str, **over: str
) -> list[dict[str, str]]:
    """The lines of one reserved offer: its payment upfront, its price per hour."""
    both = {
        "TermType": "Reserved",
        "LeaseContractLength": lease,
        "PurchaseOption": option,
        "OfferingClass": "standard",
        "OfferTermCode": f"{lease}{option}",
    } | over
    lines = []
    if upfront is not None:
        fee = ec2_row(kind, upfront, **both)
        lines.append(fee | {"Unit": "Quantity", "PriceDescription": "Upfront Fee"})
    if hourly is not None:
        lines.append(ec2_row(kind, hourly, **both))
    return lines


def ec2_file(*rows: dict[str, str]) -> str:
    head = [
        '"FormatVersion","v1.0"',
        f'"Disclaimer","{TEXT}"',
        '"Publication Date","2026-11-28T19:42:03Z"',
        '"Version","20261128194203"',
        '"OfferCode","AmazonEC2"',
        quoted({column: column for column in EC2_COLUMNS}, EC2_COLUMNS),
    ]
    return "\n".join([*head, *(quoted(row, EC2_COLUMNS) for row in rows), ""])


def plan_row(kind: str, rate: str, **over: str) -> dict[str, str]:
    """A rate of the Compute Savings Plan of one year with nothing upfront, in Virginia."""
    return {
        "SKU": "BB7BKBSC6NZW7P5B",
        "Unit": "Hrs",
        "EffectiveDate": "2026-11-28T07:36:03Z",
        "DiscountedRate": rate,
        "Currency": "USD",
        "DiscountedServiceCode": "AmazonEC2",
        "DiscountedUsageType": f"BoxUsage:{kind}",
        "DiscountedOperation": "RunInstances",
        "PurchaseOption": "No Upfront",
        "LeaseContractLength": "1",
        "LeaseContractLengthUnit": "year",
        "ServiceCode": "ComputeSavingsPlans",
        "UsageType": "ComputeSP:1yrNoUpfront",
        "Description": "1 year No Upfront Compute Savings Plan",
        "Product Family": "ComputeSavingsPlans",
        "DiscountedRegionCode": "us-east-1",
        "DiscountedInstanceType": kind,
    } | over


def plan_file(*rows: dict[str, str]) -> str:
    head = [
        "FormatVersion,v1.0",
        f"Disclaimer,{TEXT}",
        "Publication Date,2026-11-28T19:42:03Z",
        "Version,20261128194203",
        "OfferCode,AWSComputeSavingsPlan",
        ",".join(PLAN_COLUMNS),
    ]
    lines = [",".join(row.get(column, "") for column in PLAN_COLUMNS) for row in rows]
    return "\n".join([*head, *lines, ""])


def answer_json(value: Any) -> Answer:
    return body(json.dumps(value), Content_Type="application/json")


INDEX = "/savingsPlan/v1.0/aws/AWSComputeSavingsPlan/current/region_index.json"


def serve_aws(server: Loopback, monkeypatch: Any, offers: str, plans: dict[str, str]) -> None:
    """Serve one offer file for every region, and the savings plans of the regions named."""
    regions = ("us-east-1", "us-west-2")
    for region in regions:
        server.answers[f"/offers/{region}/index.csv"] = body(offers)
    server.answers["/region_index.json"] = answer_json(
        {
            "regions": {
                r: {"regionCode": r, "currentVersionUrl": f"/offers/{r}/index.json"}
                for r in regions
            }
        }
    )
    server.answers[INDEX] = answer_json(
        {
            "disclaimer": TEXT,
            "publicationDate": "2026-11-28T19:42:03Z",
            "regions": [
                {
                    "regionCode": region,
                    "versionUrl": f"/savingsPlan/v1.0/aws/AWSComputeSavingsPlan/2026/{region}/index.json",
                }
                for region in plans
            ],
        }
    )
    for region, text in plans.items():
        path = f"/savingsPlan/v1.0/aws/AWSComputeSavingsPlan/2026/{region}/index.csv"
        server.answers[path] = body(text)
    monkeypatch.setenv("MELANGE_SKY_AWS_URL", f"{server.url}/region_index.json")
