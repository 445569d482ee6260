"""The key `sky`: SkyPilot's own fields for every service, their local paths made absolute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from melange_sky.plans import SkyFields, sky_problems

if TYPE_CHECKING:
    from melange_sky.spec.problems import Place


def read_sky(raw: Any, folder: Path, place: Place) -> SkyFields:
    """Return the block's fields; problems are noted at their keys below `place`.

    Paths on this machine are relative to the spec's folder, as everywhere in a spec. (SkyPilot takes
    them from where `sky` is called.)
    """
    if raw is None:
        return SkyFields()
    found = False
    for path, what in sky_problems(raw):
        place.problems.add((*place.at, *path), what)
        found = True
    if found:
        return SkyFields()
    fields = SkyFields.read(raw)
    return SkyFields(
        task=_located(fields.task, folder),
        per_accelerator={k: _located(v, folder) for k, v in fields.per_accelerator.items()},
    )


def _located(fields: Any, folder: Path) -> dict[str, Any]:
    """Return merged fields with absolute paths: of mounts, the working folder and TLS files."""
    located = dict(fields)
    mounts = located.get("file_mounts")
    if isinstance(mounts, dict):
        located["file_mounts"] = {to: _source(source, folder) for to, source in mounts.items()}
    if isinstance(located.get("workdir"), str):
        located["workdir"] = _absolute(located["workdir"], folder)
    service = located.get("service")
    if isinstance(service, dict) and isinstance(service.get("tls"), dict):
        tls = {key: _absolute(value, folder) for key, value in service["tls"].items()}
        located["service"] = {**service, "tls": tls}
    return located


def _source(source: Any, folder: Path) -> Any:
    if isinstance(source, dict) and "source" in source:
        return {**source, "source": _source(source["source"], folder)}
    if isinstance(source, list):
        return [_source(part, folder) for part in source]
    return _absolute(source, folder)


def _absolute(text: Any, folder: Path) -> Any:
    """Return a path below the spec's folder; what is absolute, a URL or holds a variable stays."""
    if not isinstance(text, str) or not text or "://" in text or text[0] in "/~$":
        return text
    return str((folder / text).resolve())
