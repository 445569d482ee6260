"""The gateway's task for `sky launch`: a small CPU instance that serves one URL over all services."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from melange_sky.engines import engine_named
from melange_sky.rendering.names import gateway_name
from melange_sky.rendering.services import dump, read_template

if TYPE_CHECKING:
    from melange_sky.plans import Plan

GATEWAY_FILE = "gateway.task.yaml"


def render_gateway(plan: Plan) -> str:
    """Return the text of the gateway's task. Of the plan it has the name and its engines' keys alone."""
    name = gateway_name(plan)
    document = read_template(GATEWAY_FILE)
    document["name"] = name
    keys = sorted({engine_named(model.engine.name).key_variable for model in plan.models})
    document["secrets"] |= dict.fromkeys(keys, "")
    flags = " ".join(f"--secret {key}" for key in keys)
    launch = ["sky", "launch", "-c", name, GATEWAY_FILE, "--secret", "MELANGE_SKY_API_KEY"]
    lines = (
        "One OpenAI-compatible URL over all services of the plan. In this folder, once they are up:",
        "  melange-sky status . --routes routes.json",
        f"  {shlex.join(launch)} --workdir CHECKOUT",
        f"  sky status --endpoint 8080 {shlex.quote(name)}",
        "CHECKOUT is the directory of melange-sky's sources, or one with its wheel; in its place, --env",
        "MELANGE_SKY_PACKAGE=REQUIREMENT takes anything that pip does, such as the URL of a wheel.",
        f"MELANGE_SKY_API_KEY is the key that clients must show; add {flags} if the services",
        "demand one. A new plan: melange-sky apply . --routes routes.json --gateway URL writes the new file",
        "and waits; the same launch then brings it to the running gateway, which takes it without a restart.",
        "",
    )
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + dump(document)
