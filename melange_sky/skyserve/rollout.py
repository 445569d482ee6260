"""From the services that run to those that are wanted, without a dip in between.

What grows goes first; only when all of it answers does anything shrink or stop. Each step reads the
live state before it acts, so that an interrupted rollout is finished by running it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from melange_sky.errors import MelangeError
from melange_sky.skyserve.changes import Action, LiveService, ServiceChange, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DEAD = {"FAILED", "CONTROLLER_FAILED", "FAILED_CLEANUP"}


class RolloutTarget(Protocol):
    """What a rollout asks of SkyServe."""

    def services(self) -> tuple[LiveService, ...]: ...
    def answers(self, service: LiveService) -> bool: ...
    def start(self, wanted: Wanted) -> None: ...
    def update(self, wanted: Wanted, live: LiveService) -> None: ...
    def stop(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """How a rollout waits: `report` is shown each event, `clock` and `sleep` are seconds."""

    report: Callable[[str], None]
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    poll_s: float = 5.0
    grace_s: float = 900.0
    """Time to provision a node, on top of the service's own start-up delay."""


def roll_out(server: RolloutTarget, changes: Sequence[ServiceChange], rollout: Rollout) -> None:
    """Carry the changes out. Raises MelangeError where a service fails or does not get ready."""
    growing = [c for c in changes if not c.lowers]
    for change in growing:
        _apply(server, change, rollout)
    _wait_ready(server, [c.wanted for c in growing if c.wanted is not None], rollout)
    for change in changes:
        if change.lowers:
            _apply(server, change, rollout)


def take_down(server: RolloutTarget, names: Sequence[str], rollout: Rollout) -> None:
    """Stop services and wait until SkyServe has forgotten them."""
    for name in names:
        rollout.report(f"{name}: stopping")
        server.stop(name)
    until = rollout.clock() + rollout.grace_s
    while left := sorted({s.name for s in server.services()} & set(names)):
        if rollout.clock() > until:
            raise MelangeError(f"still running after {rollout.grace_s:g} s: {', '.join(left)}")
        rollout.sleep(rollout.poll_s)


def _apply(server: RolloutTarget, change: ServiceChange, rollout: Rollout) -> None:
    live = {service.name: service for service in server.services()}.get(change.name)
    wanted = change.wanted
    if wanted is None:
        if live is not None:
            rollout.report(f"{change.name}: stopping {change.before}")
            server.stop(change.name)
    elif live is None:
        rollout.report(f"{change.name}: starting {wanted.replicas}")
        server.start(wanted)
    elif change.action is not Action.KEEP:
        rollout.report(f"{change.name}: {change.before} → {wanted.replicas} replicas")
        server.update(wanted, live)


def _wait_ready(server: RolloutTarget, wanted: Sequence[Wanted], rollout: Rollout) -> None:
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
                f"not ready in time: {late}; nothing was shrunk or stopped. Look at "
                f"`sky serve status` and `sky serve logs`, then apply again"
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
