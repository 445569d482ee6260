"""How a saved plan at today's prices is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from melange_sky.report.price_changes import percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.plans import Allocation, Plan


class AllocationView(Protocol):
    """One allocation at today's price, see `planner.reprice.RepricedAllocation`."""

    @property
    def model(self) -> str: ...
    @property
    def allocation(self) -> Allocation: ...
    @property
    def planned_usd_per_hour(self) -> float: ...
    @property
    def now_usd_per_hour(self) -> float | None: ...
    @property
    def reason(self) -> str | None: ...


class MixPartView(Protocol):
    """One option of the cheapest mix, see `planner.reprice.MixPart`."""

    @property
    def model(self) -> str: ...
    @property
    def option(self) -> str: ...
    @property
    def region(self) -> str | None: ...
    @property
    def instances(self) -> int: ...
    @property
    def price_usd_per_hour(self) -> float: ...


class CostsView(Protocol):
    """The plan then and now, see `planner.reprice.Repriced`."""

    @property
    def planned_usd_per_hour(self) -> float: ...
    @property
    def now_usd_per_hour(self) -> float | None: ...
    @property
    def allocations(self) -> Sequence[AllocationView]: ...


class RepricingView(Protocol):
    """See `planner.reprice.PlanDifference`."""

    @property
    def planned(self) -> Plan: ...
    @property
    def repriced(self) -> CostsView: ...
    @property
    def snapshot(self) -> str | None: ...
    @property
    def cheapest_usd_per_hour(self) -> float | None: ...
    @property
    def cheapest(self) -> Sequence[MixPartView]: ...
    @property
    def late(self) -> str | None: ...
    @property
    def weighs_all(self) -> bool: ...
    @property
    def change_fraction(self) -> float | None: ...
    @property
    def saving_usd_per_hour(self) -> float | None: ...


def repricing_document(repricing: RepricingView) -> dict[str, Any]:
    """Return a plan at today's prices for `--format json`."""
    return {
        "name": repricing.planned.name,
        "planned_at": repricing.planned.created_at,
        "snapshot": repricing.snapshot,
        "planned_usd_per_hour": repricing.repriced.planned_usd_per_hour,
        "now_usd_per_hour": repricing.repriced.now_usd_per_hour,
        "change_fraction": repricing.change_fraction,
        "allocations": [_allocation_row(row) for row in repricing.repriced.allocations],
        "cheapest_now_usd_per_hour": repricing.cheapest_usd_per_hour,
        "cheapest_reason": repricing.late,
        "saving_usd_per_hour": repricing.saving_usd_per_hour,
        "cheapest_mix": [_part_row(part) for part in repricing.cheapest],
        "weighed": "all offers" if repricing.weighs_all else "the plan's options",
    }


def _allocation_row(row: AllocationView) -> dict[str, Any]:
    option = row.allocation.candidate.option
    offer = option.offer
    return {
        "model": row.model,
        "option": option.name,
        "cloud": offer.cloud if offer else None,
        "region": offer.region if offer else None,
        "instance_type": offer.instance_type if offer else None,
        "use_spot": option.use_spot,
        "instances": row.allocation.instances,
        "planned_usd_per_hour": row.planned_usd_per_hour,
        "now_usd_per_hour": row.now_usd_per_hour,
        "reason": row.reason,
    }


def _part_row(part: MixPartView) -> dict[str, Any]:
    return {
        "model": part.model,
        "option": part.option,
        "region": part.region,
        "instances": part.instances,
        "price_usd_per_hour": part.price_usd_per_hour,
    }


def repricing_text(repricing: RepricingView) -> str:
    """Return each allocation then and now, the whole, and the cheapest mix now."""
    planned, repriced = repricing.planned, repricing.repriced
    now = repriced.now_usd_per_hour
    cost = "unknown" if now is None else f"{now:.4f} $/h"
    lines = [
        f"{planned.name}, planned {planned.created_at}",
        *map(_allocation_line, repriced.allocations),
        (
            f"plan: {repriced.planned_usd_per_hour:.4f} $/h then, {cost} now"
            f"{percent(repricing.change_fraction)}"
        ),
        *_mix_lines(repricing),
    ]
    return "".join(f"{line}\n" for line in lines)


def _allocation_line(row: AllocationView) -> str:
    option, moved = row.allocation.candidate.option, row.now_usd_per_hour
    place = f"{option.offer.cloud}/{option.offer.region}" if option.offer else "None/None"
    change = None if moved is None else moved / row.planned_usd_per_hour - 1
    now = f"now unknown ({row.reason})" if moved is None else f"now {moved:.4f}"
    return (
        f"  {row.allocation.instances} x {option.name} in {place}: "
        f"planned {row.planned_usd_per_hour:.4f}, {now} $/h each{percent(change)}"
    )


def _mix_lines(repricing: RepricingView) -> list[str]:
    best, saving = repricing.cheapest_usd_per_hour, repricing.saving_usd_per_hour
    if repricing.late is not None:
        return [f"the cheapest mix now is unknown: {repricing.late}; raise it with --time-limit"]
    if best is None:
        return ["the plan's options cannot serve it at today's offers; plan again"]
    if saving is not None and saving <= 1e-6:
        return ["no other mix is cheaper now"]
    by = "" if saving is None else f", {saving:.4f} $/h less"
    return [
        f"another mix costs {best:.4f} $/h now{by}:",
        *(
            f"  {part.instances} x {part.option} in {part.region}"
            f" at {part.price_usd_per_hour:.4f} $/h each"
            for part in repricing.cheapest
        ),
    ]


def repricing_note(repricing: RepricingView) -> str:
    """Return what the cheapest mix was chosen from, where that is not everything."""
    if repricing.weighs_all:
        return ""
    return "(among the options that the plan considered, under its rules; --spec SPEC considers all offers)\n"
