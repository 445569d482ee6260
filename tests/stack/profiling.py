"""Running `melange-sky profile run` on the real server, for tests and benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from melange_sky.profiletable import ProfileTable, load_tables
from tests.stack.vllm_server import ROOT, VENV

INPUTS, OUTPUTS = (32, 128, 512), (8, 16, 32)
SIZES = {(i, o) for i in INPUTS for o in OUTPUTS}


def command(url: str, folder: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "melange_sky", "profile", "run", "--url", url, "--model", "tiny",
        "--accelerator", "A10G:1", "--input", ",".join(map(str, INPUTS)),
        "--output", ",".join(map(str, OUTPUTS)), "--ttft-ms", "500", "--tpot-ms", "100",
        "--attainment", "0.9", "--max-lateness-ms", "1000", "--tolerance", "0.25",
        "--max-requests", "240", "-o", str(folder), *more,
    ]  # fmt: skip


def run(url: str, folder: Path, *more: str) -> Any:
    """Profile and return the JSON document."""
    done = subprocess.run(
        command(url, folder, "--format", "json", *more), capture_output=True, text=True,
        timeout=600, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def run_and_kill(url: str, folder: Path, cells: int) -> ProfileTable:
    """Profile, kill -9 once that many cells are done, and return what is on disk."""
    process = subprocess.Popen(
        command(url, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
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
