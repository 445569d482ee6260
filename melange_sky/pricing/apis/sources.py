"""The provider APIs by the names that `--source` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, did_you_mean
from melange_sky.names.clouds import regions_of
from melange_sky.pricing.apis.aws_bulk import DEFAULT_REGIONS, AwsBulk
from melange_sky.pricing.apis.azure_retail import AzureRetail
from melange_sky.pricing.apis.cyclenerd import Cyclenerd
from melange_sky.pricing.apis.gcp_billing import GcpBilling
from melange_sky.pricing.apis.runpod import RunPod
from melange_sky.pricing.apis.vast import Vast

if TYPE_CHECKING:
    from melange_sky.pricing.apis import PriceApi

Regions = tuple[str, ...] | None
"""The only regions to ask for, None for all."""

_APIS: dict[str, Callable[[Regions], PriceApi]] = {
    "aws": lambda regions: AwsBulk(regions=regions or DEFAULT_REGIONS),
    "azure": lambda regions: AzureRetail(regions=regions),
    "cyclenerd": lambda _: Cyclenerd(),
    "gcp": lambda _: GcpBilling(),
    "runpod": lambda _: RunPod(),
    "vast": lambda _: Vast(),
}
"""Every provider API by the name that `--source` takes: a new one is a file and a line here."""

SOURCES = ("catalog", *_APIS)


def find_apis(
    sources: tuple[str, ...], infra: tuple[tuple[str, str | None], ...]
) -> tuple[PriceApi, ...]:
    """Return the APIs of the sources named; `catalog` stands for the hosted catalogs.

    The regions of `infra` limit what they are asked for. Raises InputError for an unknown name, and for
    two sources of one cloud.
    """
    problems = [
        f"unknown price source '{name[:80]}'{did_you_mean(name, SOURCES)}; known: {', '.join(SOURCES)}"
        for name in sources
        if name not in SOURCES
    ]
    if problems:
        raise InputError(*problems)
    apis = tuple(_make(name, infra) for name in dict.fromkeys(sources) if name != "catalog")
    for cloud in {api.cloud for api in apis}:
        names = [api.name for api in apis if api.cloud == cloud]
        if len(names) > 1:
            raise InputError(f"{' and '.join(names)} both list {cloud}: name one of these sources")
    return apis


def _make(name: str, infra: tuple[tuple[str, str | None], ...]) -> PriceApi:
    regions = regions_of(infra, name)
    return _APIS[name](None if regions is None else tuple(sorted(regions)))
