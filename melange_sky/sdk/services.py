"""Bring a plan's services up on SkyServe, look at them, take them down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.planner.apply import (
    DeploymentStatus,
    deployment_status,
    find_running,
    open_deployment,
)
from melange_sky.planner.handover import Handover
from melange_sky.report.services import changes_text, status_text
from melange_sky.sdk.arguments import path_of
from melange_sky.sdk.results import Shown, as_result
from melange_sky.skyserve import ServiceChange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from melange_sky.sdk.arguments import AnyPath


class Changes(Shown, tuple[ServiceChange, ...]):
    """One change per service; printed a line each, with what all cost together."""

    __slots__ = ()

    def __str__(self) -> str:
        return changes_text(self)


class Stopped(Shown, tuple[str, ...]):
    """The names of the services that were taken down; printed a line each."""

    __slots__ = ()

    def __str__(self) -> str:
        return "".join(f"{name}\n" for name in self)


class Status(Shown, DeploymentStatus):
    """The planned services as they stand, and the traffic where it was observed; printed a line each."""

    __slots__ = ()

    def __str__(self) -> str:
        return status_text(self)


def apply(
    folder: AnyPath,
    *,
    dry_run: bool = False,
    routes: AnyPath | None = None,
    backends: AnyPath | None = None,
    gateways: Sequence[str] = (),
    drain_s: float = 600.0,
    adopt: bool = False,
    on_event: Callable[[str], None] | None = None,
) -> Changes:
    """Bring the services of a plan folder up on SkyServe, or change the running ones to it.

    Changes without asking: look at `dry_run=True` first. What grows goes first; then gateways take the
    new plan; what shrinks or stops waits for both and for the requests that still run there.
    Interrupted anywhere, call it again. Secrets are read from the environment.

    Args:
        folder: What `write` wrote.
        dry_run: Return what would change and change nothing.
        routes: File to write plan and addresses to as one, which `gateway` serves and follows.
        backends: File to write OPTION=URL*REPLICAS lines to, for the gateway.
        gateways: URLs of gateways that must serve the plan before anything stops.
        drain_s: Longest wait in seconds for requests that still run at what stops.
        adopt: Take over services of this plan's names that another fleet or user made.
        on_event: Called with a sentence at each step; None logs them.

    Returns:
        One change per service, with replicas and USD per hour before and after.

    Raises:
        InputError: The folder holds no plan with services.
        SourceUnavailableError: SkyPilot is not installed, or cannot say what runs.
        MelangeError: A service fails or does not get ready; nothing is shrunk then.
    """
    handover = Handover(
        routes=path_of(routes), backends=path_of(backends), gateways=gateways, drain_s=drain_s
    )
    deployment = open_deployment(Path(folder), adopt=adopt)
    changes = Changes(deployment.changes())
    if dry_run:
        return changes
    deployment.apply(changes, on_event, handover)
    return changes


def status(
    folder: AnyPath,
    *,
    routes: AnyPath | None = None,
    backends: AnyPath | None = None,
    observed: AnyPath | None = None,
) -> Status:
    """Return the planned services of a folder against the live ones.

    Args:
        folder: What `write` wrote.
        routes: File to write plan and addresses to as one, which `gateway` serves and follows.
        backends: File to write OPTION=URL*REPLICAS lines to, for the gateway.
        observed: What `gateway --observed` wrote, to compare seen rates with planned ones.

    Returns:
        A state per service; `traffic` says whether replanning pays, None without `observed`.

    Raises:
        InputError: The folder holds no plan with services, or a file cannot be read or written.
        SourceUnavailableError: SkyPilot is not installed, or cannot say what runs.
    """
    handover = Handover(routes=path_of(routes), backends=path_of(backends))
    standing = deployment_status(Path(folder), observed=path_of(observed), handover=handover)
    return as_result(Status, standing)


def down(folder: AnyPath, *, on_event: Callable[[str], None] | None = None) -> Stopped:
    """Take all running services of a folder's plan down, without asking.

    Args:
        folder: What `write` wrote; only its plan.json is read.
        on_event: Called with a sentence at each step; None logs them.

    Returns:
        The names of the services that were taken down.

    Raises:
        InputError: The folder holds no plan.
        SourceUnavailableError: SkyPilot is not installed, or cannot say what runs.
        MelangeError: A service is still there after a while.
    """
    running = find_running(Path(folder))
    if running.names:
        running.stop(on_event)
    return Stopped(running.names)
