"""From the services that run to those that are wanted, without a dip in between.

What grows goes first. Only when all of it answers, and the gateway sends there, does anything shrink
or stop; and only once nothing is in flight at what stops. Each step reads the live state before it
acts, so that a rollout that ended between any two steps is finished by running it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from melange_sky.errors import MelangeError
from melange_sky.skyserve.changes import (
    Action,
    Claim,
    LiveService,
    Maker,
    ServiceChange,
    Wanted,
    is_made_by,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SETTLE_S, _AGAIN = 2.0, 2
"""How soon after an update, and how often at most, it is looked whether replicas were kept."""

_DEAD = {"FAILED", "CONTROLLER_FAILED", "FAILED_CLEANUP"}


Kept = tuple[Wanted, LiveService]
"""What is wanted of a service that keeps its replicas, and the service as it was before its update."""


class RolloutTarget(Protocol):
    """What a rollout asks of SkyServe."""

    def services(self) -> tuple[LiveService, ...]: ...
    def users(self) -> frozenset[str]: ...
    def answers(self, service: LiveService) -> bool: ...
    def start(self, wanted: Wanted) -> None: ...
    def update(self, wanted: Wanted, live: LiveService) -> None: ...
    def stop(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """How a rollout waits: `report` is shown each event, `clock` and `sleep` are seconds.

    `switch` brings the traffic over to the services that it is given, and returns when nothing is sent
    to, or runs at, what the plan no longer uses. It is called again by a rollout that is run again. `early` is
    called once before, as soon as what grows was asked for.
    """

    report: Callable[[str], None]
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    poll_s: float = 5.0
    grace_s: float = 900.0
    """Time to provision a node, on top of the service's own start-up delay."""
    switch: Callable[[Sequence[LiveService]], None] | None = None
    early: Callable[[Sequence[LiveService]], None] | None = None
    claim: Claim = Claim()  # noqa: RUF009 - frozen


def roll_out(server: RolloutTarget, changes: Sequence[ServiceChange], rollout: Rollout) -> None:
    """Carry the changes out. Raises MelangeError where a service fails or does not get ready."""
    growing = [c for c in changes if not c.lowers]
    lowering = [c for c in changes if c.lowers]
    grown = [_apply(server, change, rollout) for change in growing]
    if rollout.early is not None:
        rollout.early(server.services())
    _keep(server, grown, rollout)
    _wait_ready(server, growing, rollout)
    if rollout.switch is not None:
        rollout.switch(server.services())
    _keep(server, [_apply(server, change, rollout) for change in lowering], rollout)
    _wait_ready(server, changes, rollout)


def take_down(server: RolloutTarget, running: Mapping[str, Maker], rollout: Rollout) -> None:
    """Stop services, as long as they are who made them, and wait until SkyServe has forgotten them."""
    for name, maker in running.items():
        _stop(server, name, maker, rollout)
    until = rollout.clock() + rollout.grace_s
    while left := sorted({s.name for s in server.services()} & set(running)):
        if rollout.clock() > until:
            raise MelangeError(f"still running after {rollout.grace_s:g} s: {', '.join(left)}")
        rollout.sleep(rollout.poll_s)


def _apply(server: RolloutTarget, change: ServiceChange, rollout: Rollout) -> Kept | None:
    """Carry a change out; return whose replicas SkyServe is to keep, if any are."""
    wanted = change.wanted
    if wanted is None:
        assert change.maker is not None
        _stop(server, change.name, change.maker, rollout)
        return None
    live = _named(server, change.name)
    if live is None:
        rollout.report(f"{change.name}: starting {wanted.replicas}")
        server.start(wanted)
        return None
    same = live.maker == change.maker or is_made_by(live.maker, wanted, rollout.claim)
    if not same:
        raise MelangeError(_not_ours(change.name, live.maker))
    if change.action in (Action.KEEP, Action.START):
        return None
    rollout.report(f"{change.name}: {change.before} → {wanted.replicas} replicas")
    server.update(wanted, live)
    return None if change.action is Action.REPLACE else (wanted, live)


def _keep(server: RolloutTarget, updated: Sequence[Kept | None], rollout: Rollout) -> None:
    """Update again where SkyServe takes replicas for outdated that an update left as they are.

    SkyServe 0.14 moves them to the new version without its lock: a look at its replicas that began before writes the
    old version back, and within 20 seconds it would start others in their place (`replica_managers.py`,
    `update_version` and `_probe_all_replicas`).
    """
    kept = [one for one in updated if one is not None]
    for _ in range(_AGAIN if kept else 0):
        rollout.sleep(_SETTLE_S)
        now = {service.name: service for service in server.services()}
        kept = [one for one in kept if _left_behind(one[1], now.get(one[0].name))]
        for wanted, _ in kept:
            rollout.report(f"{wanted.name}: SkyServe took what runs for outdated and is told again")
            server.update(wanted, now[wanted.name])
        if not kept:
            return


def _left_behind(before: LiveService, now: LiveService | None) -> bool:
    """Return whether a replica that ran before an update serves, but not as the newest version."""
    if now is None:
        return False
    ran = {r.id for r in before.replicas if r.version == before.version}
    return any(
        r.id in ran and r.status == "READY" and r.version < now.version for r in now.replicas
    )


def _stop(server: RolloutTarget, name: str, maker: Maker, rollout: Rollout) -> None:
    """Stop a service that is still that maker's: its name may be another's by now."""
    live = _named(server, name)
    if live is None:
        return
    if live.maker != maker:
        raise MelangeError(_not_ours(name, live.maker))
    rollout.report(f"{name}: stopping {live.target}")
    server.stop(name)


def _named(server: RolloutTarget, name: str) -> LiveService | None:
    return next((service for service in server.services() if service.name == name), None)


def _not_ours(name: str, maker: Maker) -> str:
    return f"{name}: is now a service of {maker}, and was left alone; look at it, then apply again"


def _wait_ready(server: RolloutTarget, changes: Sequence[ServiceChange], rollout: Rollout) -> None:
    """Wait until every service that the changes want has all its replicas, as they are wanted."""
    wanted = [c.wanted for c in changes if c.wanted is not None]
    if not wanted:
        return
    delays = [w.document["service"]["readiness_probe"]["initial_delay_seconds"] for w in wanted]
    until = rollout.clock() + rollout.grace_s + max(delays)
    states: dict[str, tuple[int, int]] = {}
    while True:
        live = {service.name: service for service in server.services()}
        for w in wanted:
            _check(w.name, live.get(w.name))
            state = (live[w.name].ready, w.replicas)
            if states.get(w.name) != state:
                states[w.name] = state
                rollout.report(f"{w.name}: {state[0]} of {state[1]} ready")
        ready = all(ready >= replicas for ready, replicas in states.values())
        # SkyServe's load balancer hears of ready replicas up to 20 s later than its controller.
        if ready and all(server.answers(live[w.name]) for w in wanted):
            return
        if rollout.clock() > until:
            late = ", ".join(name for name, (ready, wanted) in states.items() if ready < wanted)
            raise MelangeError(
                f"not ready in time: {late or 'a load balancer'}; nothing more was shrunk or stopped. "
                f"Look at `sky serve status` and `sky serve logs`, then apply again"
            )
        rollout.sleep(rollout.poll_s)


def _check(name: str, service: LiveService | None) -> None:
    if service is None:
        raise MelangeError(f"{name}: has disappeared; apply again")
    failed = [r for r in service.replicas if r.status.startswith("FAILED")]
    if service.status in _DEAD or (failed and service.ready == 0 and len(failed) >= service.target):
        raise MelangeError(
            f"{name}: failed ({failed[0].status if failed else service.status}); "
            f"see: sky serve logs {name} {failed[0].id if failed else 1}"
        )
