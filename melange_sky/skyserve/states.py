"""Planned services against live ones. Pure: data in, data out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from melange_sky.skyserve.changes import LiveReplica, LiveService, Wanted

NOT_THERE = "DOWN"
"""The status of a planned service of which SkyServe knows nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """One planned service as it stands: replicas planned, aimed at by SkyServe, and ready.

    SkyServe's own autoscaler may run up to `most`, from what is planned here on; None where it moves nothing.
    """

    service: str
    option: str
    planned: int
    target: int = 0
    ready: int = 0
    status: str = NOT_THERE
    endpoint: str | None = None
    replicas: tuple[LiveReplica, ...] = ()
    most: int | None = None


def service_states(
    wanted: Sequence[Wanted], live: Iterable[LiveService]
) -> tuple[ServiceState, ...]:
    """Return one state per wanted service, in their order."""
    by_name = {service.name: service for service in live}
    return tuple(_state(w, by_name.get(w.name)) for w in wanted)


def _state(wanted: Wanted, live: LiveService | None) -> ServiceState:
    if live is None:
        return ServiceState(
            service=wanted.name, option=wanted.option, planned=wanted.replicas, most=wanted.most
        )
    return ServiceState(
        service=wanted.name,
        option=wanted.option,
        planned=wanted.replicas,
        target=live.target,
        ready=live.ready,
        status=live.status,
        endpoint=live.endpoint,
        replicas=live.replicas,
        most=wanted.most,
    )
