"""SkyPilot's two files that name the plugin and the guard: what would change, changing it, how they stand."""

from __future__ import annotations

import difflib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melange_sky import settings
from melange_sky.errors import InputError
from melange_sky.planfile import PLAN_FILE
from melange_sky.planner.output_files import make_folder, write_text
from melange_sky.planner.reserving.document import RESERVE_FILE
from melange_sky.planner.watching.sources.fetching import metrics_url
from melange_sky.planner.yaml_edit import (
    YamlText,
    add_item,
    add_key,
    replace_value,
    taken_back,
    with_value,
    without_item,
    without_key,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLUGIN = "melange_sky.skyplugin.Plugin"
GUARD = "melange_sky.skyplugin.Guard"
_GUARD_KEYS = ("plugins", "melange", "guard")
_LARGEST = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """One file before and after; None for one that is not there."""

    path: Path
    before: str | None
    after: str | None

    @property
    def diff(self) -> str:
        """Return the changed lines as a unified diff, empty for none."""
        lines = difflib.unified_diff(
            _lines(self.before), _lines(self.after), str(self.path), str(self.path), n=2
        )
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ no newline at the end\n" for line in lines
        )

    def write(self) -> None:
        """Write the file, or remove it where nothing is left; raises InputError where that is not possible."""
        path = self.path.resolve()  # a link to a file kept elsewhere stays a link
        if self.after is None:
            path.unlink(missing_ok=True)
            return
        make_folder(path.parent)
        write_text(path, self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFiles:
    """Where the API server's configuration is, and its list of plugins beside it."""

    config: Path
    plugins: Path

    @classmethod
    def at(cls, config: Path | None) -> ServerFiles:
        """Return the files of a config.yaml or of a folder that holds one; None: where SkyPilot looks itself."""
        if config is None:
            return cls(config=settings.server_config_file(), plugins=settings.server_plugins_file())
        file = config / "config.yaml" if config.is_dir() else config
        return cls(config=file, plugins=file.with_name("plugins.yaml"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginStatus:
    """How the files stand. `guard` is the guard's mode, `policy` the user's own policy behind it.

    `plan_dirs` and `gateways`, addresses by fleet, are None where the plugin is not installed, `guard` where the
    guard is not.
    """

    files: ServerFiles
    plan_dirs: tuple[str, ...] | None
    gateways: dict[str, tuple[str, ...]] | None
    guard: str | None
    policy: str | None
    importable: bool


def plugin_status(server_config: Path | None = None) -> PluginStatus:
    """Return how the plugin stands in SkyPilot's files; raises InputError for one that cannot be read."""
    files = ServerFiles.at(server_config)
    found = _entry(_read(files.plugins), str(files.plugins))
    config = YamlText(_read(files.config) or "", str(files.config)).data
    guard = _inner(config, _GUARD_KEYS) or {}
    is_on = config.get("admin_policy") == GUARD
    return PluginStatus(
        files=files,
        plan_dirs=None if found is None else _dirs(found[1]),
        gateways=None if found is None else _gateways(found[1]),
        guard=_mode(guard.get("launch", "warn")) if is_on else None,
        policy=guard.get("policy") if is_on else None,
        importable=importlib.util.find_spec("sky") is not None,
    )


def install_changes(
    plan_dirs: Sequence[Path],
    server_config: Path | None = None,
    guard: str | None = None,
    gateways: Sequence[str] = (),
) -> tuple[FileChange, ...]:
    """Return what installing would change: plugins.yaml, and config.yaml where a guard's mode is given.

    Folders are added to those that are there; `gateways`, FLEET=URL with a fleet's name or id, replace those of that
    fleet. Raises InputError for a folder without plans, for what is no address, and for files that cannot be
    changed without touching other lines.
    """
    addresses = _by_fleet(gateways)
    files = ServerFiles.at(server_config)
    folders = [str(_plan_dir(folder)) for folder in plan_dirs]
    changes = [_install_plugin(files.plugins, folders, addresses)]
    if guard is not None:
        changes.append(_install_guard(files.config, guard))
    return tuple(change for change in changes if change.diff)


def remove_changes(server_config: Path | None = None) -> tuple[FileChange, ...]:
    """Return what removing would change: lines that were put in go, a line that they replaced comes back."""
    files = ServerFiles.at(server_config)
    changes = (_remove_guard(files.config), _remove_plugin(files.plugins))
    return tuple(change for change in changes if change.diff)


def _install_plugin(
    path: Path, folders: list[str], gateways: Mapping[str, str | list[str]]
) -> FileChange:
    text, where = _read(path), str(path)
    found = _entry(text, where)
    given = {} if found is None else _parameters(found[1])
    known = () if found is None else _dirs(found[1])
    wanted = {**given, "plan_dirs": list(dict.fromkeys([*known, *folders]))}
    if gateways:
        listed = given.get("gateways")
        wanted["gateways"] = {**(listed if isinstance(listed, dict) else {}), **gateways}
    if found is not None and wanted == given:
        return FileChange(path=path, before=text, after=text)
    base = text or "" if found is None else _without_plugin(text or "", where)
    entry = {"class": PLUGIN, "parameters": wanted}
    return FileChange(path=path, before=text, after=add_item(base, where, "plugins", entry))


def _by_fleet(gateways: Sequence[str]) -> dict[str, str | list[str]]:
    """Return addresses as plugins.yaml takes them: one as a text. Raises InputError for what is none."""
    found: dict[str, list[str]] = {}
    for text in gateways:
        name, is_split, url = text.partition("=")
        if not (name and is_split):
            raise InputError(f"--gateway: {text[:100]!r} is not FLEET=URL")
        metrics_url(url, "--gateway")
        found.setdefault(name, []).append(url)
    return {name: urls[0] if len(urls) == 1 else list(urls) for name, urls in found.items()}


def _install_guard(path: Path, mode: str) -> FileChange:
    before, where = _read(path), str(path)
    text = before or ""
    known = YamlText(text, where)
    keys = _inner(known.data, _GUARD_KEYS)
    if known.data.get("admin_policy") == GUARD and keys is not None:
        return FileChange(path=path, before=before, after=_with_mode(text, where, keys, mode))
    return FileChange(path=path, before=before, after=_with_guard(text, where, mode))


def _with_guard(text: str, where: str, mode: str) -> str:
    """Return the text with the guard as its policy, and the policy that was there behind it."""
    known = YamlText(text, where)
    policy, keys = known.data.get("admin_policy"), _inner(known.data, _GUARD_KEYS)
    wanted: dict[str, Any] = {"launch": mode}
    if policy not in (None, GUARD):
        wanted["policy"] = policy
    if keys is None:
        text = add_key(text, where, _GUARD_KEYS, wanted)
    else:
        for key in [key for key in wanted if key not in keys]:
            text = add_key(text, where, (*_GUARD_KEYS, key), wanted[key])
    if policy is None:
        return add_key(text, where, ("admin_policy",), GUARD)
    return text if policy == GUARD else replace_value(text, where, "admin_policy", GUARD)


def _with_mode(text: str, where: str, keys: dict[str, Any], mode: str) -> str:
    """Return the text with the guard in another mode; keys that the user wrote by hand are the user's."""
    if _mode(keys.get("launch", "warn")) == mode:
        return text
    fresh = taken_back(text)
    if fresh == text:
        fresh = _without_guard(text, where)
    elif _inner(YamlText(fresh, where).data, _GUARD_KEYS) is not None:
        raise InputError(
            f"{where}: plugins.melange.guard.launch is '{_mode(keys.get('launch', 'warn'))}' by your own hand; change it there"
        )
    return _with_guard(fresh, where, mode)


def _remove_plugin(path: Path) -> FileChange:
    text = _read(path)
    if text is None or _entry(text, str(path)) is None:
        return FileChange(path=path, before=text, after=text)
    after = _without_plugin(text, str(path))
    return FileChange(path=path, before=text, after=after if after.strip() else None)


def _without_plugin(text: str, where: str) -> str:
    """Return the text without the entry: by its marks, and where they are gone, by its place."""
    text = taken_back(text)
    found = _entry(text, where)
    return text if found is None else without_item(text, where, "plugins", found[0])


def _remove_guard(path: Path) -> FileChange:
    before = _read(path)
    if before is None:
        return FileChange(path=path, before=None, after=None)
    where, text = str(path), taken_back(before)
    if YamlText(text, where).data.get("admin_policy") == GUARD:
        text = _without_guard(text, where)
    return FileChange(path=path, before=before, after=text if text.strip() else None)


def _without_guard(text: str, where: str) -> str:
    """Return the text without the guard where no marks tell its lines: a file that a program wrote."""
    policy = (_inner(YamlText(text, where).data, _GUARD_KEYS) or {}).get("policy")
    if policy is None:
        text = without_key(text, where, ("admin_policy",))
    else:
        text = with_value(text, where, "admin_policy", str(policy))
    for key in ("launch", "policy"):
        if key in (_inner(YamlText(text, where).data, _GUARD_KEYS) or {}):
            text = without_key(text, where, (*_GUARD_KEYS, key))
    return text


def _plan_dir(folder: Path) -> Path:
    """Return the whole path of a folder that holds a plan, or folders of plans."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: is not a folder; give one that `plan -o` wrote, or one that holds such"
        )
    files = (PLAN_FILE, RESERVE_FILE)
    if not any((folder / name).is_file() or any(folder.glob(f"*/{name}")) for name in files):
        raise InputError(
            f"{folder}: holds neither {PLAN_FILE} nor {RESERVE_FILE}, nor do the folders in it"
        )
    return folder.resolve()


def _entry(text: str | None, where: str) -> tuple[int, dict[str, Any]] | None:
    """Return the plugin's position in the list and its entry, None where it is not there."""
    listed = YamlText(text or "", where).data.get("plugins")
    for i, entry in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(entry, dict) and entry.get("class") == PLUGIN:
            return i, entry
    return None


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    given = entry.get("parameters")
    return given if isinstance(given, dict) else {}


def _gateways(entry: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    listed = _parameters(entry).get("gateways")
    return {
        str(name): tuple(map(str, urls if isinstance(urls, list) else [urls]))
        for name, urls in (listed.items() if isinstance(listed, dict) else ())
    }


def _dirs(entry: dict[str, Any]) -> tuple[str, ...]:
    folders = _parameters(entry).get("plan_dirs")
    return tuple(str(one) for one in folders) if isinstance(folders, list) else ()


def _inner(data: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    for key in path:
        inner = data.get(key)
        if not isinstance(inner, dict):
            return None
        data = inner
    return data


def _mode(value: object) -> str:
    return "off" if value is False else str(value)  # YAML reads a bare `off` as false


def _read(path: Path) -> str | None:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8") from None
    if len(raw) > _LARGEST:
        raise InputError(f"{path}: is too large for a configuration")
    return text


def _lines(text: str | None) -> list[str]:
    return [] if text is None else text.splitlines(keepends=True)
