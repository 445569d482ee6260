"""A plan's folder and what runs on SkyServe: what would change, changing it, how it stands."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from melange_sky import settings
from melange_sky.errors import InputError
from melange_sky.planfile import PLAN_FILE, load_plan
from melange_sky.planner.handover import Handover, Waiting, wait_for_gateways
from melange_sky.planner.observed import ObservedTraffic, observed_traffic
from melange_sky.rendering import file_name, service_name
from melange_sky.skyserve import (
    Action,
    Claim,
    LiveService,
    Maker,
    Rollout,
    ServiceChange,
    ServiceState,
    Wanted,
    compare,
    roll_out,
    service_states,
    take_down,
)
from melange_sky.skyserve.client import SkyServe
from melange_sky.skyserve.rollout import RolloutTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from melange_sky.plans import Plan

log = logging.getLogger(__name__)

NO_HANDOVER = Handover()
_FILE_LIMIT = 1_000_000


class ServiceHost(RolloutTarget, Protocol):
    """SkyServe as `apply` needs it: a rollout's server that also knows how it keeps a document."""

    def normal(self, wanted: Wanted, live: LiveService | None) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A plan, the services that its folder holds, and the SkyServe on which they run."""

    planned: Plan
    plan_file: Path
    wanted: tuple[Wanted, ...]
    server: ServiceHost
    adopt: bool = False
    idle: Callable[[float], None] | None = None
    """How a rollout waits so many seconds, None for doing nothing else."""

    def services(self) -> tuple[LiveService, ...]:
        """Return all services that run, of this plan or not."""
        live = self.server.services()
        log.info("SkyServe runs %d services", len(live))
        for service in live:
            log.debug("%s: %s, %d ready", service.name, service.status, service.ready)
        return live

    def changes(self) -> tuple[ServiceChange, ...]:
        """Return what stands between the running services and the plan's, costs at its prices."""
        live = self.services()
        by_name = {service.name: service for service in live}
        normal = {w.name: self.server.normal(w, by_name.get(w.name)) for w in self.wanted}
        changes = compare(self.wanted, live, normal, _prices(self.planned), self._claim())
        for change in changes:
            log.debug("%s: %s %s", change.name, change.action.value, change.reason)
        return changes

    def apply(
        self,
        changes: Sequence[ServiceChange],
        on_event: Callable[[str], None] | None = None,
        handover: Handover = NO_HANDOVER,
        needs: Mapping[str, int] | None = None,
    ) -> None:
        """Carry the changes out; `on_event` gets a sentence at each step.

        What grows is ready before `handover` brings the traffic over, and that is done before anything
        shrinks or stops. `needs` are the replicas by service that the plan itself needs where others grow for later
        ones: if those are ready, traffic is brought over before the others are. Raises MelangeError where a step
        fails.
        """
        rollout = _rollout(on_event, self._claim())
        if self.idle is not None:
            rollout = replace(rollout, sleep=self.idle)
        waiting = Waiting(report=rollout.report, clock=rollout.clock, sleep=rollout.sleep)
        stops = any(change.lowers for change in changes)

        def bring_over(services: Sequence[LiveService], stops: bool) -> None:
            self.write_places(handover, services)
            revisions = handover.revisions(self.plan_file)
            wait_for_gateways(handover, revisions, waiting, stops=stops)

        def early(services: Sequence[LiveService]) -> None:
            ready = {service.name: service.ready for service in services}
            if needs and all(ready.get(name, 0) >= count for name, count in needs.items()):
                bring_over(services, stops=False)

        def switch(services: Sequence[LiveService]) -> None:
            bring_over(services, stops)

        roll_out(self.server, changes, replace(rollout, switch=switch, early=early))

    def _claim(self) -> Claim:
        return Claim(users=self.server.users(), adopt=self.adopt)

    def states(self, services: Sequence[LiveService]) -> tuple[ServiceState, ...]:
        """Return how each planned service stands among those that run."""
        return service_states(self.wanted, services)

    def write_places(self, handover: Handover, services: Sequence[LiveService]) -> None:
        """Write where each option's live service answers, as gateways read it.

        Endpoints are read, never guessed. Raises InputError where a file cannot be written.
        """
        live = {s.name: s for s in services}
        places: dict[str, dict[str, list[str]]] = {w.plan: {} for w in self.wanted}
        serving = {
            (m.name, a.candidate.option.name) for m in self.planned.models for a in m.allocations
        }
        for w in self.wanted:
            service = live.get(w.name)
            if (w.plan, w.option) not in serving:
                continue  # it starts for a later plan
            if service is not None and service.endpoint:
                replicas = max(1, min(service.ready, w.most or w.replicas))
                places[w.plan][w.option] = [f"{service.endpoint}*{replicas}"]
        handover.write(self.plan_file, places)
        log.info("wrote the addresses of %d services", sum(map(len, places.values())))


def open_deployment(
    folder: Path, *, adopt: bool = False, host: ServiceHost | None = None
) -> Deployment:
    """Return the deployment of a plan folder (or of a plan.json with its services next to it).

    `adopt` lets it take over services of its names that another fleet or user made; `host` stands in place
    of SkyServe. Secrets that the services name are taken from the environment. Raises InputError for a folder
    that holds no plan or no service, SourceUnavailableError where SkyPilot is not installed.
    """
    planned = load_plan(folder)
    wanted = wanted_services(planned, folder)
    names = {name for w in wanted for name in w.document.get("secrets") or {}}
    secrets = settings.secrets(names)
    log.info("%s holds %d services of plan %s", folder, len(wanted), planned.name)
    log.debug("secrets set in the environment: %d of %d", len(secrets), len(names))
    return Deployment(
        planned=planned,
        plan_file=folder / PLAN_FILE if folder.is_dir() else folder,
        wanted=wanted,
        server=SkyServe(secrets) if host is None else host,
        adopt=adopt,
    )


def is_settled(changes: Sequence[ServiceChange]) -> bool:
    """Return whether there is nothing to change."""
    return all(change.action is Action.KEEP for change in changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentStatus:
    """The planned services as they stand; `traffic` where it was observed."""

    services: tuple[ServiceState, ...]
    traffic: ObservedTraffic | None = None


def deployment_status(
    folder: Path, *, observed: Path | None = None, handover: Handover = NO_HANDOVER
) -> DeploymentStatus:
    """Return how the services of a plan folder stand on SkyServe.

    `observed` is what `gateway --observed` wrote, to be compared with the plan; `handover` names the
    files to write the services' addresses to.
    """
    deployment = open_deployment(folder)
    traffic = None if observed is None else observed_traffic(deployment.planned, observed)
    services = deployment.services()
    deployment.write_places(handover, services)
    return DeploymentStatus(services=deployment.states(services), traffic=traffic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The running services that a plan made, and who made them; `others` bear its name and are not its."""

    makers: dict[str, Maker]
    others: dict[str, Maker]
    server: RolloutTarget

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the services that the plan made."""
        return tuple(self.makers)

    def stop(self, on_event: Callable[[str], None] | None = None) -> None:
        """Take them down and wait until SkyServe has forgotten them; `on_event` gets a sentence for each."""
        take_down(self.server, self.makers, _rollout(on_event, Claim()))


def find_running(folder: Path) -> Running:
    """Return what runs of the plan in `folder`; of its files only plan.json is read.

    Raises InputError for a folder without a plan, SourceUnavailableError where SkyPilot cannot say.
    """
    planned = load_plan(folder)
    plans, group = {model.name for model in planned.models}, planned.group_name
    server = SkyServe({})
    services = server.services()
    claim = Claim(users=server.users())
    named = {
        s.name: s.maker
        for s in services
        if s.maker.plan is not None
        and (s.maker.plan in plans or (group is not None and s.maker.fleet == group))
    }
    makers = {
        name: maker
        for name, maker in named.items()
        if maker.fleet_id == planned.fleet_id and claim.owns(maker)
    }
    log.info("%d running services belong to plan %s", len(makers), planned.name)
    others = {name: maker for name, maker in named.items() if name not in makers}
    return Running(makers=makers, others=others, server=server)


def _rollout(on_event: Callable[[str], None] | None, claim: Claim) -> Rollout:
    report = on_event or log.info
    return Rollout(report=report, clock=time.monotonic, sleep=time.sleep, claim=claim)


def wanted_services(planned: Plan, folder: Path) -> tuple[Wanted, ...]:
    """Return the planned services as their files in `folder` have them."""
    place = folder if folder.is_dir() else folder.parent

    def read(name: str) -> tuple[dict[str, Any], str]:
        path = place / file_name(name)
        return _read_service(path), str(path)

    rows = wanted_of(planned, read)
    if not rows:
        raise InputError(f"'{place}': the plan has no services that could run")
    return rows


def wanted_of(
    planned: Plan, read: Callable[[str], tuple[dict[str, Any], str]]
) -> tuple[Wanted, ...]:
    """Return the planned services; `read` gives each one's document by its name, and where that stands."""
    rows = []
    for model in planned.models:
        for allocation in model.allocations:
            option = allocation.candidate.option
            if option.offer is None:
                continue
            name = service_name(model, allocation)
            document, where = read(name)
            rows.append(
                Wanted(
                    name=name,
                    plan=model.name,
                    option=option.name,
                    fleet=planned.group_name,
                    fleet_id=planned.fleet_id,
                    replicas=_replicas(document["service"], where),
                    most=_most(document["service"]),
                    price_usd_per_hour=option.price_usd_per_hour,
                    document=document,
                )
            )
    return tuple(rows)


def _read_service(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _FILE_LIMIT:
            raise InputError(f"{path}: is too large for a service file")
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: is missing; write the folder again: melange-sky render PLAN.json -o FOLDER"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML") from error
    usable = isinstance(document, dict) and isinstance(document.get("service"), dict)
    if not usable or not isinstance(document.get("_metadata"), dict):
        raise InputError(f"{path}: is not a service file of a plan; render it again")
    return dict(document)


def _replicas(service: dict[str, Any], path: str) -> int:
    policy = service.get("replica_policy")
    count = service.get(
        "replicas", policy.get("min_replicas") if isinstance(policy, dict) else None
    )
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InputError(f"{path}: service.replicas must be a whole number")
    return count


def _most(service: dict[str, Any]) -> int | None:
    """Return how many replicas SkyServe's autoscaler may run, None where it moves nothing."""
    policy = service.get("replica_policy")
    if not isinstance(policy, dict) or "target_qps_per_replica" not in policy:
        return None
    most = policy.get("max_replicas")
    return most if isinstance(most, int) and not isinstance(most, bool) else None


def _prices(planned: Plan) -> dict[tuple[str, str], float]:
    return {
        (model.name, c.option.name): c.option.price_usd_per_hour
        for model in planned.models
        for c in model.candidates
    }
