"""The gateway's task: what is filled in, and that SkyPilot's parser takes it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from melange_sky.engines import EngineChoice
from melange_sky.rendering import render_gateway
from tests.factories import make_plan

CHECK = """
import sys, sky
task = sky.Task.from_yaml_str(sys.stdin.read())
(resources,) = task.resources
print(task.name, resources.cpus, resources.ports, sorted(task.secrets), task.service)
"""


def test_only_the_name_comes_from_the_plan() -> None:
    first = yaml.safe_load(render_gateway(make_plan()))
    second = yaml.safe_load(render_gateway(make_plan(name="x" * 32)))
    assert (first["name"], second["name"]) == ("chat-gateway", "x" * 32 + "-gateway")
    assert {k: v for k, v in first.items() if k != "name"} == {
        k: v for k, v in second.items() if k != "name"
    }
    assert first["envs"] == {"MELANGE_SKY_PACKAGE": ""}
    assert first["secrets"] == {"MELANGE_SKY_API_KEY": None, "VLLM_API_KEY": ""}


def test_the_key_is_that_of_the_plans_engine() -> None:
    text = render_gateway(make_plan(engine=EngineChoice(name="sglang")))
    assert yaml.safe_load(text)["secrets"] == {"MELANGE_SKY_API_KEY": None, "SGLANG_API_KEY": ""}
    assert "add --secret SGLANG_API_KEY if the services" in text and "VLLM" not in text


@pytest.mark.parametrize(
    ("plan", "gateway"),
    [
        ("production-llama-31-8b-instruct", "production-llama-31-8b-instruct-gateway"),
        ("production-llama-31-8b-instruct-chat-eu", "production-llama-31-8b-in-DIGEST-gateway"),
        ("production-llama-31-8b-instruct-chat-us", "production-llama-31-8b-in-DIGEST-gateway"),
        ("production-llama-31-8b-_.instruct", "production-llama-31-8b-DIGEST-gateway"),
    ],
)
def test_a_name_that_has_to_be_cut_gets_a_digest(plan: str, gateway: str) -> None:
    digest = hashlib.sha256(plan.encode()).hexdigest()[:6]
    text = render_gateway(make_plan(name=plan))
    name = yaml.safe_load(text)["name"]
    assert name == gateway.replace("DIGEST", digest) and len(name) <= 40
    assert f"sky launch -c {name} " in text and f"sky status --endpoint 8080 {name}\n" in text


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


class Instance:
    """A directory that stands for the instance: a shell with commands that write down their arguments."""

    def __init__(self, home: Path) -> None:
        self.home, self.workdir = home, home / "sky_workdir"
        self.workdir.mkdir()
        self.task: dict[str, Any] = yaml.safe_load(render_gateway(make_plan()))
        self.command(".local/bin/uv")
        self.health(running=False)

    def command(self, path: str, then: str = "") -> None:
        """Put a command there that writes its name and arguments to `called`, and runs `then`."""
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'#!/bin/sh\necho "$(basename "$0") $*" >> "$HOME/called"\n{then}\n')
        file.chmod(0o755)

    def health(self, *, running: bool, draining: int = 0) -> None:
        """Let curl find a gateway that says so often that it drains, and then runs or is gone."""
        (self.home / "left").write_text("x" * draining)
        says = 'if [ -s "$HOME/left" ]; then sed -i s/x// "$HOME/left"; echo draining; exit 0; fi'
        self.command("bin/curl", f"{says}\nexit {0 if running else 7}")

    def run(self, part: str, **env: str) -> tuple[int, str, str]:
        """Run `setup` or `run` as SkyPilot does, in the workdir: (status, errors and output, calls)."""
        called = self.home / "called"
        called.write_text("")
        names = {"HOME": str(self.home), "PATH": f"{self.home}/bin:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", self.task[part]],
            cwd=self.workdir,
            env=self.task["envs"] | names | env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stderr + done.stdout, called.read_text()


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance(tmp_path)


def test_without_the_package_setup_says_what_to_do_and_installs_nothing(instance: Instance) -> None:
    (instance.workdir / "pyproject.toml").write_text('[project]\nname = "somebody-elses"\n')
    status, said, called = instance.run("setup")
    assert (status, {line.split()[0] for line in called.splitlines()}) == (1, {"curl"})
    assert "--workdir DIRECTORY" in said and "--env MELANGE_SKY_PACKAGE=REQUIREMENT" in said


def test_setup_installs_the_checkout_or_the_wheel_or_what_was_asked_for(instance: Instance) -> None:
    install = f"--python {instance.home}/melange-env --reinstall-package melange-sky"
    (instance.workdir / "dist").mkdir()
    for at, name in enumerate(("dist/melange_sky-0.1.0-py3-none-any.whl", "melange_sky-0.2.0.whl")):
        (instance.workdir / name).write_text("")
        os.utime(instance.workdir / name, (at, at))
        status, said, called = instance.run("setup")
        assert (status, said) == (0, "")
        assert called.splitlines()[-1] == f"uv pip install --quiet {install} ./{name}"
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    (instance.workdir / "pyproject.toml").write_text(text)
    assert instance.run("setup")[2].endswith(f"{install} .\n"), "a checkout comes before old wheels"
    url = "https://example.com/melange_sky-0.3.0-py3-none-any.whl"
    assert instance.run("setup", MELANGE_SKY_PACKAGE=url)[2].endswith(f"{install} {url}\n")


def test_a_second_launch_leaves_a_running_gateway_alone(instance: Instance) -> None:
    instance.command("melange-env/bin/melange-sky")
    status, _, called = instance.run("run")
    assert status == 0
    files = f"{instance.home}/melange/routes.json"
    started = f"melange-sky -v gateway {files} --host 0.0.0.0 --port 8080"
    assert called.splitlines()[-1] == started
    instance.health(running=True)
    (instance.workdir / "melange_sky-0.2.0.whl").write_text("")
    for part, told in (("setup", "another version needs sky down"), ("run", "runs here already")):
        status, said, called = instance.run(part)
        assert (status, {line.split()[0] for line in called.splitlines()}) == (0, {"curl"})
        assert told in said


def test_a_gateway_that_drains_is_waited_for(instance: Instance) -> None:
    instance.command("melange-env/bin/melange-sky")
    instance.health(running=False, draining=2)
    status, said, called = instance.run("run")
    assert (status, said) == (0, "")
    assert [line.split()[0] for line in called.splitlines()] == ["curl"] * 4 + ["melange-sky"]
