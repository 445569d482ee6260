"""The gateway's task for `sky launch`: a small CPU instance that serves one URL over all services."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import yaml

from melange_sky import __version__
from melange_sky.render.services import dump
from melange_sky.resources import templates_dir

if TYPE_CHECKING:
    from melange_sky.plan import FleetPlan, Plan

GATEWAY_FILE = "gateway.task.yaml"
_SUFFIX = "-gateway"
_LONGEST_NAME = 40


def render_gateway(plan: Plan | FleetPlan) -> str:
    """Return the text of the gateway's task. Nothing in it depends on the plan but its name."""
    name = plan.name[: _LONGEST_NAME - len(_SUFFIX)].rstrip("-_.") + _SUFFIX
    document: dict[str, Any] = yaml.safe_load(
        (templates_dir() / GATEWAY_FILE).read_text(encoding="utf-8")
    )
    document["name"] = name
    document["envs"]["MELANGE_SKY_PACKAGE"] = f"melange-sky=={__version__}"
    launch = ["sky", "launch", "-c", name, GATEWAY_FILE, "--secret", "MELANGE_SKY_API_KEY"]
    lines = (
        "One OpenAI-compatible URL over all services of the plan. In this folder, once they are up:",
        "  melange-sky status . --backends backends",
        f"  {shlex.join(launch)}",
        f"  sky status --endpoint 8080 {shlex.quote(name)}",
        "MELANGE_SKY_API_KEY is the key that clients must show; add --secret VLLM_API_KEY if the services",
        "demand one. After a change of the plan or the services, the same launch brings the new files.",
        "To install it from elsewhere: --env MELANGE_SKY_PACKAGE=REQUIREMENT (a URL, or a file you mount).",
        "",
    )
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + dump(document)
