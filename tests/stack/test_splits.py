"""How vLLM itself takes the commands of every split: its parser and checks, and where the CPU build can, it runs.

The CPU build cannot exchange tokens between data-parallel engines of a mixture of experts, so that
spread experts are only parsed, configured and checked here. `haproxy` must be on the PATH for copies of
a mixture of experts (the Debian package of that name).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from melange_sky.engines import ENGINES, EngineChoice, Replica
from melange_sky.models import find_model
from tests.engines.test_splits import DENSE, MOE, run
from tests.factories import make_engine, make_option
from tests.stack.vllm_server import ENVIRONMENT, ROOT, START_S, VENV, free_port, make_model

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

ARGS = (
    *("--load-format", "dummy", "--dtype", "float32", "--kv-cache-memory-bytes", "64M"),
    *("--max-num-batched-tokens", "1024", "--no-enable-prefix-caching"),
    *("--served-model-name", "tiny"),
)
"""What the CPU needs; the limits of sequences and length are those of the plan."""


@pytest.fixture(scope="module")
def models(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dense model and a mixture of eight experts, two query heads each and so many layers."""
    mixed: Path = tmp_path_factory.mktemp("mixed") / "tiny"
    make_model(mixed)
    config = json.loads((mixed / "config.json").read_text("utf-8"))
    config |= {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "num_key_value_heads": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
    }
    (mixed / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return {DENSE: model, MOE: mixed}


def shell_of(
    models: Mapping[str, Path], kind: str, gpus: int, port: int = 8000, **split: Any
) -> str:
    """Return the start of a replica, with a tiny model in the place of the planned one."""
    settings = make_engine(**({"max_model_len": 2048, "max_num_seqs": 4} | split))
    option = make_option(accelerator="H100", accelerator_count=gpus, engine=settings)
    replica = Replica(
        model=str(models[kind]),
        choice=EngineChoice(args=ARGS),
        option=option,
        shape=find_model(kind),
        port=port,
    )
    return ENGINES["vllm"].serve_command(replica).as_shell()


SPLITS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "copies of a dense model": (DENSE, 8, {"data_parallel": 8}),
    "tensor copies": (DENSE, 8, {"tensor_parallel": 2, "data_parallel": 4}),
    "stages": (DENSE, 3, {"pipeline_parallel": 3}),
    "stages of tensor groups": (DENSE, 8, {"tensor_parallel": 2, "pipeline_parallel": 4}),
    "copies of experts": (MOE, 4, {"tensor_parallel": 2, "data_parallel": 2}),
    "spread experts": (MOE, 8, {"data_parallel": 8, "expert_parallel": True}),
    "spread over tensor groups": (
        MOE,
        8,
        {"tensor_parallel": 2, "data_parallel": 4, "expert_parallel": True},
    ),
    "spread in one engine": (MOE, 2, {"tensor_parallel": 2, "expert_parallel": True}),
    "two nodes": (DENSE, 2, {"tensor_parallel": 2, "pipeline_parallel": 2, "nodes": 2}),
    "spread over two nodes": (
        MOE,
        8,
        {"data_parallel": 16, "expert_parallel": True, "nodes": 2},
    ),
}


@pytest.fixture(scope="module")
def read(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """What vLLM makes of each split's commands, one per server or node."""
    asked: list[tuple[str, list[str]]] = []
    for name, (kind, gpus, split) in SPLITS.items():
        text = shell_of(models, kind, gpus, **split)
        for rank in range(split.get("nodes", 1)):
            env = {"SKYPILOT_NODE_RANK": str(rank), "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.9"}
            servers = str(split.get("data_parallel", 1))
            started, _ = run(
                text, tmp_path_factory.mktemp("run"), SERVERS=servers, LASTS="2", **env
            )
            asked += [(name, words[1:]) for _, words in started]
    done = subprocess.run(
        [VENV / "bin/python", ROOT / "tests/stack/parallel_config.py"],
        input=json.dumps([words for _, words in asked]),
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    rows = [line[5:] for line in done.stdout.splitlines() if line.startswith("READ ")]
    found: dict[str, list[dict[str, Any]]] = {}
    for (name, _), row in zip(asked, rows, strict=True):
        found.setdefault(name, []).append(json.loads(row))
    return found


@pytest.mark.parametrize("name", SPLITS)
def test_vllm_reads_the_split_that_was_planned(
    read: dict[str, list[dict[str, Any]]], name: str
) -> None:
    kind, gpus, split = SPLITS[name]
    nodes, spread = split.get("nodes", 1), split.get("expert_parallel", False)
    own_servers = kind == MOE and split.get("data_parallel", 1) > 1 and not spread
    data = 1 if own_servers else split.get("data_parallel", 1)
    assert len(read[name]) == nodes * (split["data_parallel"] if own_servers else 1)
    for rank, got in enumerate(read[name]):
        assert "error" not in got, got
        assert got["tensor_parallel_size"] == split.get("tensor_parallel", 1)
        assert got["pipeline_parallel_size"] == split.get("pipeline_parallel", 1)
        assert got["data_parallel_size"] == data
        assert got["enable_expert_parallel"] == spread
        assert got["is_moe_model"] == (kind == MOE)
        # the workers that this machine starts take its GPUs, no more and no fewer
        here = got["local_world_size"] * got["data_parallel_size_local"]
        assert here == gpus // (split["data_parallel"] if own_servers else 1)
        assert got["nnodes"] == nodes
        if nodes > 1:
            assert (got["node_rank"], got["headless"]) == (rank, rank > 0)
            assert got["master_addr"] == "10.0.0.7"


@contextlib.contextmanager
def started(text: str, folder: Path, port: int, *nodes: Mapping[str, str]) -> Iterator[str]:
    """Run the start on every node; yield the address of the replica once it is ready."""
    base = {**os.environ, **ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1"}
    base |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    base |= {"PATH": f"{VENV / 'bin'}:{os.environ['PATH']}", "HOME": str(folder)}
    running = []
    try:
        for node in nodes or ({},):
            with (folder / f"node{len(running)}.log").open("wb") as log:
                running.append(
                    subprocess.Popen(
                        ["bash", "-c", text],
                        env={**base, **node},
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        _wait(f"http://127.0.0.1:{port}/health", running, folder)
        yield f"http://127.0.0.1:{port}"
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(address: str, running: list[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        ended = [process.returncode for process in running if process.poll() is not None]
        if ended:
            logs = "\n".join(path.read_text("utf-8")[-3000:] for path in folder.glob("*.log"))
            pytest.fail(f"the start ended with {ended}:\n{logs}")
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.5)
    pytest.fail(f"not ready after {START_S:g} s")


def ask(address: str, tokens: int = 8) -> str:
    """Return what the model says to a prompt of three tokens, without any chance."""
    body = {
        "model": "tiny",
        "prompt": [5, 6, 7],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    request = urllib.request.Request(
        f"{address}/v1/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        said: str = json.load(answer)["choices"][0]["text"]
    return said


def served(address: str) -> list[float]:
    """Return how many requests each engine of a server has answered."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return [
        float(line.split()[-1])
        for line in lines
        if line.startswith("vllm:request_success_total") and 'reason="length"' in line
    ]


@pytest.mark.long
def test_copies_of_a_dense_model_share_the_requests(
    models: dict[str, Path], tmp_path: Path
) -> None:
    port = free_port()
    text = shell_of(models, DENSE, 2, port, data_parallel=2)
    with started(text, tmp_path, port) as address:
        for _ in range(8):
            ask(address, 2)
        shares = served(address)
    assert sum(shares) == 8 and min(shares) >= 3


@pytest.mark.long
def test_stages_over_two_nodes_answer(models: dict[str, Path], tmp_path: Path) -> None:
    """Two starts on one machine, as on the nodes of one replica: the first one answers."""
    port = free_port()
    text = shell_of(models, DENSE, 1, port, pipeline_parallel=2, nodes=2)
    ips = "127.0.0.1\n127.0.0.1"
    nodes = [{"SKYPILOT_NODE_RANK": str(k), "SKYPILOT_NODE_IPS": ips} for k in (0, 1)]
    with started(text, tmp_path, port, *nodes) as address:
        assert len(ask(address).split()) == 8
        assert served(address) == [1.0]


@pytest.mark.long
@pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy (apt install haproxy)")
def test_copies_of_a_mixture_of_experts_share_the_requests(
    models: dict[str, Path], tmp_path: Path
) -> None:
    port = free_port()
    text = shell_of(models, MOE, 2, port, data_parallel=2)
    text = text.replace("--port", "--enforce-eager --port")
    with started(text, tmp_path, port) as address:
        for _ in range(8):
            ask(address, 2)
        shares = [served(f"http://127.0.0.1:{port + 1 + k}") for k in (0, 1)]
        assert sum(map(sum, shares)) == 8 and min(map(sum, shares)) >= 3
