"""Which offers are asked for: by cloud, region and accelerator, over tables and lists alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.names.accelerators import accelerator_name, accelerator_names, names_of
from melange_sky.names.clouds import regions_of
from melange_sky.offers import Offer, parse_accelerator
from melange_sky.pricing.tables import Rows, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Priced(Protocol):
    """A cloud's table with the source and date of its fetch."""

    @property
    def table(self) -> Table:
        """The rows."""

    @property
    def source(self) -> str:
        """Where they were read."""

    @property
    def as_of(self) -> str | None:
        """When they were true."""


@dataclass(slots=True, kw_only=True)
class Selection:
    """Infra as (cloud, region or None) pairs and accelerators as NAME or NAME:COUNT; empty for all."""

    infra: tuple[tuple[str, str | None], ...] = ()
    accelerators: tuple[str, ...] = ()
    knows_any: bool = field(default=False, init=False)
    """Whether any asked cloud had any offer at all, matching or not."""
    missing: list[str] = field(default_factory=list, init=False)
    """Regions asked for that no source prices, each as a sentence."""

    def of(
        self, tables: Mapping[str, Priced], listed: Sequence[Offer], own: Sequence[Offer]
    ) -> list[Offer]:
        """Return what matches; an offer of `own` replaces the same instance type in its region.

        Raises InputError for accelerators that nothing here has heard of, and for regions that have
        no prices where nothing else was asked for; beside others such regions end up in `missing`.
        """
        loose = [*listed, *own]
        self.knows_any = bool(self._clouds_of(tables, loose))
        self.missing = self._missing_regions(tables, loose)
        if len(self.missing) == len(self.infra) > 0:
            raise InputError(*self.missing)
        pairs = self._pairs(tables, loose)
        offers: list[Offer] = []
        for cloud, priced in tables.items():
            if not self._asks(cloud):
                continue
            rows = Rows(regions=regions_of(self.infra, cloud), accelerators=pairs)
            offers.extend(priced.table.offers(priced.source, priced.as_of, rows))
        offers.extend(o for o in listed if self._matches(o, pairs))
        if not own:
            return offers
        replaced = {(o.cloud, o.region, o.instance_type) for o in own}
        offers = [o for o in offers if (o.cloud, o.region, o.instance_type) not in replaced]
        return [*offers, *(o for o in own if self._matches(o, pairs))]

    def _asks(self, cloud: str) -> bool:
        return not self.infra or any(cloud == wanted for wanted, _ in self.infra)

    def _matches(self, offer: Offer, pairs: frozenset[tuple[str, float | None]] | None) -> bool:
        regions = regions_of(self.infra, offer.cloud)
        if not self._asks(offer.cloud) or (regions is not None and offer.region not in regions):
            return False
        return pairs is None or bool(
            {(offer.accelerator, None), (offer.accelerator, offer.accelerator_count)} & pairs
        )

    def _clouds_of(self, tables: Mapping[str, Priced], loose: Iterable[Offer]) -> set[str]:
        clouds = {cloud for cloud, priced in tables.items() if priced.table.regions}
        clouds |= {offer.cloud for offer in loose}
        return {cloud for cloud in clouds if self._asks(cloud)}

    def _missing_regions(self, tables: Mapping[str, Priced], loose: Sequence[Offer]) -> list[str]:
        problems = []
        for cloud, region in self.infra:
            if region is None:
                continue
            known = {offer.region for offer in loose if offer.cloud == cloud}
            if cloud in tables:
                known |= tables[cloud].table.regions
            if known and region not in known:
                hint = did_you_mean(region, known)
                problems.append(f"no prices for region '{region[:80]}' of {cloud}{hint}")
        return problems

    def _pairs(
        self, tables: Mapping[str, Priced], loose: Sequence[Offer]
    ) -> frozenset[tuple[str, float | None]] | None:
        if not self.accelerators:
            return None
        known = set(accelerator_names()) | {offer.accelerator for offer in loose}
        for priced in tables.values():
            known |= priced.table.accelerators
        pairs: set[tuple[str, float | None]] = set()
        problems: list[str] = []
        for text in self.accelerators:
            try:
                name, count = parse_accelerator(text)
                pairs |= {(listed, count) for listed in names_of(accelerator_name(name, known))}
            except InputError as error:
                problems += error.problems
            except ValueError:
                problems.append(f"'{clip(text)}' is not an accelerator as NAME or NAME:COUNT")
        if problems:
            raise InputError(*problems)
        return frozenset(pairs)
