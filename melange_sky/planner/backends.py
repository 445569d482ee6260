"""Where a plan's replicas answer: OPTION=URL as given, as a file lists it, as SkyServe says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from melange_sky.plans import Plan
    from melange_sky.skyserve import LiveService


def backend_urls(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return the URLs of ``OPTION=URL`` texts by option; InputError for a text of another form.

    >>> backend_urls(["a10g=http://10.0.0.1:8000", "a10g=http://10.0.0.2:8000*2"])
    {'a10g': ['http://10.0.0.1:8000', 'http://10.0.0.2:8000*2']}
    """
    urls: dict[str, list[str]] = {}
    for text in texts:
        option, equals, url = text.partition("=")
        if not equals or not option.strip() or not url.strip():
            raise InputError("--backend: write OPTION=URL, such as a10g=http://10.0.0.1:8000")
        urls.setdefault(option.strip(), []).append(url.strip())
    return urls


def backend_lines(file: Path) -> list[str]:
    """Return the ``OPTION=URL`` lines of a file, without blank lines and comments."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--backends-file: {file}: cannot be read ({type(error).__name__})"
        ) from error
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def replica_urls(plan: Plan, services: Sequence[LiveService]) -> dict[str, list[str]]:
    """Return the endpoints of ready replicas by PLAN/OPTION, for the options of the plan."""
    planned = {(m.name, a.candidate.option.name) for m in plan.models for a in m.allocations}
    urls: dict[str, list[str]] = {}
    for service in services:
        origin = service.origin
        # what an earlier version made has no fleet id
        if origin not in planned or service.maker.fleet_id not in (plan.fleet_id, None):
            continue
        ready = [r.endpoint for r in service.replicas if r.status == "READY" and r.endpoint]
        urls.setdefault(f"{origin[0]}/{origin[1]}", []).extend(ready)
    return urls


def joined(
    first: Mapping[str, Sequence[str]], second: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Return the URLs of both by option, the first's ahead."""
    return {
        option: [*first.get(option, ()), *second.get(option, ())] for option in {**first, **second}
    }
