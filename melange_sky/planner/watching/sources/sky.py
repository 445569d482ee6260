"""What SkyServe says of a fleet: which replicas serve, which start, and how long starts take. Not for `observe`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from melange_sky.errors import MelangeError
from melange_sky.watching.seen import Fault, Seen

if TYPE_CHECKING:
    from melange_sky.planner.watching.holding import Holding
    from melange_sky.planner.watching.starts import StartLog
    from melange_sky.plans import Plan
    from melange_sky.skyserve import LiveService

STARTING = frozenset({"PENDING", "PROVISIONING", "STARTING"})
"""SkyServe's statuses of replicas that do not serve yet (`sky/serve/serve_state.py`)."""


class ServiceRecords(Protocol):
    """SkyServe as far as it is asked here."""

    def services(self) -> tuple[LiveService, ...]: ...


@dataclass(slots=True, kw_only=True)
class SkySource:
    """The services of a fleet of one model. It tells no demand.

    `holding` is what its watcher knows of others: one that has the fleet is a fault, `taken`.
    """

    plan: Plan
    records: ServiceRecords
    holding: Holding | None = None
    starts: StartLog | None = None
    clock: Callable[[], float] = time.time

    def see(self) -> Seen:
        """Return which replicas there are; what SkyServe does not say is a fault."""
        now_s = self.clock()
        try:
            services = self.records.services()
        except MelangeError as error:
            fault = Fault(code="unreachable", message=str(error).splitlines()[0])
            return Seen(time=now_s, faults=(fault,))
        ours = of_fleet(self.plan, services)
        said = None if self.holding is None else self.holding.taken(one for _, one in ours)
        if said is not None:
            return Seen(time=now_s, faults=(Fault(code="taken", message=said),))
        if self.starts is not None:
            self.starts.note(ours, now_s)
        live = {c.option.name: 0 for c in self.plan.models[0].candidates}
        starting: dict[str, int] = {}
        for option, service in ours:
            live[option] = live.get(option, 0) + service.ready
            begun = sum(r.status in STARTING for r in service.replicas)
            coming = max(begun, service.target - service.ready)
            if coming > 0:
                starting[option] = starting.get(option, 0) + coming
        return Seen(time=now_s, live=live, starting=starting)


def of_fleet(plan: Plan, services: tuple[LiveService, ...]) -> list[tuple[str, LiveService]]:
    """Return the services that a plan of one model made, with their options, by name."""
    (model,) = plan.models
    return [
        (str(service.maker.option), service)
        for service in sorted(services, key=lambda one: one.name)
        if service.maker.plan == model.name and service.maker.fleet_id == plan.fleet_id
    ]
