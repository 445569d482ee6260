"""GCP's prices and commitments as a public project collects them every day, no key: `pricing.yml`, Apache-2.0.

https://github.com/Cyclenerd/google-cloud-pricing-cost-calculator (read 2026). Per machine type and region: `hour`,
`hour_spot`, and `month_1y`, `month_3y`, a month of a resource commitment, /730 h. Prices are of whole machines, the
local SSD that comes with one included. `about.timestamp` says when GCP's own list was read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from melange_sky.commitments import HOURS_PER_MONTH
from melange_sky.errors import SourceUnavailableError
from melange_sky.pricing.apis import Listing
from melange_sky.pricing.apis.accumulator import PriceAccumulator, number
from melange_sky.pricing.apis.gcp_billing import MACHINES, resource_commitment
from melange_sky.pricing.commitments.sheet import TermPart, TermSheet
from melange_sky.pricing.fetch import Request
from melange_sky.pricing.http_errors import FetchError
from melange_sky.pricing.store import utc_text
from melange_sky.settings import api_url

if TYPE_CHECKING:
    from melange_sky.pricing.fetch import Body, Http

TERMS = {"month_1y": 8760.0, "month_3y": 26280.0}
"""Fields of a month's price of a commitment, and the hours of its term."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cyclenerd:
    """One file of all machine types and regions."""

    endpoint: str | None = None
    name: str = "cyclenerd"
    cloud: str = "gcp"
    label: str = "GCP's prices as Cyclenerd/google-cloud-pricing-cost-calculator collects them"
    regions: None = None

    @property
    def url(self) -> str:
        """The file's address."""
        return self.endpoint or api_url(
            "cyclenerd",
            "https://raw.githubusercontent.com/Cyclenerd/google-cloud-pricing-cost-calculator/master/pricing.yml",
        )

    async def fetch(self, http: Http, until: float) -> Listing:
        """Return the offers and terms of the machine types that have GPUs."""
        request = Request(
            name=self.cloud, urls=(self.url,), deadline_s=max(0.0, until - time.monotonic())
        )
        content = (await http.fetch(request, _read)).content
        assert content is not None  # without validators nothing is answered with 304
        return content


def _read(body: Body) -> Listing:
    import yaml  # nothing else here needs it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        document = yaml.load(body.file, loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise SourceUnavailableError("the answer is not YAML of prices")
    return read_list(document)


def read_list(document: dict[str, Any]) -> Listing:
    """Return the offers and terms of the parsed file. Raises FetchError where it is no such list."""
    about = _mapping(document, "about")
    instances = _mapping(_mapping(document, "compute"), "instance")
    if not instances:
        raise FetchError("the list has no compute.instance")
    sheet = PriceAccumulator(cloud="gcp", machines=dict(MACHINES))
    terms = TermSheet(cloud="gcp")
    for kind in MACHINES:
        for region, cost in _mapping(_mapping(instances, kind), "cost").items():
            if isinstance(cost, dict):
                _read_cost(str(region), kind, cost, sheet, terms)
    as_of = _read_at(about)
    part = TermPart(name="resource commitments", rows=terms.rows()).priced(sheet.on_demand())
    rows = tuple(replace(row, as_of=as_of, checked_at=as_of) for row in part.rows)
    return Listing(offers=sheet.offers(), terms=(replace(part, rows=rows),), as_of=as_of)


def _read_cost(
    region: str, kind: str, cost: dict[str, Any], sheet: PriceAccumulator, terms: TermSheet
) -> None:
    for field, spot in (("hour", False), ("hour_spot", True)):
        price = number(cost.get(field))
        if price is not None:
            sheet.price(region, kind, round(price, 6), spot=spot)
    for field, hours in TERMS.items():
        month = number(cost.get(field))
        if month is not None:
            terms.add(resource_commitment(region, kind, hours, round(month / HOURS_PER_MONTH, 6)))


def _mapping(value: Any, key: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def _read_at(about: dict[str, Any]) -> str | None:
    """Return when GCP's list was read (ISO 8601), None where the file does not say."""
    seconds = number(about.get("timestamp"))
    if seconds is None:
        return None
    try:
        return utc_text(datetime.fromtimestamp(seconds, timezone.utc))
    except (OverflowError, ValueError, OSError):
        return None
