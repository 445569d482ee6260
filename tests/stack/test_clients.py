"""Clients that people use, streaming and not, against a real vLLM behind the gateway."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from melange_sky.planfile import dump_plan
from melange_sky.plans import Allocation, Plan
from tests.factories import make_capacity, make_engine, make_option, make_plan, make_workload
from tests.gateway.test_command import Running
from tests.stack.vllm_server import vllm_server

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

HERE = Path(__file__).resolve().parent
KEY = "sk-client-3141"
CLIENTS = Path(os.environ.get("CLIENTS_VENV", HERE.parents[1] / ".venv-clients"))
WROTE = {
    "chat": 8,
    "chat stream counted": 8,
    "responses": 8,
    "litellm": 8,
    "langchain": 8,
    "anthropic": 8,
    "batch": 3,
}
STREAMED = ("chat stream", "litellm stream", "langchain stream", "anthropic stream")


def plan_of(model: str) -> Plan:
    """A plan of one option that the tiny server stands for."""
    option = make_option("tiny", engine=make_engine(max_num_seqs=4, max_model_len=2048))
    capacity = make_capacity([[10.0]], option)
    share = ((1.0,),)
    return make_plan(
        model=model,
        workload=make_workload([[1.0]], input_edges=(0, 2048), output_edges=(0, 1024)),
        candidates=(capacity,),
        allocations=(
            Allocation(
                candidate=capacity, instances=1, load_fraction=0.1, rate_rps=1.0, shares=share
            ),
        ),
        baselines=(),
    )


TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}assistant"


@pytest.fixture(scope="module")
def gateway(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("clients")
    (folder / "plan.json").write_text(dump_plan(plan_of("tiny")), encoding="utf-8")
    (folder / "chat.jinja").write_text(TEMPLATE, encoding="utf-8")
    flags = ("--chat-template", str(folder / "chat.jinja"))
    with vllm_server(model, folder / "vllm.log", *flags) as server:
        running = Running(
            str(folder / "plan.json"), "--backend", f"tiny={server}", MELANGE_SKY_API_KEY=KEY
        )
        yield running.url
        assert running.end() == 0
    assert "Traceback" not in running.said


def brought(*command: str, folder: Path | None = None) -> dict[str, object]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    print(found)
    return found


def test_python_clients(gateway: str) -> None:
    if not (CLIENTS / "bin/python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(CLIENTS)], check=True)
        wanted = ["openai", "litellm", "langchain-openai", "anthropic"]
        pip = [str(CLIENTS / "bin/python"), "-m", "pip", "install", "--quiet", *wanted]
        subprocess.run(pip, check=True, timeout=400)
    found = brought(str(CLIENTS / "bin/python"), str(HERE / "clients.py"), gateway, KEY, "tiny")
    assert {name: found[name] for name in WROTE} == WROTE
    for name in STREAMED:
        count = found[name]
        assert isinstance(count, int) and count > 0, found
    assert found["responses stream"] in (["response.completed"], ["response.incomplete"])
    assert found["models"] == ["tiny"] and found["model"] == "tiny"
    assert found["unknown model"] == "model_not_found"
    assert str(found["embeddings"]).startswith("404: "), found


def test_the_vercel_ai_sdk(gateway: str, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine")
    shutil.copy(HERE / "clients.mjs", tmp_path)
    wanted = ["ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible"]
    quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(["npm", "install", *quiet, *wanted], check=True, cwd=tmp_path, timeout=300)
    found = brought("node", "clients.mjs", gateway, KEY, "tiny", folder=tmp_path)
    assert found["ai chat"] == 8
    assert found["ai responses"] == 8
    pieces = found["ai chat stream"]
    assert isinstance(pieces, int) and pieces > 0, found
