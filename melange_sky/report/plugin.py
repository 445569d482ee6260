"""How the plugin's place in SkyPilot's files is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class ChangeView(Protocol):
    """A file before and after, see `planner.plugin_files.FileChange`."""

    @property
    def diff(self) -> str: ...


class FilesView(Protocol):
    """Where the two files are, see `planner.plugin_files.ServerFiles`."""

    @property
    def config(self) -> Path: ...
    @property
    def plugins(self) -> Path: ...


class PluginView(Protocol):
    """How the files stand, see `planner.plugin_files.PluginStatus`."""

    @property
    def files(self) -> FilesView: ...
    @property
    def plan_dirs(self) -> Sequence[str] | None: ...
    @property
    def gateways(self) -> Mapping[str, Sequence[str]] | None: ...
    @property
    def guard(self) -> str | None: ...
    @property
    def policy(self) -> str | None: ...
    @property
    def importable(self) -> bool: ...


def changes_text(changes: Iterable[ChangeView]) -> str:
    """Return the diffs of all files."""
    return "".join(change.diff for change in changes)


def restart_text() -> str:
    """Return what is to be done for a change to count."""
    return "Restart the API server, with a Python that has melange-sky installed: sky api stop && sky api start"


def status_document(found: PluginView) -> dict[str, Any]:
    """Return what the files say, for `plugin status --format json`."""
    return {
        "plugins_file": str(found.files.plugins),
        "config_file": str(found.files.config),
        "installed": found.plan_dirs is not None,
        "plan_dirs": None if found.plan_dirs is None else list(found.plan_dirs),
        "gateways": None
        if found.gateways is None
        else [{"fleet": name, "urls": list(urls)} for name, urls in found.gateways.items()],
        "guard": found.guard,
        "policy": found.policy,
    }


def status_text(found: PluginView) -> str:
    """Return what the files say, a line each."""
    if found.plan_dirs is None:
        page = "not installed"
    else:
        page = f"installed, plans from {', '.join(found.plan_dirs) or 'no folder'}"
        for name, urls in (found.gateways or {}).items():
            page += f", traffic of {name} from {', '.join(urls)}"
    guard = "not installed"
    if found.guard is not None:
        behind = "no other policy" if found.policy is None else f"{found.policy} is asked first"
        guard = f"{found.guard}, {behind}"
    lines = [
        f"Fleets page: {page} ({found.files.plugins})",
        f"Guard: {guard} ({found.files.config})",
    ]
    if found.plan_dirs is not None and not found.importable:
        lines.append(
            "SkyPilot is not installed for this Python: the server's own must have melange-sky"
        )
    return "".join(f"{line}\n" for line in lines)
