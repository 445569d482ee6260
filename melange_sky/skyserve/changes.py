"""What stands between the services that run and those that a plan wants. Pure: data in, data out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One service that the plan wants: its file's data and what one replica costs now.

    `plan` and `option` are the names under which it is known from plan to plan; `fleet` that of the
    plan of several models, None for a plan of one.
    """

    name: str
    plan: str
    option: str
    fleet: str | None = None
    replicas: int
    price_usd_per_hour: float
    document: dict[str, Any]


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

    The document may hold secrets: it is compared and never shown.
    """

    name: str
    status: str
    version: int
    endpoint: str | None
    replicas: tuple[LiveReplica, ...]
    document: dict[str, Any] = field(repr=False)

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

    @property
    def lowers(self) -> bool:
        """Return whether there is less of the service afterwards: such changes come last."""
        return self.after < self.before


def compare(
    wanted: Sequence[Wanted],
    live: Iterable[LiveService],
    normal: Mapping[str, dict[str, Any]],
    prices: Mapping[tuple[str, str], float],
) -> tuple[ServiceChange, ...]:
    """Return one change per service, in the order of `wanted`, then the services to stop by name.

    `normal` holds each wanted document as SkyPilot would keep it; `prices` what one replica of
    (plan, option) costs, for services that the plan no longer wants, a whole model's among them.
    Services of other plans and of nobody's plan are left alone; a name taken by one of them is an
    InputError. One that moves between plans of several models and of one is replaced: the mark that
    tells `apply` and `down` whose it is lies where SkyServe compares, and must not tell of the old one.
    """
    plans = {w.plan for w in wanted}
    fleets = {w.fleet for w in wanted} - {None}
    running = {service.name: service for service in live}
    changes = [_to_wanted(w, running.get(w.name), normal[w.name]) for w in wanted]
    names = {w.name for w in wanted}
    for name in sorted(set(running) - names):
        origin = running[name].origin
        if origin is None:
            continue
        if origin[0] in plans:
            reason = "the plan no longer uses this option"
        elif running[name].fleet in fleets:
            reason = f"the plan no longer serves the model {origin[0]}"
        else:
            continue
        changes.append(_stop(running[name], prices.get(origin), reason))
    return tuple(changes)


def _to_wanted(wanted: Wanted, live: LiveService | None, normal: dict[str, Any]) -> ServiceChange:
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
        )
    if live.origin != (wanted.plan, wanted.option):
        raise InputError(
            f"a service named '{wanted.name}' runs that this plan's option did not make; "
            f"rename the plan, or take it down: sky serve down {wanted.name}"
        )
    before = live.target
    differing = differences(live.document, normal)
    why = [f"{', '.join(differing)} changed"] if differing else []
    if live.fleet != wanted.fleet:
        why.append(f"moves from {_home(live.fleet)} to {_home(wanted.fleet)}")
    return ServiceChange(
        name=wanted.name,
        action=_action(before, wanted.replicas, bool(why), live, normal),
        before=before,
        after=wanted.replicas,
        cost_before_usd_per_hour=before * wanted.price_usd_per_hour,
        cost_after_usd_per_hour=cost,
        wanted=wanted,
        reason=f"{', '.join(why)}: replicas are replaced one by one" if why else "",
    )


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
    )


def differences(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys for which SkyServe would replace replicas, sorted; none if it keeps them.

    As its controller compares: everything but `service` and the text that the user wrote, the order
    in `any_of` aside. Nor does the git stamp count here, for an update carries the live one on.
    """
    left, right = _replica_part(live), _replica_part(wanted)
    return tuple(sorted(k for k in left.keys() | right.keys() if left.get(k) != right.get(k)))


def _replica_part(document: Mapping[str, Any]) -> dict[str, Any]:
    skipped = {"service", "_user_specified_yaml", "_metadata"}
    part = {k: v for k, v in document.items() if k not in skipped and v not in (None, {}, [])}
    resources = dict(part.get("resources") or {})
    if "any_of" in resources:
        resources["any_of"] = sorted(json.dumps(r, sort_keys=True) for r in resources["any_of"])
        part["resources"] = resources
    return part
