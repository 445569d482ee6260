"""What the reservations that SkyPilot is configured to use mean for a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky import settings
from melange_sky.errors import InputError
from melange_sky.plans import PlanWarning

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from melange_sky.constraints import InstanceGroup
    from melange_sky.planner.options import PlannedOffer
    from melange_sky.skyserve.reservations import Reservations

SHOWN = 4


def reservation_notes(
    offers: Sequence[PlannedOffer], fixed: Iterable[InstanceGroup]
) -> list[PlanWarning]:
    """Tell of each configured cloud on which the plan may rent: what SkyPilot counts as free.

    Never fails: a configuration that cannot be read is told of.
    """
    if not settings.sky_config_files():
        return []
    from melange_sky.skyserve.reservations import configured_reservations  # for those who have some

    try:
        configured = configured_reservations()
    except InputError as error:
        return [PlanWarning(code="reservations", message=str(error))]
    notes = []
    for held in configured:
        types = sorted(
            {
                p.offer.instance_type
                for p in offers
                if p.offer.cloud == held.cloud and not p.use_spot
            }
        )
        if types:
            stated = [group for group in fixed if group.cloud in (None, held.cloud)]
            notes.append(PlanWarning(code="reservations", message=_message(held, types, stated)))
    return notes


def _message(held: Reservations, types: list[str], stated: Sequence[InstanceGroup]) -> str:
    names = ", ".join(held.names[:SHOWN]) + (" …" if len(held.names) > SHOWN else "")
    which = f"{names}{' and any open one' if held.prioritize else ''}" if names else "any open one"
    more = f" and {len(types) - SHOWN} more" if len(types) > SHOWN else ""
    counted = ", ".join(group.label() for group in stated)
    rest = (
        f"this plan counts as paid what resources.fixed states ({counted})"
        if counted
        else "how many are free only the cloud tells, so this plan counts the full price; state what you hold "
        "under resources.fixed (accelerators, infra, instances) to have it counted as paid"
    )
    return (
        f"SkyPilot is configured to use reservations on {held.cloud} ({which}; {', '.join(held.files)}): each "
        f"free node of them costs it $0 and is taken first, on demand alone ({', '.join(types[:SHOWN])}{more}); {rest}"
    )
