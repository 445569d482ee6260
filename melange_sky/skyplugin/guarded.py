"""What the guard has against a launch. Pure: the task as data, the plans, the limits, the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.plans import elastic_bounds
from melange_sky.pricing.sanity import age_days
from melange_sky.rendering.clouds import VIRTUAL_INSTANCES
from melange_sky.skyplugin.guard_settings import MODES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from melange_sky.capacities import DeploymentOption
    from melange_sky.offers import Offer
    from melange_sky.plans import Allocation, Plan
    from melange_sky.skyplugin.guard_settings import GuardSettings, Mode

TOLERANCE = 0.01
"""Catalogs round: a price that is higher by less than this is the plan's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of the resources that a task may run on, as SkyPilot reads them; None for what the task leaves open.

    `usd_per_hour` is the price of one instance, None where nobody knows it; `source` says whose price it is.
    `most_usd_per_hour` is the task's own `max_hourly_cost`, which SkyPilot heeds only in part. `is_offered` is
    False where no cloud has such a machine: SkyPilot will say so itself.
    """

    cloud: str | None
    region: str | None
    instance_type: str | None
    accelerators: Mapping[str, float]
    use_spot: bool
    usd_per_hour: float | None
    source: str
    most_usd_per_hour: float | None = None
    is_offered: bool = True

    def may_be(self, place: Offer) -> bool:
        """Return whether this may run on an offer, however it is paid.

        Instance types of one's own hardware only spell out what was asked for: plans have other names for them.
        """
        names = {
            place.accelerator.casefold(),
            (place.catalog_accelerator or place.accelerator).casefold(),
        }
        gpus = {name.casefold(): count for name, count in self.accelerators.items()}
        is_virtual = place.cloud in VIRTUAL_INSTANCES
        return (
            self.cloud == place.cloud
            and (not place.region or self.region in (None, place.region))
            and (is_virtual or self.instance_type in (None, place.instance_type))
            and bool(gpus)
            and set(gpus) <= names
            and set(gpus.values()) == {place.accelerator_count}
        )

    @property
    def text(self) -> str:
        """Return it as a person would say it."""
        gpus = ", ".join(f"{name}:{count:g}" for name, count in self.accelerators.items())
        place = "/".join(part for part in (self.cloud, self.region) if part)
        spot = "spot " if self.use_spot else ""
        kind = " ".join(part for part in (self.instance_type, f"({gpus})" if gpus else "") if part)
        return f"{spot}{kind or 'a machine without GPUs'}{' on ' + place if place else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A task that is about to be launched. `mark` is what a rendered service says of its plan, if it does."""

    name: str
    mark: Mapping[str, str] | None
    replicas: int
    nodes: int
    choices: tuple[Choice, ...]

    @property
    def machines(self) -> int:
        """Instances of the cloud that run at most at the same time."""
        return self.replicas * self.nodes


def objection(
    launch: Launch, plans: Iterable[Plan], limits: GuardSettings, now: datetime
) -> str | None:
    """Return in one sentence what speaks against a launch, None where nothing does.

    A service that bears a fleet's mark is held to the plan of that fleet that allows it most readily; whatever else
    is launched, to the limits.
    """
    found = None
    if launch.mark is not None:
        said = [_against_plan(launch, *one, limits, now) for one in _planned(launch.mark, plans)]
        found = None if None in said else next(iter(said), None)
    return found or _against_limits(launch, limits)


def mode_of(launch: Launch, plans: Iterable[Plan], limits: GuardSettings) -> Mode:
    """Return what is done about a launch: what its fleet's plans say (`guard: launch`), the strictest of them, and
    what config.yaml says where they say nothing or no plan is behind it.
    """
    said = {
        plan.guard.launch
        for plan, _ in _planned(launch.mark or {}, plans)
        if plan.guard.launch is not None
    }
    return next((mode for mode in reversed(MODES) if mode in said), limits.launch)


def doubt(launch: Launch, plans: Iterable[Plan], limits: GuardSettings) -> str | None:
    """Return in one sentence which price nobody knows though something is held against it, None where all are known.

    That is told and refuses nothing: what cannot be priced cannot be too dear either.
    """
    planned = launch.mark is not None and next(iter(_planned(launch.mark, plans)), None) is not None
    for choice in launch.choices:
        held = planned or limits.max_usd_per_hour is not None
        if choice.usd_per_hour is not None or not choice.is_offered:
            continue
        if held or choice.most_usd_per_hour is not None:
            return (
                f"{launch.name}: nobody knows what {choice.text} costs, so it passes without a look at its price; "
                f"{_remedy(choice)}"
            )
    return None


def _remedy(choice: Choice) -> str:
    if choice.cloud is None:
        return "name a cloud, or state kubernetes.pricing in SkyPilot's config.yaml"
    if choice.cloud in VIRTUAL_INSTANCES:
        key = "slurm" if choice.cloud == "slurm" else "kubernetes"
        return f"state {key}.pricing in SkyPilot's config.yaml"
    return "SkyPilot's catalog has no price for it"


def _planned(
    mark: Mapping[str, str], plans: Iterable[Plan]
) -> Iterator[tuple[Plan, Allocation | None]]:
    """Yield the plans of the fleet that made the mark, and what each has of the option; none for an unknown fleet.

    A fleet that changes by the hour has several, each of which may have planned the launch; those that hold
    the option come first.
    """
    fleet = [
        plan for plan in plans if plan.fleet_id is not None and plan.fleet_id == mark.get("id")
    ]
    rows = [(plan, _allocation(mark, plan)) for plan in fleet]
    yield from sorted(rows, key=lambda row: row[1] is None)


def _allocation(mark: Mapping[str, str], plan: Plan) -> Allocation | None:
    for model in plan.models:
        for one in model.allocations:
            if (model.name, one.candidate.option.name) == (mark.get("plan"), mark.get("option")):
                return one
    return None


def _against_plan(
    launch: Launch, plan: Plan, allocation: Allocation | None, limits: GuardSettings, now: datetime
) -> str | None:
    if allocation is None:
        gone = (launch.mark or {}).get("option")
        return f"{launch.name}: the option '{gone}' is not in the plan '{plan.name}' any more"
    option = allocation.candidate.option
    for choice in launch.choices:
        place = _place_of(choice, option)
        if place is None:
            return (
                f"{launch.name} may run on {choice.text}, and the plan '{plan.name}' has "
                f"{option.accelerators} of {_places_text(option.places)} for it"
            )
        if choice.usd_per_hour is None:
            continue
        allowed = option.price_in(place) * _most_replicas(plan, allocation)
        asked = choice.usd_per_hour * launch.machines
        if asked > allowed * (1 + TOLERANCE):
            return (
                f"{launch.name} would cost ${asked:,.2f}/h ({launch.machines} × ${choice.usd_per_hour:,.3f}, "
                f"{choice.source}), and the plan '{plan.name}' allows ${allowed:,.2f}/h for it"
            )
    return _too_old(launch, plan, option.places, limits, now)


def _most_replicas(plan: Plan, allocation: Allocation) -> int:
    """Return the replicas that a plan allows an option: more than planned where SkyServe may move them."""
    elastic = plan.elastic
    bounds = None if elastic is None else elastic_bounds(elastic, allocation, plan.headroom)
    return allocation.instances if bounds is None else bounds.max_replicas


def _place_of(choice: Choice, option: DeploymentOption) -> Offer | None:
    """Return the offer of the plan that a choice is, None for another type, region or way of paying."""
    if choice.use_spot != option.use_spot:
        return None
    return next((place for place in option.places if choice.may_be(place)), None)


def _places_text(places: Sequence[Offer]) -> str:
    return " or ".join(f"{place.cloud}/{place.region} {place.instance_type}" for place in places)


def _too_old(
    launch: Launch, plan: Plan, places: Sequence[Offer], limits: GuardSettings, now: datetime
) -> str | None:
    if limits.max_price_age_days is None:
        return None
    for place in places:
        days = age_days(place.as_of, now)
        if days is None:
            return (
                f"{launch.name}: nobody knows how old the plan's price of {place.instance_type} is"
            )
        if days > limits.max_price_age_days:
            return (
                f"{launch.name}: the price of {place.instance_type} in the plan '{plan.name}' was last known true "
                f"{days:.0f} days ago, and {limits.max_price_age_days:g} are allowed; plan again"
            )
    return None


def _against_limits(launch: Launch, limits: GuardSettings) -> str | None:
    for choice in launch.choices:
        if choice.usd_per_hour is None:
            continue
        if choice.most_usd_per_hour is not None and choice.usd_per_hour > choice.most_usd_per_hour:
            return (
                f"{launch.name}: {choice.text} costs ${choice.usd_per_hour:,.3f}/h ({choice.source}), more than the "
                f"task's own max_hourly_cost of {choice.most_usd_per_hour:g}, which SkyPilot does not heed here"
            )
        asked = choice.usd_per_hour * launch.machines
        if limits.max_usd_per_hour is not None and asked > limits.max_usd_per_hour:
            return (
                f"{launch.name} would cost ${asked:,.2f}/h ({launch.machines} × ${choice.usd_per_hour:,.3f} for "
                f"{choice.text}, {choice.source}), and {limits.max_usd_per_hour:g} are allowed"
            )
    return None
