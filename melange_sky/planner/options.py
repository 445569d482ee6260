"""From priced offers to deployment options: which are usable, and why the others are not."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melange_sky.accelerators import accelerator_table
from melange_sky.capacities import DeploymentOption, OptionCapacity
from melange_sky.names.accelerators import names_of
from melange_sky.offers import accelerator_spec_text, gpu_of
from melange_sky.planner.instance_splits import SplitRules, instance_splits, misfit_notes
from melange_sky.plans import PlanWarning
from melange_sky.profiles import CapacityLookup, CapacityQuery, table_notes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from melange_sky.offers import Offer, ReservedNodes
    from melange_sky.parallelism import Parallelism
    from melange_sky.profiles import ReplicaCapacity
    from melange_sky.spec import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferRules:
    """What keeps an offer out of a plan.

    `kinds` are the `use_spot` values to plan with. `closed_clouds` maps a cloud on which SkyServe
    cannot run replicas to the reason. With `regions` True every region's offer is kept, because a limit
    or a share names regions or clouds; else the cheapest region of an instance type stands for all.
    """

    kinds: tuple[bool, ...] = (False,)
    allow_flagged: bool = False
    closed_clouds: Mapping[str, str] = field(default_factory=dict)
    regions: bool = False


Sold = tuple[str, str, str, float]
"""What a cloud sells, whatever the region: cloud, instance type, accelerator, count."""


def _sold(offer: Offer) -> Sold:
    return offer.cloud, offer.instance_type, offer.accelerator, offer.accelerator_count


@dataclass(slots=True)
class _Rejections:
    """Counts the offers that were left out, by reason, with a few examples to show."""

    reasons: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    unpriced: dict[tuple[str, bool], set[Sold]] = field(default_factory=lambda: defaultdict(set))

    def add(self, code: str, reason: str, offer: Offer) -> None:
        self.reasons[code, reason].append(f"{offer.cloud}/{offer.region} {offer.instance_type}")

    def add_unpriced(self, kind: str, offer: Offer) -> None:
        """Note an offer without a price of this kind: warned of only where no other region has one."""
        spot_only = bool(
            kind != _kind(True) and offer.spot_usd_per_hour and not offer.blocked(True)
        )
        self.unpriced[kind, spot_only].add(_sold(offer))

    def keep_unpriced(self, kind: str, usable: Iterable[Offer]) -> None:
        """Forget those that are sold elsewhere on the same cloud."""
        sold = {_sold(offer) for offer in usable}
        self.unpriced[kind, True] -= sold
        self.unpriced[kind, False] -= sold | self.unpriced[kind, True]

    def warnings(self) -> list[PlanWarning]:
        rows = [
            PlanWarning(
                code="not-sold",
                message=(
                    "only a spot price is known (use_spot: true plans with it), so left out: "
                    if spot_only
                    else f"no {kind} price, so left out: "
                )
                + ", ".join(
                    f"{cloud} {instance_type} ({accelerator_spec_text(name, int(count))})"
                    for cloud, instance_type, name, count in sorted(offers)
                ),
            )
            for (kind, spot_only), offers in self.unpriced.items()
            if offers
        ]
        for (code, reason), where in self.reasons.items():
            more = f" and {len(where) - 3} more" if len(where) > 3 else ""
            rows.append(
                PlanWarning(code=code, message=f"{reason}: {', '.join(sorted(where)[:3])}{more}")
            )
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedOffer:
    """An offer to plan with, and the other regions that may stand in for its own.

    `use_spot` says which of its prices. `pinned` True where the plan counts on this very region, which is then part of the option's name.
    `reserved` nodes are the reason to keep to their zone.
    """

    offer: Offer
    use_spot: bool = False
    fallbacks: tuple[Offer, ...] = ()
    pinned: bool = False
    reserved: ReservedNodes | None = None

    @property
    def price_usd_per_hour(self) -> float:
        """What one instance is billed."""
        price = self.offer.price(self.use_spot)
        assert price is not None  # usable_offers lets no other pass
        return price


def usable_offers(
    offers: Iterable[Offer], resources: Resources, rules: OfferRules
) -> tuple[list[PlannedOffer], list[PlanWarning]]:
    """Return the offers that the spec asks for and that may be planned, and why others may not."""
    rejected = _Rejections()
    wanted = [offer for offer in offers if _is_wanted(offer, resources)]
    planned: list[PlannedOffer] = []
    for use_spot in rules.kinds:
        usable = [offer for offer in wanted if not _reject(offer, use_spot, rules, rejected)]
        rejected.keep_unpriced(_kind(use_spot), usable)
        if rules.regions:
            planned += [PlannedOffer(offer=o, use_spot=use_spot, pinned=True) for o in usable]
        else:
            planned += _merge_regions(usable, use_spot)
    return planned, rejected.warnings()


def _is_wanted(offer: Offer, resources: Resources) -> bool:
    if resources.accelerators and not any(
        offer.accelerator in names_of(choice.name)
        and choice.count in (None, offer.accelerator_count)
        for choice in resources.accelerators
    ):
        return False
    return not resources.infra or any(
        place.cloud == offer.cloud and place.region in (None, offer.region)
        for place in resources.infra
    )


def _reject(offer: Offer, use_spot: bool, rules: OfferRules, rejected: _Rejections) -> bool:
    if not float(offer.accelerator_count).is_integer():  # NaN, too, where a cell is unreadable
        rejected.add("fractional-gpu", "a replica needs whole GPUs", offer)
        return True
    if offer.cloud in rules.closed_clouds:
        rejected.add("closed-cloud", rules.closed_clouds[offer.cloud], offer)
        return True
    if gpu_of(offer) not in accelerator_table():
        rejected.add("unknown-accelerator", f"no data for accelerator {offer.accelerator}", offer)
        return True
    blocking = offer.blocked(use_spot)
    if any(flag.code == "price-missing" for flag in blocking):
        rejected.add_unpriced(_kind(use_spot), offer)
        return True
    if offer.accelerator_count < 1 or (blocking and not rules.allow_flagged):
        code = blocking[0].code if blocking else "impossible-count"
        rejected.add("flagged-price", f"price excluded ({code})", offer)
        return True
    price = offer.price(use_spot)
    if price is None or price <= 0:
        if not blocking:
            rejected.add_unpriced(_kind(use_spot), offer)
        return True
    return False


def _kind(use_spot: bool) -> str:
    return "spot" if use_spot else "on demand"


def _merge_regions(offers: Iterable[Offer], use_spot: bool) -> list[PlannedOffer]:
    """Let the cheapest region of an instance type stand for it, the others as its fallbacks.

    Ties in price go to the first region by name; fallbacks are sorted by name.
    """
    groups: dict[tuple[str, str, str, float], list[Offer]] = defaultdict(list)
    for offer in offers:
        groups[offer.cloud, offer.instance_type, offer.accelerator, offer.accelerator_count].append(
            offer
        )
    merged = []
    for _, group in sorted(groups.items()):
        best = min(group, key=lambda o: (o.price(use_spot) or 0.0, o.region))
        others = sorted((o for o in group if o is not best), key=lambda o: o.region)
        merged.append(PlannedOffer(offer=best, use_spot=use_spot, fallbacks=tuple(others)))
    return merged


def option_name(planned: PlannedOffer, split: Parallelism, form: str | None = None) -> str:
    """Return a name that is unique in a plan and the same in the next one.

    It says accelerator, count, cloud, instance type, the region or zone where the plan counts on it (else a
    price move between regions would rename the service), the split where that can vary, and the form of
    the model where there are several.
    """
    offer = planned.offer
    place = offer.region if planned.pinned else ""
    parts = [
        offer.accelerator,
        f"{offer.accelerator_count:g}",
        offer.cloud,
        place if planned.reserved is None else planned.reserved.zone,
        offer.instance_type,
    ]
    if offer.accelerator_count > 1 or split.nodes > 1:
        parts.append(split.label)
    if split.nodes > 1:
        parts.append(f"{split.nodes}nodes")
    if planned.use_spot:
        parts.append("spot")
    parts.append(form or "")
    return "-".join(part for part in parts if part).lower().replace("/", "-").replace(" ", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltOptions:
    """Options with their capacities, what is to be told of them, and the lookup that capacities come from."""

    options: tuple[OptionCapacity, ...]
    warnings: list[PlanWarning]
    lookup: CapacityLookup


def build_options(
    offers: Sequence[PlannedOffer],
    query: CapacityQuery,
    rules: SplitRules | None = None,
    *,
    form: str | None = None,
) -> BuiltOptions:
    """Return every option with its capacities: each offer × each sensible split.

    Accelerators on which the model does not fit come back as warnings with the memory missing, splits
    left out and profile tables that need a word as warnings too. `form` names the form of the model
    where there are several. The lookup can simulate what is only bounded.
    """
    rules = rules or SplitRules()
    splits = instance_splits(query, (planned.offer for planned in offers), rules)
    flat = splits.flat
    lookup = CapacityLookup(query, flat)
    replicas = dict(zip(flat, lookup.capacities(flat), strict=True))
    options = [
        _option(planned, replicas[shape], form)
        for planned in offers
        for shape in splits.of(planned.offer)
        if replicas[shape].settings is not None
    ]
    notes = [PlanWarning(code="profile", message=text) for text in table_notes(query, flat)]
    return BuiltOptions(
        options=tuple(options),
        warnings=[*misfit_notes(query, splits, replicas, rules), *notes],
        lookup=lookup,
    )


def _option(planned: PlannedOffer, replica: ReplicaCapacity, form: str | None) -> OptionCapacity:
    split = replica.shape.split
    option = DeploymentOption(
        name=option_name(planned, split, form),
        accelerator=planned.offer.accelerator,
        accelerator_count=int(planned.offer.accelerator_count),
        price_usd_per_hour=split.nodes * planned.price_usd_per_hour,
        use_spot=planned.use_spot,
        offer=planned.offer,
        fallbacks=planned.fallbacks,
        engine=replica.settings,
        figures=None
        if replica.shape.accelerator == planned.offer.accelerator
        else replica.shape.accelerator,
        form=form,
        reserved=planned.reserved,
    )
    return OptionCapacity(option=option, cells=replica.cells)
