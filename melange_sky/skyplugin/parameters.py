"""What `plugins.yaml` gives the plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from melange_sky import settings
from melange_sky.errors import InputError

CLASS = "melange_sky.skyplugin.Plugin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The folders of plans, and the addresses of each fleet's gateways by its name or id.

    `problems` says what was wrong, a sentence each, for the page to show.
    """

    plan_dirs: tuple[Path, ...] = ()
    gateways: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def read_parameters(given: Mapping[str, Any]) -> Parameters:
    """Return the parameters, and what is wrong with them: a typing mistake must not stop the server."""
    problems = [
        f"plugins.yaml: the parameter '{name}' is not known"
        for name in given
        if name not in ("plan_dirs", "gateways")
    ]
    folders = given.get("plan_dirs", [])
    if not isinstance(folders, list) or not all(isinstance(one, str) for one in folders):
        problems.append("plugins.yaml: plan_dirs must be a list of folders")
        folders = []
    elif not folders:
        problems.append("plugins.yaml: plan_dirs names no folder of plans")
    return Parameters(
        plan_dirs=tuple(Path(one).expanduser() for one in folders),
        gateways=_gateways(given.get("gateways", {}), problems),
        problems=tuple(problems),
    )


def _gateways(given: object, problems: list[str]) -> dict[str, tuple[str, ...]]:
    """Return addresses by fleet; what is none is told."""
    if not isinstance(given, Mapping):
        problems.append("plugins.yaml: gateways must name each fleet's gateway, such as {chat: …}")
        return {}
    if not given:
        return {}
    from melange_sky.planner.watching.sources.fetching import metrics_url

    found = {}
    for name, listed in given.items():
        urls = [listed] if isinstance(listed, str) else listed
        try:
            if not isinstance(urls, list) or not urls:
                raise InputError(f"gateways: {name}: must be an address or a list of such")
            for url in urls:
                metrics_url(str(url), f"gateways: {name}")
        except InputError as error:
            problems.append(f"plugins.yaml: {error}")
        else:
            found[str(name)] = tuple(map(str, urls))
    return found


def installed_parameters() -> Parameters:
    """Return the parameters as plugins.yaml has them, for processes in which the plugin is not loaded."""
    import yaml

    path = settings.server_plugins_file()
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return Parameters(problems=(f"{path} cannot be read: {type(error).__name__}",))
    entries = document.get("plugins") if isinstance(document, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("class") == CLASS:
            return read_parameters(entry.get("parameters") or {})
    return Parameters(problems=(f"{path} does not name {CLASS}",))
