"""What `plugins.yaml` gives the plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melange_sky import settings

CLASS = "melange_sky.skyplugin.Plugin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The folders of plans; `problems` says what was wrong, a sentence each, for the page to show."""

    plan_dirs: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()


def read_parameters(given: Mapping[str, Any]) -> Parameters:
    """Return the parameters, and what is wrong with them: a typing mistake must not stop the server."""
    problems = [
        f"plugins.yaml: the parameter '{name}' is not known"
        for name in given
        if name != "plan_dirs"
    ]
    folders = given.get("plan_dirs", [])
    if not isinstance(folders, list) or not all(isinstance(one, str) for one in folders):
        problems.append("plugins.yaml: plan_dirs must be a list of folders")
        folders = []
    elif not folders:
        problems.append("plugins.yaml: plan_dirs names no folder of plans")
    return Parameters(
        plan_dirs=tuple(Path(one).expanduser() for one in folders), problems=tuple(problems)
    )


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
