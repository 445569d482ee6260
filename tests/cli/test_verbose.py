"""`-v` and `-vv`: every command logs its steps to stderr, stdout stays what it is, no key is shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from melange_sky.cli import COMMANDS
from melange_sky.planfile import dump_plan
from melange_sky.rendering import render_services, write_folder
from melange_sky.settings import home_dir
from tests.cli.runner import ROOT
from tests.factories import make_plan

pytestmark = pytest.mark.usefixtures("kept_estimates")

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
LINE = re.compile(r"(INFO|DEBUG) melange_sky(\.\w+)+: \S")
SECRETS = {
    "HF_TOKEN": "hf-canary-31",
    "VLLM_API_KEY": "vllm-canary-32",
    "MELANGE_SKY_GCP_API_KEY": "gcp-canary-33",
    "MELANGE_SKY_API_KEY": "client-canary-34",
    "OPENAI_API_KEY": "openai-canary-35",
}
SPEC = f"""\
name: chat
model: {LLAMA}
slo: {{tpot_ms: 60}}
workload:
  rate_rps: 8
  histogram: {{input_edges: [0, 1000], output_edges: [0, 200], weights: [[1]]}}
resources: {{accelerators: [A10G], infra: [aws]}}
"""
NO_SKY = "import sys; sys.modules['sky'] = None; from melange_sky.cli import main; main()"
CALLS: dict[str, list[str]] = {
    "plan": ["plan", "spec.yaml", "--offline", "--format", "json"],
    "render": ["render", "chat-plan/plan.json", "-o", "again"],
    "init": ["init", "fresh.yaml"],
    "workload": ["workload", "trace.csv"],
    "models": ["models", "show", LLAMA, "--format", "json"],
    "prices": ["prices", "list", "--accelerators", "A10G", "--format", "json"],
    "prices snapshots": ["prices", "snapshots", "--format", "json"],
    "prices diff": ["prices", "diff", "--plan", "chat-plan/plan.json", "--format", "json"],
    "capacity": [
        *("capacity", "--model", LLAMA, "--accelerators", "A10G"),
        *("--input", "100", "--output", "50", "--format", "json"),
    ],
    "explain": ["explain", "chat-plan/plan.json", "--format", "json"],
    "sweep": ["sweep", "spec.yaml", "--rate", "1", "--offline", "--format", "json"],
    "reserve": [
        *("reserve", "spec.yaml", "--demand", "demand.csv", "--offline", "--stale-ok"),
        *("--format", "json"),
    ],
    "bound": [
        *("bound", "spec.yaml", "--demand", "demand.csv", "--offline", "--stale-ok"),
        *("--format", "json"),
    ],
    "schedule": ["schedule", "chat-reserve", "--format", "json"],
    "simulate": ["simulate", "chat-plan/plan.json", "--duration", "60", "--format", "json"],
    "compare": ["compare", "spec.yaml", "--rates", "1", "--offline", "--format", "json"],
    "report": ["report", "chat-plan"],
    "profile": ["profile", "launch", "spec.yaml", "--dry-run", "--offline", "--format", "json"],
    "models list": ["models", "list", "--format", "json"],
    "models pull": ["models", "pull", "org/other", "--offline"],
    "profile run": [
        *("profile", "run", "--url", "http://127.0.0.1:9", "--model", "m"),
        *("--accelerator", "A10G:1", "--input", "10", "--output", "10"),
    ],
    "profile status": ["profile", "status", "spec.yaml"],
    "profile collect": ["profile", "collect", "spec.yaml"],
    "gateway": ["gateway", "chat-plan", "--backend", "none=http://127.0.0.1:9"],
    "apply": ["apply", "chat-plan", "--dry-run"],
    "status": ["status", "chat-plan", "--format", "json"],
    "down": ["down", "chat-plan", "-y"],
    "watch": ["watch", "chat-plan", "--replay", "rates.csv", "--format", "json"],
    "plugin install": ["plugin", "install", "chat-plan", "--guard", "warn", "-y"],
    "help": ["help", "spec"],
}
REFUSED = {
    "gateway": 2,
    **dict.fromkeys(("apply", "status", "down", "profile status", "profile collect"), 4),
    **dict.fromkeys(("models pull", "profile run"), 4),
}
"""These log what they read before they end: a backend of no option, no SkyPilot, no network."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plan = make_plan()
    files = {"plan.json": dump_plan(plan), **render_services(plan)}
    write_folder(tmp_path / "chat-plan", files, force=False)
    (tmp_path / "spec.yaml").write_text(SPEC)
    rows = "".join(f"{k},100,50\n" for k in range(20))
    (tmp_path / "trace.csv").write_text(f"arrival_s,input_tokens,output_tokens\n{rows}")
    periods = [{"hours": list(range(24)), "plan": "fleet-01.json", "rate_rps": 1.0}]
    reserve = {
        "name": "chat",
        "demand": {"start": "2026-11-02T00:00:00Z", "step_s": 3600},
        "periods": periods,
    }
    fleets = {"reserve.json": json.dumps(reserve), "fleet-01.json": dump_plan(plan)}
    write_folder(tmp_path / "chat-reserve", fleets, force=False)
    hours = "".join(f"2026-11-02T{hour:02}:00:00Z,{1 + hour}\n" for hour in range(3))
    (tmp_path / "demand.csv").write_text(f"time,rate_rps\n{hours}")
    steps = "".join(f"2026-11-02T00:{5 * k:02}:00Z,1\n" for k in range(12))
    (tmp_path / "rates.csv").write_text(f"time,rate_rps\n{steps}")
    return tmp_path


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program where SkyPilot cannot be imported: it would take its time, and a server."""
    command = [sys.executable, "-c", NO_SKY, *arguments]
    environment = {"MELANGE_SKY_HOME": str(home_dir()), "PYTHONPATH": str(ROOT), **SECRETS}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **environment},
    )


def test_every_command_is_here() -> None:
    assert {name.split()[0] for name in CALLS} == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_it_logs_its_steps_and_stdout_stays_clean(folder: Path, name: str) -> None:
    done = call(folder, "-vv", *CALLS[name])
    assert done.returncode == REFUSED.get(name, 0), done.stderr
    lines = [line for line in done.stderr.splitlines() if LINE.match(line)]
    assert any(line.startswith("INFO ") for line in lines), done.stderr
    assert not any(LINE.match(line) for line in done.stdout.splitlines())
    if "json" in CALLS[name] and done.returncode == 0:
        json.loads(done.stdout)
    for value in SECRETS.values():
        assert value not in done.stderr + done.stdout


def test_once_tells_the_counts_and_twice_each_of_them(folder: Path) -> None:
    silent, once, twice = (
        call(folder, *flags, *CALLS["plan"]).stderr for flags in ((), ("-v",), ("-vv",))
    )
    assert not any(LINE.match(line) for line in silent.splitlines())
    assert "DEBUG" not in once and "DEBUG" in twice
    for words in (
        "read spec.yaml: 1 models, chat",
        "offline: no price source is asked",
        "offers match",
        "options built",
        "options dominated",
        "solved: $",
        "wrote 3 files to chat-plan",
    ):
        assert words in once, once
    assert re.search(r"DEBUG melange_sky\S+: dominated: a10g", twice)
    assert re.search(r"DEBUG melange_sky\S+: aws/\S+ g5\S+, on demand: \$", twice)
