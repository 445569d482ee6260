"""Put the plugin into the files of SkyPilot's API server, look at them, take it out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from melange_sky.planner.plugin_files import (
    FileChange,
    PluginStatus,
    install_changes,
    remove_changes,
)
from melange_sky.planner.plugin_files import plugin_status as read_status
from melange_sky.report.plugin import changes_text, status_text
from melange_sky.sdk.arguments import path_of
from melange_sky.sdk.results import Shown, as_result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.sdk.arguments import AnyPath


class FileChanges(Shown, tuple[FileChange, ...]):
    """The files that were changed, none where nothing was to be; printed as their diffs."""

    __slots__ = ()

    def __str__(self) -> str:
        return changes_text(self)


class Standing(Shown, PluginStatus):
    """What the files say of the plugin and the guard; printed a line each."""

    __slots__ = ()

    def __str__(self) -> str:
        return status_text(self)


def install_plugin(
    plan_dirs: Sequence[AnyPath],
    *,
    guard: Literal["off", "warn", "refuse"] | None = None,
    gateways: Sequence[str] = (),
    server_config: AnyPath | None = None,
) -> FileChanges:
    """Name the plugin in plugins.yaml, with the folders of plans that it shows; written without asking.

    The API server must be started again for it to count.

    Args:
        plan_dirs: Folders that `write` wrote, or that hold such; those given before stay.
        guard: Check launches against their plans too, and do this; None: leave the guard as it is.
        gateways: Gateways whose traffic is shown, as "FLEET=URL" with the plan's name or the fleet's id.
        server_config: The API server's config.yaml or its folder; None: where SkyPilot looks itself.

    Returns:
        The files that were changed, with their texts before and after.

    Raises:
        InputError: A folder holds no plan, an address is none, or a file cannot be changed without touching other
            lines.
    """
    folders = [Path(one) for one in plan_dirs]
    return _carried_out(install_changes(folders, path_of(server_config), guard, gateways))


def plugin_status(*, server_config: AnyPath | None = None) -> Standing:
    """Return what the API server's files say of the plugin and the guard.

    Args:
        server_config: The API server's config.yaml or its folder; None: where SkyPilot looks itself.

    Returns:
        The plans' folders, the guard's mode, and the policy of one's own behind it.

    Raises:
        InputError: A file cannot be read.
    """
    return as_result(Standing, read_status(path_of(server_config)))


def remove_plugin(*, server_config: AnyPath | None = None) -> FileChanges:
    """Take the plugin and the guard out of both files again; written without asking.

    Args:
        server_config: The API server's config.yaml or its folder; None: where SkyPilot looks itself.

    Returns:
        The files that were changed, with their texts before and after.

    Raises:
        InputError: A file cannot be read or written.
    """
    return _carried_out(remove_changes(path_of(server_config)))


def _carried_out(changes: tuple[FileChange, ...]) -> FileChanges:
    for change in changes:
        change.write()
    return FileChanges(changes)
