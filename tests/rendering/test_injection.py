"""Hostile text in a plan runs nothing: the rendered scripts are executed, with a fake vLLM."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melange_sky.engines import EngineChoice
from melange_sky.plans import Plan
from melange_sky.rendering import render_services
from tests.factories import make_offer
from tests.rendering.test_sky_accepts import allocate, plan_of

FAKE_VLLM = """#!/usr/bin/env python3
import json, os, sys
with open(os.environ["RECORD"], "w") as file:
    json.dump({"argv": sys.argv[1:], "note": os.environ.get("NOTE")}, file)
"""

HOSTILE = [
    "plain/model",
    "$(touch pwned)",
    "`touch pwned`",
    "x; touch pwned",
    "x' ; touch pwned ; '",
    'x" ; touch pwned ; "',
    "x\ntouch pwned",
    "x\\\ntouch pwned\n",
    "x && touch pwned || touch pwned",
    "x | tee pwned",
    "x > pwned",
    "${HOME}/$PATH",
    "!! !x * ? [a] ~ #x",
    "x\r\ntouch pwned",
    "x\u2028touch pwned\u0085run: touch pwned",
    "x\nrun: |\n  touch pwned\n",
    " leading and trailing ",
    "\ttab",
    "EOF\ntouch pwned\nEOF",
    "é 日本 😀",
]


class Sandbox:
    """An empty folder with a fake `vllm`, in which a rendered script is run by bash."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.record = root / "record.json"
        self.work = root / "work"
        self.bin = root / "bin"
        for folder in (self.work, self.bin):
            folder.mkdir()
        fake = self.bin / "vllm"
        fake.write_text(FAKE_VLLM, encoding="utf-8")
        fake.chmod(0o755)

    def execute(self, document: dict[str, Any]) -> dict[str, Any]:
        """Run set-up and run with the file's envs, as SkyPilot does; return what vllm was given."""
        self.record.unlink(missing_ok=True)
        env = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.root),
            "RECORD": str(self.record),
            **document.get("envs", {}),
        }
        for script in (document["setup"], document["run"]):
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=self.work,
                env=env,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        assert list(self.work.iterdir()) == []
        told: dict[str, Any] = json.loads(self.record.read_text())
        return told


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def hostile_plan(text: str) -> Plan:
    """A plan that carries `text` in every place that is not checked to be a name or a number."""
    offer = make_offer(accelerator=text, region=text, instance_type=text, source=text, as_of=text)
    return plan_of(
        allocate(offer, name=text),
        model=text,
        created_at=text,
        engine=EngineChoice(args=("--served-model-name", text), env=(("NOTE", text),)),
    )


def check(sandbox: Sandbox, text: str) -> None:
    ((name, rendered),) = render_services(hostile_plan(text)).items()
    assert Path(name).name == name and name.isascii()
    document = yaml.safe_load(rendered)
    assert set(document) == {
        "name",
        "_metadata",
        "service",
        "resources",
        "envs",
        "secrets",
        "setup",
        "run",
    }
    assert document["resources"]["accelerators"] == f"{text}:1"
    told = sandbox.execute(document)
    assert told["argv"][:2] == ["serve", text]
    assert told["argv"][-2:] == ["--served-model-name", text]
    assert told["note"] == text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_arrives_as_text(sandbox: Sandbox, text: str) -> None:
    check(sandbox, text)


@given(
    text=st.text(
        alphabet=st.one_of(
            st.sampled_from("$`'\"\\;|&<>(){}\n\r\t !#*?~=%:-[]"),
            st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
        ),
        min_size=1,
        max_size=40,
    ).filter(lambda text: bool(text.strip()) and not text.startswith("-"))
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_arrives_as_text(sandbox: Sandbox, text: str) -> None:
    check(sandbox, text)


def test_plain_flags(sandbox: Sandbox) -> None:
    ((_, rendered),) = render_services(plan_of(allocate(make_offer()))).items()
    told = sandbox.execute(yaml.safe_load(rendered))
    assert told["argv"] == [
        "serve",
        "meta-llama/Llama-3.1-8B-Instruct",
        "--host",
        "0.0.0.0",
        "--port",
        "8000",
        "--tensor-parallel-size",
        "1",
        "--max-model-len",
        "18000",
        "--max-num-seqs",
        "64",
        "--gpu-memory-utilization",
        "0.92",
    ]
