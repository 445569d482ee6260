"""The user's own SkyPilot fields put into a service's document; what the plan decided stays."""

from __future__ import annotations

from typing import Any

from melange_sky.plans import merged_with, secret_names

_BEFORE_SETUP = ("envs", "secrets", "managed_secrets", "volumes", "volume_mounts", "file_mounts")


def with_fields(document: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Return a service's document with merged `fields` of a spec, its keys in the skeleton's order."""
    if not fields:
        return document
    own = dict(fields)
    envs = {name: str(value) for name, value in (own.pop("envs", None) or {}).items()}
    own["secrets"] = secret_names(own)
    setup = own.pop("setup", None)
    merged = merged_with(document, {k: v for k, v in own.items() if v is not None})
    merged["envs"] = {**(document.get("envs") or {}), **envs}
    if setup:
        merged["setup"] = f"{setup.rstrip()}\n{document['setup']}"
    first = ("name", "_metadata", "service", "num_nodes", "resources", *_BEFORE_SETUP)
    last = ("setup", "run")
    between = [key for key in merged if key not in first and key not in last]
    return {key: merged[key] for key in (*first, *between, *last) if key in merged}
