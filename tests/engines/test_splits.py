"""How the servers of a split are started: by the very shell text, with stand-ins for the programs only."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from melange_sky.engines import ENGINES, EngineChoice, Replica
from melange_sky.models import find_model
from tests.factories import make_engine, make_option

VLLM, SGLANG = ENGINES["vllm"], ENGINES["sglang"]
DENSE, MOE = "meta-llama/Llama-3.1-8B-Instruct", "mistralai/Mixtral-8x7B-Instruct-v0.1"


def replica(model: str, gpus: int, args: tuple[str, ...] = (), **split: Any) -> Replica:
    settings = make_engine(kv_cache_tokens=100_000, **split)
    option = make_option(accelerator="H100", accelerator_count=gpus, engine=settings)
    choice = EngineChoice(args=args)
    return Replica(model=model, choice=choice, option=option, shape=find_model(model), port=8000)


def flags_of(words: list[str]) -> dict[str, str]:
    """Return each flag with its value, empty where it has none."""
    found = {}
    for at, word in enumerate(words):
        if word.startswith("--"):
            after = words[at + 1] if at + 1 < len(words) else "--"
            found[word] = "" if after.startswith("--") else after
    return found


STAND_IN = """\
#!{python}
import json, os, sys, time
line = json.dumps([os.environ.get("CUDA_VISIBLE_DEVICES"), sys.argv[1:]])
with open(os.environ["STARTED"], "a", encoding="utf-8") as out:
    out.write(line + "\\n")
time.sleep(float(os.environ.get("LASTS", "0")))
"""


def run(text: str, folder: Path, **env: str) -> tuple[list[tuple[str | None, list[str]]], int]:
    """Run shell text with a stand-in `vllm`; return (visible GPUs, words) of each start, and the exit code."""
    started = folder / "started"
    started.touch()
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, content in {
        "vllm": STAND_IN.format(python=sys.executable),
        # answers a server's health once every server has started
        "curl": '#!/bin/bash\n[ "$(wc -l < "$STARTED")" -ge "$SERVERS" ]\n',
        "haproxy": '#!/bin/bash\ncp "${@: -1}" "$HOME/seen.cfg"\nsleep "${PROXY_LASTS:-0}"\n',
    }.items():
        (programs / name).write_text(content, encoding="utf-8")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", text],
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(folder),
            "STARTED": str(started),
            **env,
        },
        timeout=60,
        check=False,
    )
    rows = [json.loads(line) for line in started.read_text("utf-8").splitlines()]
    return [(visible, words) for visible, words in rows], done.returncode


def test_engines_of_a_dense_model_share_one_server() -> None:
    command = VLLM.serve_command(replica(DENSE, 8, tensor_parallel=2, data_parallel=4))
    assert command.servers is None
    told = flags_of(list(command.flag_words))
    assert (told["--tensor-parallel-size"], told["--data-parallel-size"]) == ("2", "4")
    assert told["--port"] == "8000"


@pytest.mark.parametrize(
    ("tensor", "count", "visible"),
    [
        (1, 4, ["0", "1", "2", "3"]),
        (2, 4, ["0,1", "2,3", "4,5", "6,7"]),
        (4, 2, ["0,1,2,3", "4,5,6,7"]),
    ],
)
def test_copies_of_a_mixture_of_experts_are_servers_behind_one_port(
    tmp_path: Path, tensor: int, count: int, visible: list[str]
) -> None:
    args = ("--served-model-name", "it's mixed")
    text = VLLM.serve_command(
        replica(MOE, tensor * count, args, tensor_parallel=tensor, data_parallel=count)
    ).as_shell()
    started, code = run(text, tmp_path, SERVERS=str(count), LASTS="30")
    assert code == 1  # the proxy's stand-in ended, and so the replica did
    assert sorted(gpus or "" for gpus, _ in started) == visible
    ports = []
    for _, words in started:
        told = flags_of(words)
        assert words[:2] == ["serve", MOE]
        assert told["--tensor-parallel-size"] == str(tensor)
        assert told["--host"] == "127.0.0.1" and told["--served-model-name"] == "it's mixed"
        assert "--data-parallel-size" not in told and "--enable-expert-parallel" not in told
        ports.append(int(told["--port"]))
    assert sorted(ports) == [8001 + i for i in range(count)]
    proxy = (tmp_path / "seen.cfg").read_text("utf-8")
    assert re.findall(r"server s\d+ 127\.0\.0\.1:(\d+)", proxy) == [str(p) for p in sorted(ports)]
    assert "bind :8000\n" in proxy and f"nbsrv(servers) lt {count}" in proxy
    assert "balance leastconn" in proxy and "httpchk GET /health" in proxy
    assert "option http-no-delay" in proxy  # else the median token of a stream comes 0.1 s late


def test_the_replica_ends_with_any_of_its_servers(tmp_path: Path) -> None:
    text = VLLM.serve_command(replica(MOE, 2, data_parallel=2)).as_shell()
    started, code = run(text, tmp_path, SERVERS="2", LASTS="1", PROXY_LASTS="30")
    assert len(started) == 2 and code == 1


def test_attention_copies_with_experts_spread_are_one_server() -> None:
    shape = {"tensor_parallel": 2, "data_parallel": 4, "expert_parallel": True}
    command = VLLM.serve_command(replica(MOE, 8, **shape))
    assert command.servers is None
    told = flags_of(list(command.flag_words))
    assert told["--tensor-parallel-size"] == "2" and told["--data-parallel-size"] == "4"
    assert told["--enable-expert-parallel"] == ""
    other = flags_of(list(SGLANG.serve_command(replica(MOE, 8, **shape)).flag_words))
    assert (other["--tp-size"], other["--ep-size"], other["--attn-dp-size"]) == ("8", "8", "4")
    assert "--dp-size" not in other
    # that server divides its most running requests over the engines
    assert int(other["--max-running-requests"]) == 4 * int(told["--max-num-seqs"])


def test_copies_of_a_mixture_of_experts_are_the_other_engines_own() -> None:
    shape = {"tensor_parallel": 1, "data_parallel": 8}
    command = SGLANG.serve_command(replica(MOE, 8, **shape))
    told = flags_of(list(command.flag_words))
    assert command.servers is None and (told["--tp-size"], told["--dp-size"]) == ("1", "8")


@pytest.mark.parametrize(
    "split",
    [
        {"tensor_parallel": 8, "pipeline_parallel": 2, "nodes": 2},
        {"data_parallel": 8, "expert_parallel": True},
    ],
)
def test_memory_is_left_to_the_server_where_a_gpu_holds_no_tensor_groups_part(split: Any) -> None:
    """A share counted for the tensor group alone would be over a GPU's memory, and no server starts so."""
    told = flags_of(list(SGLANG.serve_command(replica(MOE, 8, **split)).flag_words))
    assert "--mem-fraction-static" not in told


@pytest.mark.parametrize("rank", [0, 1])
def test_each_node_learns_its_rank_and_the_head(tmp_path: Path, rank: int) -> None:
    shape = {"tensor_parallel": 8, "pipeline_parallel": 2, "nodes": 2}
    command = VLLM.serve_command(replica(DENSE, 8, **shape))
    env = {"SKYPILOT_NODE_RANK": str(rank), "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.9"}
    ((_, words),), code = run(command.as_shell(), tmp_path, **env)
    told = flags_of(words)
    assert code == 0
    assert (told["--pipeline-parallel-size"], told["--nnodes"]) == ("2", "2")
    assert (told["--node-rank"], told["--master-addr"]) == (str(rank), "10.0.0.7")
    assert ("--headless" in told) == (rank > 0)
    other = SGLANG.serve_command(replica(DENSE, 8, **shape))
    assert flags_of(list(other.flag_words))["--nnodes"] == "2"
    assert '--dist-init-addr "$(echo "$SKYPILOT_NODE_IPS" | head -n 1):20000"' in other.ending


@pytest.mark.parametrize("engine", [VLLM, SGLANG], ids=lambda engine: engine.name)
def test_a_plain_replica_says_nothing_of_other_ways(engine: Any) -> None:
    command = engine.serve_command(replica(MOE, 2, tensor_parallel=2))
    said = " ".join(command.flag_words) + command.ending
    for word in ("pipeline", "pp-size", "data-parallel", "dp-size", "expert", "ep-size", "node"):
        assert word not in said


@pytest.mark.parametrize("flag", ["--nnodes", "-n", "--node-rank", "-dpl", "--headless"])
def test_what_a_plan_decides_cannot_be_given(flag: str) -> None:
    assert "the plan decides it" in (VLLM.flags.refusal(flag) or "")
