"""The gateway's task: what is filled in, and that SkyPilot's parser takes it."""

from __future__ import annotations

import subprocess
import sys

import yaml

from melange_sky import __version__
from melange_sky.render import render_gateway
from tests.factories import make_plan

CHECK = """
import sys, sky
task = sky.Task.from_yaml_str(sys.stdin.read())
(resources,) = task.resources
print(task.name, resources.cpus, resources.ports, sorted(task.secrets), task.service)
"""


def test_only_the_name_comes_from_the_plan() -> None:
    first = yaml.safe_load(render_gateway(make_plan()))
    second = yaml.safe_load(render_gateway(make_plan(name="x" * 40)))
    assert (first["name"], len(second["name"])) == ("chat-gateway", 40)
    assert second["name"].endswith("x-gateway")
    assert {k: v for k, v in first.items() if k != "name"} == {
        k: v for k, v in second.items() if k != "name"
    }
    assert first["envs"]["MELANGE_SKY_PACKAGE"] == f"melange-sky=={__version__}"
    assert first["secrets"] == {"MELANGE_SKY_API_KEY": None, "VLLM_API_KEY": ""}


def test_skypilot_takes_it_once_the_secret_is_given() -> None:
    text = render_gateway(make_plan()).replace(
        "MELANGE_SKY_API_KEY: null", "MELANGE_SKY_API_KEY: k"
    )
    answer = subprocess.run(
        [sys.executable, "-c", CHECK],
        input=text,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert answer.stdout.strip().endswith(
        "chat-gateway 4+ ['8080'] ['MELANGE_SKY_API_KEY', 'VLLM_API_KEY'] None"
    )
