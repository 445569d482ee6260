"""Running `melange-sky profile run` on the real server, for tests and benchmarks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melange_sky.profiletable import ProfileTable, load_tables
from tests.stack.vllm_server import ROOT, VENV

INPUTS, OUTPUTS = (32, 128, 512), (8, 16, 32)
SIZES = {(i, o) for i in INPUTS for o in OUTPUTS}


def command(url: str, folder: Path, *more: str, inputs: Sequence[int] = INPUTS) -> list[str]:
    """Return the command that measures `inputs` × OUTPUTS.

    The server has four slots, so the limits bind where it saturates: there rates are steep in latency.
    A probe in which this client was late by half the TTFT limit says nothing of the server.
    """
    return [
        sys.executable,
        "-m",
        "melange_sky",
        "profile",
        "run",
        "--url",
        url,
        "--model",
        "tiny",
        "--accelerator",
        "A10G:1",
        "--input",
        ",".join(map(str, inputs)),
        "--output",
        ",".join(map(str, OUTPUTS)),
        "--ttft-ms",
        "500",
        "--tpot-ms",
        "100",
        "--attainment",
        "0.9",
        "--max-lateness-ms",
        "250",
        "--tolerance",
        "0.25",
        "--max-requests",
        "80",
        "-o",
        str(folder),
        *more,
    ]


def run(url: str, folder: Path, *more: str, inputs: Sequence[int] = INPUTS) -> Any:
    """Profile and return the JSON document."""
    done = subprocess.run(
        command(url, folder, "--format", "json", *more, inputs=inputs),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def run_and_kill(
    url: str, folder: Path, cells: int, inputs: Sequence[int] = INPUTS
) -> ProfileTable:
    """Profile, kill -9 once that many cells are done, and return what is on disk."""
    process = subprocess.Popen(
        command(url, folder, inputs=inputs),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        tables = load_tables(folder)
        if tables and len(tables[0].cells) >= cells:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    (table,) = load_tables(folder)
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two profiles of one server with other prompts and arrivals; `left` is the first when killed."""

    first: Path
    one: Any
    two: Any
    left: ProfileTable


def run_pair(url: str, first: Path, second: Path) -> Pair:
    """Profile twice, row by row in turn, so that both see the machine at the same times.

    The first profile is killed in the middle of the grid and goes on.
    """
    run(url, first, inputs=INPUTS[:1])
    run(url, second, "--seed", "100", inputs=INPUTS[:1])
    left = run_and_kill(url, first, cells=4, inputs=INPUTS[:2])
    run(url, first, inputs=INPUTS[:2])
    run(url, second, "--seed", "100", inputs=INPUTS[:2])
    one = run(url, first)
    two = run(url, second, "--seed", "100")
    return Pair(first=first, one=one, two=two, left=left)


def bench_flags(model: Path) -> list[str]:
    return [
        "--check-with",
        "vllm-bench",
        "--vllm",
        str(VENV / "bin/vllm"),
        "--tokenizer",
        str(model),
    ]


def rates(document: Any) -> dict[tuple[int, int], float]:
    return {
        (c["input_tokens"], c["output_tokens"]): c["max_rate_rps"]
        for c in document["cells"]
        if c["max_rate_rps"] is not None
    }


def plan_with(table: Path, model: Path, folder: Path) -> Any:
    """Plan one request size, 512 in and 32 out, with the table in the profile store; return plan.json."""
    store = folder / "home/profiles"
    store.mkdir(parents=True)
    shutil.copy(table, store)
    spec = folder / "tiny.yaml"
    spec.write_text(
        f"name: tiny\nmodel: tiny\nmodel_config: {model / 'config.json'}\n"
        "slo: {ttft_ms: 500, tpot_ms: 100, attainment: 0.9}\n"
        "workload: {rate_rps: 50, histogram: "
        "{input_edges: [0, 512], output_edges: [0, 32], weights: [[1]]}}\n"
        "resources: {accelerators: ['A10G:1'], infra: [aws]}\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "melange_sky",
            "plan",
            str(spec),
            "--offline",
            "-o",
            str(folder / "plan"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
        env={**os.environ, "MELANGE_SKY_HOME": str(folder / "home")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "plan/plan.json").read_text())
