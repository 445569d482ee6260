"""What stands between the services that run and those that a plan wants. Pure: data in, data out."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError
from melange_sky.plans import RESTARTING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One service that the plan wants: its file's data and what one replica costs now.

    `plan` and `option` are the names under which it is known from plan to plan; `fleet` that of the
    plan of several models, None for a plan of one; `fleet_id` tells it from plans of the same names,
    None in plans of earlier versions. SkyServe's own autoscaler may run up to `most` replicas, `replicas` being
    the fewest; None where they stay as they are.
    """

    name: str
    plan: str
    option: str
    fleet: str | None = None
    fleet_id: str | None = None
    replicas: int
    price_usd_per_hour: float
    document: dict[str, Any]
    most: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """Who made a service: the plan and option in its mark, its fleet, and its owner at SkyPilot.

    All None for what is not known: a service that no plan of ours made has no plan, one of an earlier
    version no `fleet_id`. `owner` is SkyPilot's id of the user, who is known to people as `owner_name`.
    """

    plan: str | None
    option: str | None
    fleet: str | None
    fleet_id: str | None
    owner: str | None
    owner_name: str | None = None

    def __str__(self) -> str:
        whose = "" if self.owner is None else f" of {self.owner_name or self.owner}"
        if self.plan is None:
            return f"no plan{whose}"
        fleet = "an earlier version" if self.fleet_id is None else f"fleet {self.fleet_id}"
        return f"plan '{self.plan}' of {fleet}{whose}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """As whom a fleet is changed: SkyPilot's ids of the user, and whether to take over what others made.

    Without `users` owners are not compared.
    """

    users: frozenset[str] = frozenset()
    adopt: bool = False

    def owns(self, maker: Maker) -> bool:
        """Return whether the owner is this user, or not known."""
        return maker.owner is None or not self.users or maker.owner in self.users


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveReplica:
    """One replica as SkyServe reports it. `launched_at_s` is Unix time, None before it has a node."""

    id: int
    status: str
    version: int
    endpoint: str | None
    launched_at_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveService:
    """One service as SkyServe reports it; `document` is its newest version, as SkyPilot keeps it.

    The document may hold secrets: it is compared and never shown. `written` is that version as it was
    handed to SkyPilot, with mounts as the user gave them; empty where that is not known. `user` and `user_name` are those
    who brought it up, None where SkyPilot does not say.
    """

    name: str
    status: str
    version: int
    endpoint: str | None
    replicas: tuple[LiveReplica, ...]
    document: dict[str, Any] = field(repr=False)
    user: str | None = None
    user_name: str | None = None
    written: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def target(self) -> int:
        """Return how many replicas it is set to keep."""
        policy = self.document.get("service", {}).get("replica_policy", {})
        return int(policy.get("min_replicas", 0))

    @property
    def ready(self) -> int:
        """Return the replicas of the newest version that answer."""
        return sum(r.status == "READY" and r.version == self.version for r in self.replicas)

    @property
    def origin(self) -> tuple[str, str] | None:
        """Return plan and option that made it, None where no plan of ours did."""
        if not {"plan", "option"} <= set(self._mark):
            return None
        return str(self._mark["plan"]), str(self._mark["option"])

    @property
    def fleet(self) -> str | None:
        """Return the plan of several models that it is a part of, None where there is none."""
        fleet = self._mark.get("fleet")
        return None if fleet is None else str(fleet)

    @property
    def maker(self) -> Maker:
        """Return who made it; one that was taken over belongs to whom its mark says."""
        owner = self._mark.get("owner")
        plan, option = self.origin or (None, None)
        return Maker(
            plan=plan,
            option=option,
            fleet=self.fleet,
            fleet_id=None if self._mark.get("id") is None else str(self._mark["id"]),
            owner=self.user if owner is None else str(owner),
            owner_name=self.user_name if owner is None else None,
        )

    @property
    def _mark(self) -> dict[str, Any]:
        mark = (self.document.get("_metadata") or {}).get("melange_sky")
        return mark if isinstance(mark, dict) else {}


class Action(str, Enum):
    """What is done to a service. `REPLACE` changes its replicas' own configuration, `ADJUST` only how
    SkyServe treats them.
    """

    START = "start"
    GROW = "grow"
    ADJUST = "adjust"
    REPLACE = "replace"
    KEEP = "keep"
    SHRINK = "shrink"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceChange:
    """One service before and after. Costs are USD per hour at the plan's prices, None if unknown."""

    name: str
    action: Action
    before: int
    after: int
    cost_before_usd_per_hour: float | None
    cost_after_usd_per_hour: float
    reason: str = ""
    wanted: Wanted | None = None
    maker: Maker | None = None
    """Who had made the service when it was compared, None where there was none."""

    @property
    def lowers(self) -> bool:
        """Return whether there is less of the service afterwards: such changes come last."""
        return self.after < self.before


def compare(
    wanted: Sequence[Wanted],
    live: Iterable[LiveService],
    normal: Mapping[str, dict[str, Any]],
    prices: Mapping[tuple[str, str], float],
    claim: Claim = Claim(),
) -> tuple[ServiceChange, ...]:
    """Return one change per service, in the order of `wanted`, then the services to stop by name.

    `normal` holds each wanted document as SkyPilot would keep it; `prices` what one replica of
    (plan, option) costs, for services that the plan no longer wants, a whole model's among them.
    Services of other fleets and of nobody's plan are left alone, whatever their plan's name; what this
    plan needs of theirs is an InputError, unless `claim` takes it over. One that moves between plans
    of several models and of one is replaced: the mark that tells `apply` and `down` whose it is lies
    where SkyServe compares, and must not tell of the old one.
    """
    running = {service.name: service for service in live}
    changes = [_to_wanted(w, running.get(w.name), normal[w.name], claim) for w in wanted]
    names = {w.name for w in wanted}
    for name in sorted(set(running) - names):
        maker = running[name].maker
        reason = _no_longer(maker, wanted, claim)
        if reason is None:
            continue
        if not claim.owns(maker) and not claim.adopt:
            raise InputError(_taken(name, maker))
        price = prices.get((str(maker.plan), str(maker.option)))
        changes.append(_stop(running[name], price, reason))
    return tuple(changes)


def _no_longer(maker: Maker, wanted: Sequence[Wanted], claim: Claim) -> str | None:
    """Return why a service that is not wanted is to stop, None where it is not this fleet's."""
    if maker.plan is None:
        return None
    ids = {w.fleet_id for w in wanted}
    if maker.fleet_id not in ids and not (claim.adopt and maker.fleet_id is None):
        return None
    if maker.plan in {w.plan for w in wanted}:
        return "the plan no longer uses this option"
    if maker.fleet in {w.fleet for w in wanted} - {None}:
        return f"the plan no longer serves the model {maker.plan}"
    return None


def _taken(name: str, maker: Maker) -> str:
    return (
        f"service '{name}' was made by {maker}, not by this fleet; rename the plan, take it over "
        f"with `melange-sky apply --adopt`, or take it down: sky serve down {name}"
    )


def _to_wanted(
    wanted: Wanted, live: LiveService | None, normal: dict[str, Any], claim: Claim
) -> ServiceChange:
    cost = wanted.replicas * wanted.price_usd_per_hour
    if live is None:
        return ServiceChange(
            name=wanted.name,
            action=Action.START,
            before=0,
            after=wanted.replicas,
            cost_before_usd_per_hour=0.0,
            cost_after_usd_per_hour=cost,
            wanted=wanted,
            reason=_up_to(wanted),
        )
    why = _moves(wanted, live, claim)
    before = live.target
    differing = (*differences(live.document, normal), *_moved_mounts(wanted, live))
    if differing:
        why.insert(0, f"{', '.join(differing)} changed")
    action = _action(before, wanted.replicas, bool(why), live, normal)
    mounts = [key for key in RESTARTING if wanted.document.get(key) or live.document.get(key)]
    if mounts and action not in (Action.KEEP, Action.REPLACE):
        why.append(f"SkyServe keeps no replica at an update with {' or '.join(mounts)}")
        action = Action.REPLACE
    return ServiceChange(
        name=wanted.name,
        action=action,
        before=before,
        after=wanted.replicas,
        cost_before_usd_per_hour=before * wanted.price_usd_per_hour,
        cost_after_usd_per_hour=cost,
        wanted=wanted if is_made_by(live.maker, wanted, claim) else _adopted(wanted, claim),
        maker=live.maker,
        reason=f"{', '.join(why)}: replicas are replaced one by one" if why else _up_to(wanted),
    )


def _up_to(wanted: Wanted) -> str:
    """Say what SkyServe's autoscaler may make of a service, empty where it stays as it is."""
    if wanted.most is None:
        return ""
    cost = wanted.most * wanted.price_usd_per_hour
    return f"SkyServe's autoscaler adds up to {wanted.most - wanted.replicas}: then ${cost:,.3f}/h"


def is_made_by(maker: Maker, wanted: Wanted, claim: Claim) -> bool:
    """Return whether a service of the wanted one's name is that one, and this user's."""
    made = (maker.plan, maker.option, maker.fleet_id)
    return made == (wanted.plan, wanted.option, wanted.fleet_id) and claim.owns(maker)


def _moves(wanted: Wanted, live: LiveService, claim: Claim) -> list[str]:
    """Return what changes of whose it is; raises InputError where that takes an adoption."""
    if not is_made_by(live.maker, wanted, claim):
        if not claim.adopt:
            raise InputError(_taken(wanted.name, live.maker))
        return [f"taken over from {live.maker}"]
    if live.fleet != wanted.fleet:
        return [f"moves from {_home(live.fleet)} to {_home(wanted.fleet)}"]
    return []


def _adopted(wanted: Wanted, claim: Claim) -> Wanted:
    """Return the wanted service with its new owner in its mark: SkyServe keeps who brought it up."""
    document = copy.deepcopy(wanted.document)
    if claim.users:
        document["_metadata"]["melange_sky"]["owner"] = min(claim.users)
    return replace(wanted, document=document)


def _home(fleet: str | None) -> str:
    return "a plan of its own" if fleet is None else f"the plan '{fleet}'"


def _action(
    before: int, after: int, replaced: bool, live: LiveService, normal: dict[str, Any]
) -> Action:
    if replaced:
        return Action.REPLACE
    if before != after:
        return Action.GROW if after > before else Action.SHRINK
    same = live.document.get("service") == normal.get("service")
    return Action.KEEP if same else Action.ADJUST


def _stop(live: LiveService, price: float | None, reason: str) -> ServiceChange:
    return ServiceChange(
        name=live.name,
        action=Action.STOP,
        before=live.target,
        after=0,
        cost_before_usd_per_hour=None if price is None else live.target * price,
        cost_after_usd_per_hour=0.0,
        reason=reason,
        maker=live.maker,
    )


def _moved_mounts(wanted: Wanted, live: LiveService) -> list[str]:
    """Return the mounts that are not those that the running service was given: SkyPilot rewrites them."""
    return [
        key
        for key in RESTARTING
        if (wanted.document.get(key) or None) != (live.written.get(key) or None)
        and (wanted.document.get(key) or live.document.get(key))
    ]


def differences(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys for which SkyServe would replace replicas, sorted; none if it keeps them.

    As its controller compares: everything but `service` and the text that the user wrote, the order
    in `any_of` aside. Nor does the git stamp count here, for an update carries the live one on. Mounts
    are for `_moved_mounts`. Of mappings the keys within are named, such as ``resources.labels``.
    """
    left, right = _replica_part(live), _replica_part(wanted)
    found: list[str] = []
    for key in sorted(left.keys() | right.keys()):
        old, new = left.get(key), right.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            inner = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
            found += [f"{key}.{k}" for k in inner]
        else:
            found.append(key)
    return tuple(found)


def _replica_part(document: Mapping[str, Any]) -> dict[str, Any]:
    skipped = {"service", "_user_specified_yaml", "_metadata", *RESTARTING}
    part = {k: v for k, v in document.items() if k not in skipped and v not in (None, {}, [])}
    resources = dict(part.get("resources") or {})
    if "any_of" in resources:
        resources["any_of"] = sorted(json.dumps(r, sort_keys=True) for r in resources["any_of"])
        part["resources"] = resources
    return part
