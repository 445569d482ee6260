"""The offers that a spec may be planned with: prices read, rules asked, and why the others are not usable."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError
from melange_sky.planner.constraints import needs_every_region, price_kinds
from melange_sky.planner.options import OfferRules, usable_offers
from melange_sky.planner.step_log import log_offers
from melange_sky.pricing import load_offers
from melange_sky.rendering import unservable_clouds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.planner.options import PlannedOffer
    from melange_sky.planner.request import PlanRequest
    from melange_sky.plans import PlanWarning
    from melange_sky.pricing import OfferBook, OfferQuery
    from melange_sky.spec import AcceleratorChoice, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundOffers:
    """The offers that a spec may be planned with, what is to be told of them and of others, and their book."""

    offers: tuple[PlannedOffer, ...]
    rejected: tuple[PlanWarning, ...]
    book: OfferBook


def find_offers(spec: Spec, request: PlanRequest) -> FoundOffers:
    """Read prices and return the offers that are usable for a spec.

    Raises InputError, InfeasibleError where no offer is left, SourceUnavailableError.
    """
    book = load_offers(_offer_query(spec, request))
    rules = _offer_rules(spec, request, book)
    offers, rejected = usable_offers(book.offers, spec.resources, rules)
    log_offers(book, offers, rejected)
    if not offers:
        doubts = [w for w in book.warnings if w.code == "price-zero"]
        raise _no_offer(spec, [*rejected, *doubts])
    return FoundOffers(offers=tuple(offers), rejected=tuple(rejected), book=book)


def _offer_rules(spec: Spec, request: PlanRequest, book: OfferBook) -> OfferRules:
    closed = {c: why for c, why in unservable_clouds().items() if c not in book.own_clouds}
    return OfferRules(
        kinds=price_kinds(spec),
        allow_flagged=request.allow_flagged,
        closed_clouds=closed,
        regions=needs_every_region(spec),
    )


def _offer_query(spec: Spec, request: PlanRequest) -> OfferQuery:
    return replace(
        request.prices,
        infra=tuple((place.cloud, place.region) for place in spec.resources.infra),
        accelerators=tuple(sorted({c.name for c in spec.resources.accelerators})),
        own=(*request.prices.own, *spec.offers),
    )


def _no_offer(spec: Spec, rejected: Sequence[PlanWarning]) -> InfeasibleError:
    wanted = ", ".join(spelled(c) for c in spec.resources.accelerators) or "any accelerator"
    where = ", ".join(
        f"{p.cloud}/{p.region}" if p.region else p.cloud for p in spec.resources.infra
    )
    why = "; ".join(w.message for w in rejected) or "no requested cloud sells them"
    kind = "spot" if spec.resources.use_spot else "on demand"
    return InfeasibleError(
        f"{spec.path}: resources: no usable {kind} offer of {wanted} on {where or 'any cloud'} ({why}); "
        "see `melange-sky prices list`"
    )


def spelled(choice: AcceleratorChoice) -> str:
    """Return an entry of `resources.accelerators` as it is written."""
    return choice.name if choice.count is None else f"{choice.name}:{choice.count}"
