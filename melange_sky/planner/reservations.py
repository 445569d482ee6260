"""What the reservations that SkyPilot is configured to use mean for a plan: their free nodes are paid for.

SkyPilot's optimizer prices a free reserved node at $0. Where its configuration turns that on and the network
is allowed, it is asked how many are free; a plan counts so many instances as paid, as options of their own
that keep to the zone of the reservation.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melange_sky import settings
from melange_sky.constraints import InstanceGroup
from melange_sky.errors import InputError
from melange_sky.names.accelerators import names_of
from melange_sky.offers import ReservedNodes
from melange_sky.planner.clock import created_at
from melange_sky.planner.options import PlannedOffer
from melange_sky.plans import PlanWarning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from melange_sky.offers import Offer
    from melange_sky.optimizer import Demand
    from melange_sky.planner.request import PlanRequest
    from melange_sky.skyserve.free_nodes import FreeNodesFound, Sold
    from melange_sky.skyserve.reservations import Reservations

CODE = "reservations"
SHOWN = 4
KEPT_S = 300.0
"""How long an answer stands, as SkyPilot keeps its own."""

_ATTACHED = ("n1-",)
"""GCP's machines that GPUs are attached to: SkyPilot counts their reservations whatever GPU these hold."""

log = logging.getLogger(__name__)
_kept: dict[tuple[Sold, ...], tuple[float, str, FreeNodesFound]] = {}


def reserved_offers(
    offers: Sequence[PlannedOffer], fixed: Sequence[InstanceGroup], request: PlanRequest
) -> tuple[list[PlannedOffer], list[PlanWarning]]:
    """Return free reserved nodes as offers that keep to their zone, and what to tell of reservations.

    Never fails: a configuration that cannot be read, or a question without answer, is told of and counts
    none. What `fixed` groups state is not asked for again.
    """
    if request.reserved is not None:
        return list(_planned(offers, request.reserved)), []
    if not settings.sky_config_files():
        return [], []
    from melange_sky.skyserve.reservations import configured_reservations  # for those who have some

    try:
        configured = configured_reservations()
    except InputError as error:
        return [], [PlanWarning(code=CODE, message=str(error))]
    found: list[PlannedOffer] = []
    notes = []
    asked = _Question(offers=offers, fixed=fixed, configured=configured)
    if not settings.is_offline(request.prices.offline):
        asked.ask()
    for held in configured:
        types = sorted({o.instance_type for o in _on_demand(offers) if o.cloud == held.cloud})
        if types:
            free = asked.free.get(held.cloud, [])
            found += _planned(offers, free)
            notes.append(PlanWarning(code=CODE, message=asked.message(held, types)))
    return found, notes


def groups_of(demands: Iterable[Demand]) -> tuple[InstanceGroup, ...]:
    """Return the reserved nodes that options were made of, as instances that are paid for."""
    options = [capacity.option for demand in demands for capacity in demand.options]
    groups = {
        InstanceGroup(
            accelerator=option.accelerator,
            accelerator_count=option.accelerator_count,
            cloud=option.reserved.cloud,
            region=option.reserved.region,
            zone=option.reserved.zone,
            instance_type=option.reserved.instance_type,
            instances=option.reserved.nodes,
        )
        for option in options
        if option.reserved is not None
    }
    return tuple(sorted(groups, key=repr))


@dataclass(slots=True, kw_only=True)
class _Question:
    """What SkyPilot is asked, and its answer: free nodes by cloud, what failed by cloud, and when."""

    offers: Sequence[PlannedOffer]
    fixed: Sequence[InstanceGroup]
    configured: Sequence[Reservations]
    at: str | None = None
    free: dict[str, list[ReservedNodes]] = field(default_factory=lambda: defaultdict(list))
    failures: dict[str, str] = field(default_factory=dict)

    def ask(self) -> None:
        """Ask for what is on offer and not stated as paid for."""
        from melange_sky.skyserve.free_nodes import Sold

        clouds = {held.cloud for held in self.configured}
        places = {
            Sold(cloud=offer.cloud, instance_type=offer.instance_type, region=offer.region)
            for offer in _on_demand(self.offers)
            if offer.cloud in clouds
            and not offer.instance_type.startswith(_ATTACHED)
            and not any(_states(group, offer) for group in self.fixed)
        }
        if not places:
            return
        self.at, found = _asked(tuple(sorted(places)))
        self.failures = dict(found.failures)
        for nodes in found.free:
            self.free[nodes.sold.cloud].append(
                ReservedNodes(
                    cloud=nodes.sold.cloud,
                    region=nodes.sold.region,
                    zone=nodes.zone,
                    instance_type=nodes.sold.instance_type,
                    nodes=sum(count for _, count in nodes.nodes),
                    names=tuple(name for name, _ in nodes.nodes),
                    as_of=self.at,
                )
            )

    def message(self, held: Reservations, types: list[str]) -> str:
        """Return what is to be told of the reservations on one cloud."""
        names = ", ".join(held.names[:SHOWN]) + (" …" if len(held.names) > SHOWN else "")
        which = (
            f"{names}{' and any open one' if held.prioritize else ''}" if names else "any open one"
        )
        more = f" and {len(types) - SHOWN} more" if len(types) > SHOWN else ""
        return (
            f"SkyPilot is configured to use reservations on {held.cloud} ({which}; {', '.join(held.files)}): each "
            f"free node of them costs it $0 and is taken first, on demand alone ({', '.join(types[:SHOWN])}{more}); "
            + "; ".join(self._counted(held.cloud))
        )

    def _counted(self, cloud: str) -> Iterator[str]:
        stated = [g for g in self.fixed if g.cloud in (None, cloud)]
        if stated:
            labels = ", ".join(group.label() for group in stated)
            yield f"this plan counts as paid what resources.fixed states ({labels})"
        if self.at is None:
            if not stated:
                yield (
                    "how many are free only the cloud tells, so this plan counts the full price; state what you hold "
                    "under resources.fixed (accelerators, infra, instances) to have it counted as paid"
                )
            return
        free = self.free.get(cloud, [])
        if free:
            held = ", ".join(nodes.label() for nodes in free[:SHOWN])
            more = f" and {len(free) - SHOWN} zones more" if len(free) > SHOWN else ""
            yield (
                f"reserved, free now, asked of SkyPilot at {self.at}: {held}{more}, which this plan counts as paid; nodes "
                "that a running fleet holds are not free, so keep the next plan's by resources.fixed"
            )
        if cloud in self.failures:
            yield (
                f"SkyPilot could not say{' all of' if free else ''} how many are free ({self.failures[cloud]}), so "
                f"{'no other' if free else 'none'} is counted"
            )
        elif not free:
            yield f"none is free, asked of SkyPilot at {self.at}"


def _asked(places: tuple[Sold, ...]) -> tuple[str, FreeNodesFound]:
    """Return when SkyPilot was asked and what it said; an answer stands for a while."""
    from melange_sky.skyserve.free_nodes import ask_free_nodes

    kept = _kept.get(places)
    if kept is None or time.monotonic() - kept[0] > KEPT_S:
        log.info("asking SkyPilot for free reserved nodes of %d instance types", len(places))
        at = created_at()
        found = ask_free_nodes(places)
        kept = _kept[places] = time.monotonic(), at, found
    return kept[1], kept[2]


def _on_demand(offers: Iterable[PlannedOffer]) -> Iterator[Offer]:
    """Yield every place that is planned on demand: no reservation serves spot instances."""
    for planned in offers:
        if not planned.use_spot:
            yield planned.offer
            yield from planned.fallbacks


def _states(group: InstanceGroup, offer: Offer) -> bool:
    """Return whether a group that the spec states may be of the offer's instances."""
    return (
        offer.accelerator in names_of(group.accelerator)
        and group.accelerator_count in (None, offer.accelerator_count)
        and group.cloud in (None, offer.cloud)
        and group.region in (None, offer.region)
    )


def _planned(
    offers: Sequence[PlannedOffer], free: Iterable[ReservedNodes]
) -> Iterator[PlannedOffer]:
    by_place: dict[tuple[str, str, str], list[ReservedNodes]] = defaultdict(list)
    for nodes in free:
        by_place[nodes.cloud, nodes.region, nodes.instance_type].append(nodes)
    for offer in _on_demand(offers):
        for nodes in by_place.get((offer.cloud, offer.region, offer.instance_type), ()):
            yield PlannedOffer(offer=offer, pinned=True, reserved=nodes)
