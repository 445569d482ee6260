"""AWS's terms: reserved instances of the EC2 offer file, and the rates of both savings plans, no credentials.

A reserved instance is two lines of one offer: its payment upfront (unit "Quantity") and its price per hour. The
file of savings plans, one CSV per region, lists for each plan and way to pay the rate of every usage that it
covers. What is not listed there is not covered, capacity blocks never are; those have no price list at all.
https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-bulk-api.html (read 2026).
"""

from __future__ import annotations

import asyncio
import csv
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from melange_sky.commitments import Commitment, term_text
from melange_sky.pricing.commitments.sheet import TermPart, TermSheet
from melange_sky.pricing.fields import read_number
from melange_sky.pricing.http_errors import FetchError, error_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from melange_sky.pricing.fetch import Http

SAVINGS_PLANS = "/savingsPlan/v1.0/aws/AWSComputeSavingsPlan/current/region_index.json"
"""Beside the offer files, on the same host; holds Compute and EC2 Instance Savings Plans."""

UPFRONT = {"No Upfront": 0.0, "Partial Upfront": 0.5, "All Upfront": 1.0}
"""The part of a savings plan that is paid at once, by its way to pay (half is the least of a partial one)."""

YEAR_HOURS = 8760.0
_LINUX_BOX = re.compile(r"(?:[A-Z0-9]+-)?BoxUsage:([a-z0-9-]+\.[a-z0-9]+)\Z")
_PLAN_COLUMNS = (
    "Unit",
    "DiscountedRate",
    "Currency",
    "DiscountedServiceCode",
    "DiscountedUsageType",
    "DiscountedOperation",
    "PurchaseOption",
    "LeaseContractLength",
    "LeaseContractLengthUnit",
    "Product Family",
)


def csv_address(index: str, path: str) -> str:
    """Return the address of the CSV beside a JSON file that an index names. Raises FetchError for another host."""
    url = urljoin(index, path)
    if urlsplit(url).hostname != urlsplit(index).hostname or not path.endswith(".json"):
        raise FetchError("AWS's index points elsewhere")
    return url.removesuffix(".json") + ".csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedTerm:
    """One reserved offer as listed: `offer` are its SKU and term code, `lease` "1yr", `option` the way to pay."""

    region: str
    instance_type: str
    offer: tuple[str, str]
    lease: str
    option: str


@dataclass(slots=True)
class ReservedRows:
    """Puts the two lines of each reserved offer together."""

    _prices: dict[ReservedTerm, dict[str, float]] = field(default_factory=dict)

    def add(self, term: ReservedTerm, unit: str, price: float) -> None:
        """Take one line in; `unit` is "Hrs" or "Quantity" (the payment upfront)."""
        self._prices.setdefault(term, {})[unit] = price

    def parts(
        self, regions: Sequence[str], listed: Mapping[tuple[str, str], float]
    ) -> tuple[TermPart, ...]:
        """Return the reserved terms of each region.

        An offer that lacks one of its two lines is left out: half a price is none.
        """
        sheet = TermSheet(cloud="aws")
        for term, prices in self._prices.items():
            years = read_number(term.lease.removesuffix("yr"))
            whole = "Hrs" in prices and (term.option == "No Upfront" or "Quantity" in prices)
            if years and whole and term.option in UPFRONT:
                sheet.add(
                    Commitment(
                        cloud="aws",
                        region=term.region,
                        instance_type=term.instance_type,
                        term_hours=years * YEAR_HOURS,
                        usd_per_hour=prices["Hrs"],
                        upfront_usd=prices.get("Quantity", 0.0),
                        product=f"standard reserved instance, {term.option.lower()}",
                    )
                )
        whole_list = TermPart(name="reserved instances", rows=sheet.rows())
        return whole_list.priced(listed).by_region(regions)


async def read_savings_plans(
    http: Http, until: float, base: str, regions: Sequence[str], kinds: frozenset[str]
) -> tuple[TermPart, ...]:
    """Return the savings-plan rates of the instance types in `kinds`, a part per region.

    A region that cannot be read is a part with its problem.
    """
    index_url = urljoin(base, SAVINGS_PLANS)
    try:
        index = await http.json(index_url, until)
        listed = index.get("regions") if isinstance(index, dict) else None
        if not isinstance(listed, list):
            raise FetchError("AWS's index of savings plans has no regions")
    except FetchError as error:
        return tuple(_failed(region, str(error)) for region in regions)
    paths = {
        str(entry.get("regionCode")): str(entry.get("versionUrl"))
        for entry in listed
        if isinstance(entry, dict)
    }

    async def one(region: str) -> TermPart:
        try:
            if region not in paths:
                raise FetchError("AWS's index of savings plans does not name it")
            lines = http.lines(csv_address(index_url, paths[region]), until)
            rows = await read_plan_file(lines, region, kinds)
        except FetchError as error:
            return _failed(region, str(error))
        except (ValueError, LookupError, csv.Error) as error:
            return _failed(region, f"its answer cannot be read: {error_text(error)}")
        return TermPart(name="savings plans", region=region, rows=rows)

    return tuple(await asyncio.gather(*map(one, regions)))


def _failed(region: str, problem: str) -> TermPart:
    return TermPart(name="savings plans", region=region, problem=problem)


async def read_plan_file(
    lines: AsyncIterator[bytes], region: str, kinds: frozenset[str]
) -> tuple[Commitment, ...]:
    """Return the rates of one region's file, line by line: Linux on shared hosts.

    Raises FetchError where it is no such file.
    """
    families = sorted({kind.partition(".")[0] for kind in kinds})
    wanted = re.compile(rf"BoxUsage:(?:{'|'.join(map(re.escape, families))})\.".encode())
    sheet = TermSheet(cloud="aws")
    at: dict[str, int] | None = None
    async for line in lines:
        if at is None:
            if line.lstrip(b'"').startswith(b"SKU"):
                at = _plan_columns(line.decode("utf-8", "replace"))
        elif wanted.search(line):
            cells = next(csv.reader([line.decode("utf-8", "replace")]))
            row = _plan_row({name: cells[i] for name, i in at.items() if i < len(cells)}, region)
            if row is not None and row.instance_type in kinds:
                sheet.add(row)
    if at is None:
        raise FetchError(f"AWS's savings plans of {region} have no header")
    return sheet.rows()


def _plan_columns(line: str) -> dict[str, int]:
    header = {name.strip(): i for i, name in enumerate(next(csv.reader([line])))}
    missing = [name for name in _PLAN_COLUMNS if name not in header]
    if missing:
        raise FetchError(f"AWS's file of savings plans lacks the column '{missing[0]}'")
    return header


def _plan_row(cells: Mapping[str, str], region: str) -> Commitment | None:
    box = _LINUX_BOX.match(cells.get("DiscountedUsageType", ""))
    rate = read_number(cells.get("DiscountedRate"))
    years = read_number(cells.get("LeaseContractLength"))
    option = cells.get("PurchaseOption", "")
    family = cells.get("Product Family", "")
    if (
        box is None
        or rate is None
        or not years
        or option not in UPFRONT
        or family not in ("ComputeSavingsPlans", "EC2InstanceSavingsPlans")
        or cells.get("DiscountedOperation") != "RunInstances"
        or cells.get("DiscountedServiceCode") != "AmazonEC2"
        or cells.get("LeaseContractLengthUnit") != "year"
        or (cells.get("Unit"), cells.get("Currency")) != ("Hrs", "USD")
        or (cells.get("DiscountedRegionCode") or region) != region  # local zones are in its file
    ):
        return None
    kind, hours = box.group(1), years * YEAR_HOURS
    upfront = UPFRONT[option]
    name, shared = "Compute Savings Plan", ""
    if family == "EC2InstanceSavingsPlans":
        # of one family of instances in one region
        name, shared = "EC2 Instance Savings Plan", f" {kind.partition('.')[0]} {region}"
    return Commitment(
        cloud="aws",
        region=region,
        instance_type=kind,
        term_hours=hours,
        usd_per_hour=rate * (1 - upfront),
        upfront_usd=rate * upfront * hours,
        kind="spend",
        product=f"{name}, {option.lower()}",
        pool=f"AWS {name}{shared}, {term_text(hours)}, {option.lower()}",
    )
